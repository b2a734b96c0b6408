"""Turns: the queue hands out a key, and the key's turn observes the cluster and takes one step.

One module contains the queue, one the executor of a Partition's steps, and each kind of key has
one.
"""
