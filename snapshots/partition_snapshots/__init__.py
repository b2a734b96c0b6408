"""Snapshots of a partition in a store: a directory, or a prefix in an S3-compatible bucket.

What a store looks like, and why two processes that use it can't harm each other, stands in
docs/snapshot_format.md. This package writes snapshots (`take`), lists and reads them (`read`),
proves them (`verify`) and removes them (`collect`). It knows rows and files as bytes only: what a
partition is, and what a row means, it learns from nobody.
"""
