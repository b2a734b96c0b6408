"""gRPC and HTTP: the services, the client for the other members, the channels.

This package authorizes callers, translates errors and moves bytes; it makes no other decisions.
Only `channels` creates channels and credentials.
"""
