"""The only package that uses kopf. Each handler only enqueues a key. kopf watches, and writes
nothing into our objects."""
