"""The consensus engine behind one interface (`port`): raft-rs (partition_raft) over our log, or the
standalone engine.

`raft` makes no decisions of its own: it translates log rows to raft-rs's entries and back.
"""
