"""What the commands do with one volume: verify it, switch its replication on or off, or ask the
replica that serves it."""
