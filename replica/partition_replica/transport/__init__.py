"""gRPC and HTTP: the services, the client of the other members, the channels.

Decides nothing: it checks who calls, translates errors, and moves bytes. `channels` is the one
place where channels and credentials are made.
"""
