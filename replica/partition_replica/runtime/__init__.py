"""What turns the parts into a replica: the Raft loop, the applier, proposals, payloads, captures of
the state, snapshots between members, snapshot jobs (processes of their own), verification.

Everything here runs on one event loop; the disk has two threads of its own (the log's writer, the
state's applier), each strictly first in, first out. Nothing here knows gRPC.
"""
