"""Commands on a volume that no process serves: import and export of the seed's log of directories.

Each takes what it needs as open objects or paths, says how far it is through a callback, and
returns a report; the command line prints it. An import writes to a new volume only, and leaves it
either as it was or complete; an export only reads the volume. Nothing here talks to a network, and
nothing that serves imports this package.
"""
