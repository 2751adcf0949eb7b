"""The parsed arguments of a command that takes many keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from namespaced_cache.adapters.commands import Command, Shape
from namespaced_cache.keys import Key, as_bytes

#: Parameters that change the meaning of the keys or of the answer.
_INTERPRETED = {"gets", "key_prefix"}

#: Reading it from the Enum takes longer.
_MAPPING = Shape.MAPPING


class Arguments:
    """The arguments of one call of a command that takes many keys.

    `callers_keys` are the keys as the caller wrote them. `keys` are the same keys with
    pylibmc's argument `key_prefix` before them. `gets` tells whether pymemcache returns
    cas tokens. `args` and `kwargs` are the arguments after the keys.
    """

    def __init__(
        self, command: Command, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        # The fast path: nearly all calls have only the keys, or a mapping and an
        # expiry.
        if not kwargs and (
            len(args) == 1 or (len(args) == 2 and command.shape is _MAPPING)  # noqa: PLR2004
        ):
            self._given = args[0]
            self.gets = False
            self.args: Sequence[Any] = args[1:]
            self.kwargs = kwargs
            self.callers_keys: list[Key] = list(self._given)
            self.keys = self.callers_keys
            return
        if args:
            self._given, *rest = args
        else:
            rest = []
            name = "values" if "values" in kwargs else "keys"
            if name not in kwargs:
                raise TypeError(f"{command.name}() is missing its keys")
            self._given = kwargs.pop(name)
        parameters = command.parameters
        if any(name in _INTERPRETED for name in parameters[: len(rest)]):
            named = dict(zip(parameters, rest, strict=False))
            if named.keys() & kwargs.keys():
                raise TypeError(
                    f"{command.name}() got an argument twice: {rest} {kwargs}"
                )
            kwargs.update(named)
            rest = rest[len(parameters) :]
        # A parameter that the command does not have stays, so that the client refuses
        # it.
        interpreted = {
            name: kwargs.pop(name)
            for name in _INTERPRETED.intersection(parameters, kwargs)
        }
        self.gets = bool(interpreted.get("gets"))
        self.args = rest
        self.kwargs = kwargs
        prefix = interpreted.get("key_prefix", b"")
        self.callers_keys = list(self._given)
        self.keys = [_joined(prefix, key) for key in self.callers_keys]

    def with_keys(self, keys: list[Key]) -> list[Key] | dict[Key, Any]:
        """Return the caller's mapping or sequence with other keys."""
        if isinstance(self._given, Mapping):
            return dict(zip(keys, self._given.values(), strict=True))
        return keys


def _joined(prefix: Key, key: Key) -> Key:
    if not isinstance(prefix, str | bytes):
        kind = type(prefix).__name__
        raise TypeError(f"A key_prefix is str or bytes, not {kind}: {prefix!r}")
    # A key of another type is refused later, when its wire key is made.
    if not prefix or not isinstance(key, str | bytes):
        return key
    if isinstance(prefix, str) and isinstance(key, str):
        return prefix + key
    return as_bytes(prefix) + as_bytes(key)
