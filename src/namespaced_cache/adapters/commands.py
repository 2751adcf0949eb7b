"""Commands: each command of a client is described by one line in a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any


class Shape(Enum):
    """How a command takes its keys."""

    #: One key, as the first argument. The answer contains no key.
    ONE_KEY = auto()
    #: A sequence of keys. The answer may contain some of them.
    MANY_KEYS = auto()
    #: A mapping of keys to values. The answer may contain some of the keys.
    MAPPING = auto()
    #: No key. The command does not change other data on the server.
    NO_KEY = auto()
    #: No key. The command makes another client.
    CLONE = auto()
    #: No key. The command closes connections.
    DISCONNECT = auto()
    #: The command cannot be namespaced.
    REFUSED = auto()


class Effect(Enum):
    """What a command does on the server."""

    READS = auto()
    #: It stores an item, whatever is there.
    SETS = auto()
    #: What it stores, or whether it does, depends on what is there.
    CHANGES = auto()
    #: It gives an item that is there another expiry.
    TOUCHES = auto()
    DELETES = auto()
    NONE = auto()

    @property
    def asks(self) -> bool:
        """Whether the command depends on what is there."""
        return self in _ASKING

    @property
    def stores(self) -> bool:
        """Whether the command may store an item."""
        return self in _STORING


_STORING = {Effect.SETS, Effect.CHANGES}
_ASKING = {Effect.READS, Effect.CHANGES, Effect.TOUCHES}


#: The names of commands that close connections, in any library.
DISCONNECTING = frozenset({"close", "disconnect_all", "quit"})

#: Outage defaults that depend on the call.
CALLERS_DEFAULT = object()
CALLERS_KEYS = object()


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a client library.

    `expiry` is the name and the position of the parameter that says when an item
    expires. Positions are counted after the keys. `outage_default` is the answer while
    the client hides that a server is down: a constant, CALLERS_DEFAULT (the caller's
    default) or CALLERS_KEYS (all keys, as failed). `parameters` are the names of the
    parameters after the keys, if one of them changes the meaning of the keys or of the
    answer. `reason` says why a command is refused.
    """

    name: str
    shape: Shape
    effect: Effect
    outage_default: Any = None
    expiry: tuple[str, int] | None = None
    parameters: tuple[str, ...] = ()
    reason: str = ""


def one_key(
    name: str,
    effect: Effect,
    outage_default: Any,
    expiry: tuple[str, int] | None = None,
) -> Command:
    """Describe a command that takes one key."""
    return Command(name, Shape.ONE_KEY, effect, outage_default, expiry)


def many_keys(
    name: str, effect: Effect, outage_default: Any, parameters: str = ""
) -> Command:
    """Describe a command that takes a sequence of keys."""
    return Command(
        name,
        Shape.MANY_KEYS,
        effect,
        outage_default,
        parameters=tuple(parameters.split()),
    )


def mapping(
    name: str,
    effect: Effect,
    outage_default: Any,
    expiry: tuple[str, int] | None,
    parameters: str = "",
) -> Command:
    """Describe a command that stores a mapping of keys to values."""
    return Command(
        name,
        Shape.MAPPING,
        effect,
        outage_default,
        expiry,
        tuple(parameters.split()),
    )


def keyless(names: str, shape: Shape = Shape.NO_KEY) -> Iterable[Command]:
    """Describe commands that take no key."""
    return [Command(name, shape, Effect.NONE) for name in names.split()]


def refused(name: str, reason: str) -> Command:
    """Describe a command that cannot be namespaced."""
    return Command(name, Shape.REFUSED, Effect.NONE, reason=reason)


def table(*commands: Command | Iterable[Command]) -> Mapping[str, Command]:
    """Make the table of a library's commands, by their names."""
    rows: list[Command] = []
    for row in commands:
        rows += [row] if isinstance(row, Command) else row
    return {command.name: command for command in rows}
