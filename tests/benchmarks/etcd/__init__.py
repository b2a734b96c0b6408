"""Ours and etcd side by side: `make bench-etcd`. compare.py says what is compared, and how."""
