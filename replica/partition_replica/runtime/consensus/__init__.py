"""The way from a proposal to an applied entry: the Raft loop, the log's writer, the applier, the
callers that wait for them, and log compaction."""
