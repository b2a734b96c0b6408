"""The recovery of a group whose quorum is lost for good: one survivor becomes the only voter of a
new group. `finding` looks at the survivor and says what may be lost; `steps` recovers, in durable
steps that go on after a crash. docs/operations/lost_quorum.md is for those who need it.

Both the offline command and a starting replica use it, on a volume that no member runs on. It
decides nothing about other members: a new cluster ID keeps them out.
"""
