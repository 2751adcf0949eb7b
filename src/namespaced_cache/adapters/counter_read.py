"""Counter reads, and the protocol of the objects that make them."""

from __future__ import annotations

from typing import Any, Protocol

#: The value if the counter is missing, or if the client hides an outage. It is not
#: None, because a client may return None for a value that it cannot decode.
ABSENT = object()

#: The value until the server has answered.
UNREAD = object()


class CounterRead:
    """One counter read.

    `floor` is the lowest generation that can be right. `began` is the moment before the
    server was asked. `reached` tells whether this process had read the counter before.
    `value` is the counter's value, or UNREAD until the server has answered.
    `is_acknowledged` is False for a command to which the client expects no reply.
    `connection` is the connection of a parallel read, until it has ended. `is_first`
    tells whether the connection was opened for this read.
    """

    __slots__ = (
        "began",
        "connection",
        "floor",
        "is_acknowledged",
        "is_first",
        "reached",
        "value",
    )

    def __init__(self, floor: int, began: float, reached: bool) -> None:  # noqa: FBT001
        self.floor = floor
        self.began = began
        self.reached = reached
        self.is_acknowledged = True
        self.is_first = False
        self.connection: Any = None
        self.value: object = UNREAD


class CounterReader(Protocol):
    """Reads the counter while a client carries out a command, in the same round trip.

    If the read is still UNREAD at its end, the counter has to be read after the
    command.
    """

    def begin(self, read: CounterRead) -> None:
        """Begin a counter read, before the command."""

    def end(self, read: CounterRead) -> None:
        """End the counter read, after the command has received its reply."""

    def abandon(self, read: CounterRead) -> None:
        """End the counter read, if the command has received no reply."""

    def close(self) -> None:
        """Close the connections that the reader itself has opened."""
