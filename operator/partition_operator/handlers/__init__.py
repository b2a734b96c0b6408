"""The only place with @kopf.on: each handler enqueues a key, nothing else. kopf watches; it writes
nothing into our objects."""
