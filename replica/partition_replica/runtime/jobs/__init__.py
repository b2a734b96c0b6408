"""Work in processes of their own, beside a replica that serves: snapshot jobs and verification."""
