"""The errors and the warning that this package raises itself."""


class NamespaceError(Exception):
    """A namespace cannot do what it was asked for. The message says why.

    Likely causes: a foreign value under the counter's key, or a command of the real
    client that cannot be namespaced (see `CommandRefusedError`).
    """


class NamespaceUnavailable(NamespaceError):  # noqa: N818  # its public name
    """The counter server gave no usable answer.

    Likely cause: memcached is down, or the client is inside its retry window. When
    `invalidate_namespace()` raises this, the namespace may still be as it was.
    """


class CommandRefusedError(NamespaceError, AttributeError):
    """The real client has this command, but it cannot be namespaced.

    It is an AttributeError as well, so that `hasattr()` returns False for code that
    looks whether the client has the command.
    """


class NamespaceWarning(UserWarning):
    """A test run reaches a memcached that it shares with others, in no namespace."""
