"""The errors and the warning that this package raises itself."""


class NamespaceError(Exception):
    """A namespace cannot do what was asked. The message says why.

    Likely causes: a foreign value under the counter's key, or a command of the real
    client that cannot be namespaced (see `CommandRefusedError`).
    """


class NamespaceUnavailable(NamespaceError):  # noqa: N818  # its public name
    """The counter server gave no usable answer.

    Likely cause: memcached is down, or the client is inside its retry window. If
    `invalidate_namespace()` raises this, the namespace may not have been invalidated.
    """


class CommandRefusedError(NamespaceError, AttributeError):
    """The real client has this command, but it cannot be namespaced.

    It is also an AttributeError, so `hasattr()` returns False. Code that uses
    `hasattr()` to find out what a client can do then works as with any other client.
    """


class UnsupportedClientError(NamespaceError):
    """The wrapped backend's client is from a library that has no adapter.

    Exclude its alias from the isolation of the run, or do not wrap it.
    """


class NamespaceWarning(UserWarning):
    """A test run uses a memcached that it shares with others, without a namespace."""
