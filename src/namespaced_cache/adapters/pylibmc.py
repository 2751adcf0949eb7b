"""The adapter for pylibmc: its Client and subclasses of that."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

import pylibmc

from namespaced_cache.adapters.adapter import Adapter
from namespaced_cache.adapters.commands import (
    CALLERS_DEFAULT,
    CALLERS_KEYS,
    Command,
    Effect,
    Shape,
    keyless,
    many_keys,
    mapping,
    one_key,
    table,
)
from namespaced_cache.keys import MAX_KEY_BYTES, Key

_READS, _STORES = Effect.READS, Effect.STORES

#: What `set_multi` and `add_multi` take after the mapping.
_STORING = "time key_prefix min_compress_len compress_level"

# libmemcached raises during an outage, with few exceptions. For those the defaults are
# as with pymemcache, which Django's backends are written for.
COMMANDS = table(
    one_key("get", _READS, CALLERS_DEFAULT),
    one_key("gets", _READS, None),
    one_key("set", _STORES, False, expiry=("time", 1)),
    one_key("add", _STORES, False, expiry=("time", 1)),
    one_key("replace", _STORES, False, expiry=("time", 1)),
    one_key("append", _STORES, False),
    one_key("prepend", _STORES, False),
    one_key("cas", _STORES, False, expiry=("time", 2)),
    one_key("touch", _STORES, False, expiry=("time", 0)),
    one_key("delete", _STORES, False),
    one_key("incr", _STORES, False),
    one_key("decr", _STORES, False),
    many_keys("get_multi", _READS, {}, parameters="key_prefix"),
    many_keys("delete_multi", _STORES, True, parameters="key_prefix"),
    many_keys("incr_multi", _STORES, CALLERS_KEYS, parameters="key_prefix delta"),
    mapping("set_multi", CALLERS_KEYS, expiry=("time", 0), parameters=_STORING),
    mapping("add_multi", CALLERS_KEYS, expiry=("time", 0), parameters=_STORING),
    keyless("get_stats hash serialize deserialize get_behaviors set_behaviors"),
    keyless("clone", Shape.CLONE),
    keyless("disconnect_all", Shape.DISCONNECT),
)

#: What a server that is down raises. A timeout has no class of its own: it is raised
#: as their common base.
_OUTAGES = (
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
)


class PyLibMCAdapter(Adapter):
    """What is special about pylibmc."""

    commands = COMMANDS
    client_classes = (pylibmc.Client,)
    not_found = (pylibmc.NotFound,)
    #: In the binary protocol libmemcached takes it for an outage, and so do we.
    not_a_number = (pylibmc.ClientError,)

    def is_outage(self, error: Exception, command: Command | None) -> bool:
        """Tell whether a server is down.

        `incr_multi` raises the common base for a value that is not a number as well.
        """
        if type(error) is pylibmc.Error:
            increments = command is not None and command.name == "incr_multi"
            return not increments and not self.is_undecodable(error)
        return isinstance(error, _OUTAGES)

    def is_undecodable(self, error: Exception) -> bool:
        """Tell whether a command failed because of the value alone."""
        return not isinstance(error, pylibmc.Error) or str(error).startswith(
            ("Failed to decompress value", "unknown memcached key flags")
        )

    def key_limit(self, client: Any) -> int:
        """Return how many bytes the client leaves for a key."""
        return MAX_KEY_BYTES

    def checks_keys(self, client: Any) -> bool:
        """Tell whether the client refuses a key with a space or control character.

        The binary protocol needs no check, because it carries a key's length. In the
        text protocol pylibmc sends any key as it is: `get("a b")` asks for two keys,
        and answers with the value of one that is in no namespace at all.
        """
        return bool(client.binary)

    def check_key(self, client: Any, key: Key) -> None:
        """Accept every key: see `checks_keys`."""

    def counter_reader(self, client: Any, counter_client: Any, key: str) -> None:
        """Return None: libmemcached sends one command and awaits its reply."""

    def call(
        self,
        client: Any,
        command: Command,
        outage_default: object,
        key: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call a command of the client with wire keys."""
        if command.name == "gets" and isinstance(key, str):
            # pylibmc 1.6.3 makes bytes of text, and frees them before it sends them:
            # other threads' keys may be asked for instead. See
            # https://github.com/lericson/pylibmc/issues/300
            key = key.encode()
        return getattr(client, command.name)(key, *args, **kwargs)

    def compare_and_swap(self, client: Any, key: Key, old: object, new: int) -> None:
        """Store `new` if the key still holds `old`: two round trips.

        By a clone and so a connection of its own, because a client that was made
        without `cas` has no tokens.
        """
        swapping = client.clone()
        vars(swapping).update(vars(client))  # a subclass's own, for its serializer
        swapping.behaviors = {"cas": True}
        # As bytes, for the reason given in `call`.
        found, token = swapping.gets(key.encode() if isinstance(key, str) else key)
        if token is not None and found == old:
            with suppress(pylibmc.NotFound):  # gone meanwhile
                swapping.cas(key, new, token)

    def abandon(self, client: Any) -> None:
        """Do nothing: libmemcached completes a command that Python breaks off."""

    def release(self, client: Any) -> bool:
        """Keep a client inherited over a fork for ever; it cannot be used again.

        When it is freed, libmemcached sends `quit` on the socket that it shares with
        the parent, and the parent's connection breaks. One reference more than
        Python knows of keeps it from being freed, at exit too.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))
        return False


ADAPTER = PyLibMCAdapter()
