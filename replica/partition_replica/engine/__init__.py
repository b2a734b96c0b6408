"""The consensus engine as the runtime sees it: raft-rs (partition_raft) over our log.

Nothing here decides anything: it translates rows to entries and back.
"""
