"""Commands on stored snapshots: take, restore, verify, list, delete."""
