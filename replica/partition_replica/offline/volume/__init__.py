"""Commands on one volume: verify it, enable or disable its replication, or call the replica that
serves it."""
