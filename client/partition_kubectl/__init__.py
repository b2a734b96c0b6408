"""`kubectl partition`, the plugin of kubectl for Partitions.

It calls the kubectl that started it, so kubeconfig, credentials and proxies are kubectl's business.
It imports Python's standard library alone: so it starts fast, and one file holds all of it
(`dev.plugin_archive`). It reads no Secret. It changes fields and annotations of the Partition that
users may change, too, and the operator acts.
"""

__version__ = "0.1.0"
