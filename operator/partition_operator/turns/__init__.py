"""Turns: the queue gives a key, its turn looks at the cluster and takes one step. There is a module
for the queue, one for each kind of key, and one for the executor of a Partition's steps."""
