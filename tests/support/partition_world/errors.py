"""How a step in the model may end."""


class Violation(AssertionError):
    """Something that must never happen."""


class Failed(Exception):
    """A step that did not succeed. The operator observes anew."""


class Refused(Failed):
    """A replica refused a command, or the budget an eviction."""


class RefusedWrite(Failed):
    """The API server refused the content of an object."""


class Conflict(Failed):
    """The object is not the observed one."""
