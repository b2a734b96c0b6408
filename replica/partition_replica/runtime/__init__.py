"""The behaviour of a replica: the Raft loop, the applier, proposals, payloads, captures of the
state, state transfers, snapshot jobs and verification (both in their own processes).

Everything here runs on one event loop. Two threads work on the disk, each strictly first in, first
out: the log's writer and the state's applier. Nothing here depends on gRPC.
"""
