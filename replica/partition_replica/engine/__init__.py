"""The consensus engine as the runtime sees it (`port`): raft-rs (partition_raft) over our log, or
none, for a partition that is not replicated.

Nothing here decides anything for Raft: `raft` translates rows to entries and back.
"""
