"""The operator: reconciles Partitions into StatefulSets of log-store replicas, and
PartitionSnapshots into jobs on these replicas.

Layers, from the top (import-linter checks them): __main__, assembly, handlers, turns, clients,
reconcile, resources, api, errors. `config`, `metrics` and `failpoints` are outside the layers.
`api`, `resources` and `reconcile` are pure: they take observed values and return what to do.
"""

__version__ = "0.1.0"
