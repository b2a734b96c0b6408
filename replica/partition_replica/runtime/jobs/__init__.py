"""Work in separate processes while the replica serves: snapshot jobs and verification."""
