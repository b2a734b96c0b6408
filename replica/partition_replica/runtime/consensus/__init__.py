"""How a proposal becomes an applied entry: the Raft loop, the log's writer, the applier, what waits
for them, and the compaction of the log behind them."""
