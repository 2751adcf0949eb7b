"""What pymemcache and pylibmc do differently, said once for each.

Neither library is imported before a wrapped backend has made a client with it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from namespaced_cache.errors import NamespaceError
from namespaced_cache.keys import MAX_KEY_BYTES, Key

if TYPE_CHECKING:
    from namespaced_cache.piggyback import Request

logger = logging.getLogger("namespaced_cache")


class PyMemcache:
    """Clients from pymemcache: HashClient, Client, PooledClient and what derives."""

    #: The exceptions that mean "no such key"; `incr` and `decr` answer None instead.
    not_found: tuple[type[Exception], ...] = ()

    def is_away(self, error: Exception, verb: str) -> bool:
        """Tell whether the server is away: a second try would wait again."""
        import pymemcache  # noqa: PLC0415  # only where a backend has made a client

        closed = pymemcache.exceptions.MemcacheUnexpectedCloseError
        return isinstance(error, (OSError, closed))

    @property
    def not_a_number(self) -> tuple[type[Exception], ...]:
        """The exceptions of `incr` that mean "that is no number"."""
        import pymemcache  # noqa: PLC0415  # as above

        return (pymemcache.MemcacheClientError,)

    #: Names of what the `_many` verbs take after the keys, where we must look at it.
    many_parameters: Mapping[str, tuple[str, ...]] = {
        "get_many": ("gets",),
        "get_multi": ("gets",),
    }

    #: The name and place, among what follows the keys, of the parameter that says when
    #: an item expires.
    expiries: Mapping[str, tuple[str, int]] = {
        "set": ("expire", 1),
        "add": ("expire", 1),
        "replace": ("expire", 1),
        "cas": ("expire", 2),
        "touch": ("expire", 0),
        "set_many": ("expire", 0),
        "set_multi": ("expire", 0),
    }

    def key_limit(self, client: Any) -> int:
        """Return how many bytes the client leaves for a key."""
        return MAX_KEY_BYTES - len(client.key_prefix)

    def checks_keys(self, client: Any) -> bool:
        """Tell whether the client refuses a key that would end early: always."""
        return True

    def check(self, client: Any, key: Key) -> None:
        """Refuse a key that the client refuses, as it does."""
        from pymemcache.client.base import check_key_helper  # noqa: PLC0415  # as above

        check_key_helper(key, client.allow_unicode_keys, client.key_prefix)

    def request(self, client: Any, home: Any, key: str) -> Request | None:
        """Return the request for the counter that travels with this client's commands.

        None where it does not. `home` is the client that reaches the counter.
        """
        from namespaced_cache import piggyback  # noqa: PLC0415  # as above

        return piggyback.request(client, home, key)

    @property
    def call(self) -> Callable[..., Any]:
        """What calls a client's verb: see shortcuts.call."""
        from namespaced_cache import shortcuts  # noqa: PLC0415  # as above

        return shortcuts.call

    def break_off(self, client: Any) -> None:
        """Close connections on which a reply may be left that nobody reads."""
        client.close()

    def swap(self, client: Any, key: Key, old: object, new: int) -> None:
        """Put `new` in the place of `old`, if it is still there: two round trips."""
        found, token = client.gets(key) or (None, None)
        if token is not None and found == old:
            client.cas(key, new, token)

    def is_undecodable(self, error: Exception) -> bool:
        """Tell whether a read failed for the value alone."""
        import pymemcache  # noqa: PLC0415  # as above

        if type(error) is RuntimeError and str(error).startswith("Too many objects"):
            return False  # all connections of a pool are in use
        return not isinstance(error, (OSError, pymemcache.MemcacheError))

    def leave(self, client: Any) -> bool:
        """Let go of a client inherited over a fork; tell whether to use it again.

        `close()` closes this process's end alone; `quit()` would end the parent's
        connection too. A pool is emptied by hand and not to be used again, because
        another thread of the parent may have held its lock.
        """
        usable = True
        for member in getattr(client, "clients", {"": client}).values():
            pool = getattr(member, "client_pool", None)
            if pool is None:
                member.close()
            else:
                usable = False
                for connection in (*pool.used, *pool.free):
                    connection.close()
        return usable


class PyLibMC:
    """Clients from pylibmc."""

    many_parameters: Mapping[str, tuple[str, ...]] = {
        "get_multi": ("key_prefix",),
        "delete_multi": ("key_prefix",),
        "incr_multi": ("key_prefix", "delta"),
        "set_multi": ("time", "key_prefix", "min_compress_len", "compress_level"),
        "add_multi": ("time", "key_prefix", "min_compress_len", "compress_level"),
    }

    expiries: Mapping[str, tuple[str, int]] = {
        "set": ("time", 1),
        "add": ("time", 1),
        "replace": ("time", 1),
        "cas": ("time", 2),
        "touch": ("time", 0),
        "set_multi": ("time", 0),
        "add_multi": ("time", 0),
    }

    @property
    def not_found(self) -> tuple[type[Exception], ...]:
        """The exceptions that mean "no such key"."""
        import pylibmc  # noqa: PLC0415  # only where a backend has made a client

        return (pylibmc.NotFound,)

    def is_away(self, error: Exception, verb: str) -> bool:
        """Tell whether the server is away: a second try would wait again.

        A timeout has no class of its own: it comes as the base of them all. So does
        what `incr_multi` makes of a number that is none.
        """
        import pylibmc  # noqa: PLC0415  # as above

        if type(error) is pylibmc.Error:
            return verb != "incr_multi" and not self.is_undecodable(error)
        return isinstance(
            error,
            (
                pylibmc.ConnectionError,
                pylibmc.HostLookupError,
                pylibmc.NoServers,
                pylibmc.ReadError,
                pylibmc.ServerDead,
                pylibmc.ServerDown,
                pylibmc.SocketCreateError,
                pylibmc.UnixSocketError,
                pylibmc.UnknownReadFailure,
                pylibmc.WriteError,
            ),
        )

    @property
    def not_a_number(self) -> tuple[type[Exception], ...]:
        """The exceptions of `incr` that mean "that is no number".

        In the binary protocol libmemcached takes it for an outage, and so do we.
        """
        import pylibmc  # noqa: PLC0415  # as above

        return (pylibmc.ClientError,)

    def key_limit(self, client: Any) -> int:
        """Return how many bytes the client leaves for a key."""
        return MAX_KEY_BYTES

    def checks_keys(self, client: Any) -> bool:
        """Tell whether the client refuses a key that would end early.

        The binary protocol needs no check, because it carries a key's length. In the
        text protocol pylibmc sends any key as it is: `get("a b")` asks for two keys,
        and answers with the value of one that is in no namespace at all.
        """
        return bool(client.binary)

    def check(self, client: Any, key: Key) -> None:
        """Refuse nothing: see `checks_keys`."""

    def request(self, client: Any, home: Any, key: str) -> Request | None:
        """Return None: libmemcached sends one command and awaits its reply."""

    def call(self, client: Any, verb: str, _: object, *args: Any, **kwargs: Any) -> Any:
        """Call a client's verb."""
        return getattr(client, verb)(*args, **kwargs)

    def break_off(self, client: Any) -> None:
        """Do nothing: what is broken off in Python was complete in libmemcached."""

    def swap(self, client: Any, key: Key, old: object, new: int) -> None:
        """Put `new` in the place of `old`, if it is still there: two round trips.

        By a clone and so a connection of its own, because a client that was made
        without `cas` has no tokens.
        """
        swapping = client.clone()
        vars(swapping).update(vars(client))  # a subclass's own, for its serializer
        swapping.behaviors = {"cas": True}
        # As bytes, for the reason given in NamespacedClient.
        found, token = swapping.gets(key.encode() if isinstance(key, str) else key)
        if token is not None and found == old:
            with suppress(*self.not_found):  # gone meanwhile
                swapping.cas(key, new, token)

    def is_undecodable(self, error: Exception) -> bool:
        """Tell whether a read failed for the value alone."""
        import pylibmc  # noqa: PLC0415  # as above

        return not isinstance(error, pylibmc.Error) or str(error).startswith(
            ("Failed to decompress value", "unknown memcached key flags")
        )

    def leave(self, client: Any) -> bool:
        """Keep a client inherited over a fork, for ever, and not to use it again.

        When it is freed, libmemcached says `quit` on the socket that it shares with
        the parent, and the parent's connection breaks. One reference more than
        Python knows of keeps it from being freed, at exit too.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))
        return False


Library = PyMemcache | PyLibMC

_LIBRARIES: dict[str, Library] = {"pymemcache": PyMemcache(), "pylibmc": PyLibMC()}


@cache
def _find(kind: Any) -> Library | None:
    for base in kind.__mro__:
        library = _LIBRARIES.get(base.__module__.partition(".")[0])
        # A library has other things too, such as serializers.
        if library is not None and hasattr(kind, "disconnect_all"):
            return library
    return None


def _kind(value: object) -> Any:
    kind = type(value)
    # Tracers put a proxy before a client, which passes for what it wraps. No other is
    # asked, for a lazy object would come to be of it.
    return value.__class__ if hasattr(kind, "__wrapped__") else kind


def is_client(value: object) -> bool:
    """Tell whether this is a client of a library that we know."""
    return _find(_kind(value)) is not None


def of(client: object) -> Library:
    """Return what is special about the client's library.

    Raises NamespaceError for a client of any other library, because nobody has
    checked which of its verbs take keys.
    """
    library = _find(_kind(client))
    if library is None:
        raise NamespaceError(
            f"The wrapped backend's client is a "
            f"{type(client).__module__}.{type(client).__qualname__}: only clients made "
            f"from pymemcache's and pylibmc's can be namespaced."
        )
    return library


_watched: weakref.WeakSet[Any] = weakref.WeakSet()
_lock = threading.RLock()

#: What is watched, while this process forks.
_at_fork: list[Any] = []

#: Clients of the process that this one was forked from, which must not be used here.
_left: weakref.WeakSet[Any] = weakref.WeakSet()


def watch(client: object) -> None:
    """Let go of the client in every child process that is forked from now on.

    At once, not when the child first uses a cache: one that never does would break its
    parent's connections when it ends. No clients of other libraries.
    """
    if is_client(client):
        with _lock:
            _watched.add(client)


def is_left(client: object) -> bool:
    """Tell whether this client is the parent process's, and not to be used here."""
    return client in _left


def _before_fork() -> None:
    # Held over the fork: no other thread of the parent's holds it in the child.
    _lock.acquire()
    # By strong references: before a child runs anything, it frees what the other
    # threads of its parent held, and a client of pylibmc's must not be freed.
    _at_fork.extend(_watched)


def _after_fork_in_parent() -> None:
    _at_fork.clear()
    _lock.release()


def _after_fork_in_child() -> None:
    for client in _at_fork:
        try:
            usable = of(client).leave(client)
        except Exception:
            # The others must be let go of all the same.
            logger.exception("A client that was inherited over a fork does not close")
            usable = False
        if not usable:
            _left.add(client)
    _at_fork.clear()
    _lock.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
