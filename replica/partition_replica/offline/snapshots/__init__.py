"""Commands on stored snapshots: publish, restore, verify, list, prune."""
