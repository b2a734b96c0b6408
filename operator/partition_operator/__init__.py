"""The operator: reconciles Partitions into StatefulSets of log-store replicas, and
PartitionSnapshots into jobs of theirs.

Layers, from the top (import-linter holds them): __main__, assembly, handlers, turns, clients,
reconcile, resources, api, errors. `config`, `metrics` and `failpoints` stand beside them.
`api`, `resources` and `reconcile` are pure: what is seen goes in, what is to be done comes out.
"""

__version__ = "0.1.0"
