"""Verbs: which the real clients have, and how each takes its keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from namespaced_cache import libraries
from namespaced_cache.keys import Key


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Verbs that take one key, before all else, and give back nothing that holds a key.
ONE_KEY = _words("get gets set add replace append prepend cas delete touch incr decr")

#: Verbs that take many keys, as a sequence or as a mapping, and may give some back.
MANY_KEYS = _words("""
    get_many get_multi gets_many gets_multi set_many set_multi add_multi
    delete_many delete_multi incr_multi
""")

#: Routines that neither take a key nor touch what others keep on the server, or that
#: only compute.
PASSED = _words("""
    stats get_stats version
    check_key hash serialize deserialize get_behaviors set_behaviors
""")

#: Routines that end connections.
LEAVING = _words("close disconnect_all quit")

#: Of those, which take the items' expiry next, in either library.
_STORING = _words("set_many set_multi add_multi")

#: What a verb may be given beside many keys, and must be understood here.
_LOOKED_AT = {"gets", "key_prefix"}

#: Verbs of which we know why they cannot be namespaced.
REFUSED = {
    "raw_command": "its text may name any key",
    "shutdown": "it stops the server for everybody",
    "cache_memlimit": "it changes the server for everybody",
    "add_server": "the counter has its home among the servers of LOCATION",
    "remove_server": "the counter has its home among the servers of LOCATION",
}

#: What pymemcache's HashClient answers, where it does not raise, while the server of a
#: key is in its retry window. It is the answer while a counter cannot be had.
QUIET: dict[str, Any] = {"delete_many": True, "delete_multi": True, "gets": None}


def is_verb(attribute: object) -> bool:
    """Tell whether a client's attribute is something that may take a key.

    Functions, partials, any object that can be called; not classes, such as
    pymemcache's `client_class`.
    """
    return callable(attribute) and not isinstance(attribute, type)


class ManyCall:
    """The arguments of a verb that takes many keys, taken apart.

    `keys` are the caller's and `wire_keys` those they stand for, which differ where
    pylibmc is given a `key_prefix`; `gets` tells whether pymemcache is asked for cas
    tokens; `args` and `kwargs` are what else follows the keys. `connect` gives the real
    client.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        verb: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        # In short, what follows says at length: nearly all calls are such.
        if not kwargs and (len(args) == 1 or (len(args) == 2 and verb in _STORING)):  # noqa: PLR2004
            self._given = args[0]
            self.gets = False
            self.args: Sequence[Any] = args[1:]
            self.kwargs = kwargs
            self.keys: list[Key] = list(self._given)
            self.wire_keys = self.keys
            return
        parameters = libraries.of(connect()).many_parameters.get(verb, ())
        if args:
            self._given, *rest = args
        else:
            rest = []
            name = "values" if "values" in kwargs else "keys"
            if name not in kwargs:
                raise TypeError(f"{verb}() is missing its keys")
            self._given = kwargs.pop(name)
        if any(name in _LOOKED_AT for name in parameters[: len(rest)]):
            named = dict(zip(parameters, rest, strict=False))
            if named.keys() & kwargs.keys():
                raise TypeError(f"{verb}() got an argument twice: {rest} {kwargs}")
            kwargs.update(named)
            rest = rest[len(parameters) :]
        # What the verb does not know stays, for the client to refuse.
        looked_at = {
            name: kwargs.pop(name)
            for name in _LOOKED_AT.intersection(parameters, kwargs)
        }
        self.gets = bool(looked_at.get("gets"))
        self.args = rest
        self.kwargs = kwargs
        prefix = looked_at.get("key_prefix", b"")
        self.keys = list(self._given)
        self.wire_keys = [_joined(prefix, key) for key in self.keys]

    def container(self, names: list[Key]) -> list[Key] | dict[Key, Any]:
        """Put the names where the caller's keys were: in a mapping or a sequence."""
        if isinstance(self._given, Mapping):
            return dict(zip(names, self._given.values(), strict=True))
        return names


def _joined(prefix: Key, key: Key) -> Key:
    if not isinstance(prefix, str | bytes):
        kind = type(prefix).__name__
        raise TypeError(f"A key_prefix is str or bytes, not {kind}: {prefix!r}")
    # What is no key is refused where it is to get its name.
    if not prefix or not isinstance(key, str | bytes):
        return key
    if isinstance(prefix, str) and isinstance(key, str):
        return prefix + key
    return _as_bytes(prefix) + _as_bytes(key)


def _as_bytes(key: Key) -> bytes:
    return key.encode() if isinstance(key, str) else key
