"""Commands on the volume of a stopped replica: inspect, verify, replication on and off."""
