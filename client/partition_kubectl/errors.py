"""The plugin's errors and exit codes.

PluginError            exit code
├── UsageError         2  the command line is wrong; nothing was sent
├── Refused            1  the cluster refused, or the object does not allow it
│   ├── NotFound       1  the object does not exist
│   └── Forbidden      1  the user has no right to do it
├── NotAsWanted        3  the answer is bad news: not Ready, a disk that is too slow
├── TimedOut           4  the command gave up waiting; what it asked for may still happen
└── Unreachable        5  kubectl is missing, or the API server does not answer
"""

EXIT_DONE = 0
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141


class PluginError(Exception):
    """Base class. Its text is one line for the user."""

    code = 1


class UsageError(PluginError):
    code = 2


class Refused(PluginError):
    pass


class NotFound(Refused):
    pass


class Forbidden(Refused):
    pass


class NotAsWanted(PluginError):
    code = 3


class TimedOut(PluginError):
    code = 4


class Unreachable(PluginError):
    code = 5
