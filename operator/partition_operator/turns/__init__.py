"""Turns: a key comes from the queue, one look at the cluster, one step. A module for each kind of
key, and the executor of a Partition's steps."""
