"""The log-store sidecar: one replica of a partition.

Layers, from the top (import-linter holds them): assembly, runtime, (engine | storage | transport),
config, core, (errors | ids). `assembly` alone knows every part.
"""

__version__ = "0.1.0"
