"""Every decoder of bytes that a peer, a client or an imported log made: whatever comes, it answers
or raises what it says it raises, in memory bounded by the input.

FUZZ_EXAMPLES (default 50) is how many inputs each test tries; a failure prints how to get its
input again. `bombs` are inputs made to be expensive, in a process of their own each.
"""
