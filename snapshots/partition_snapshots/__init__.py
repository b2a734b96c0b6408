"""Snapshots of a partition in a store: a directory, or a prefix in an S3-compatible bucket.

docs/snapshot_format.md describes the layout of a store, and why two processes that use it can't
harm each other. This package takes snapshots (`take`), lists and reads them (`read`), verifies them
(`verify`) and deletes them (`collect`). It treats rows and files as bytes. Except for payload rows,
which name blobs, it does not interpret them.
"""
