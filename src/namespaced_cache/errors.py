"""The errors and the warning that are this package's own."""


class NamespaceError(Exception):
    """A namespace cannot do what was asked of it; the message says why.

    Likely causes: rubbish under the counter's key, or a verb of the real client
    that cannot be namespaced (see `VerbRefusedError`).
    """


class NamespaceUnavailable(NamespaceError):  # noqa: N818  # its public name
    """The server that keeps the namespace's counter gave no usable answer.

    Likely cause: memcached is down, or the client is inside its retry window. When
    `invalidate_namespace()` raises this, the namespace may still be as it was.
    """


class VerbRefusedError(NamespaceError, AttributeError):
    """The real client has this verb, but it cannot be namespaced.

    It is an AttributeError as well, so that `hasattr()` answers False and code that
    probes for a verb takes its other way.
    """


class NamespaceWarning(UserWarning):
    """A test run reaches a memcached that it shares with others, in no namespace."""
