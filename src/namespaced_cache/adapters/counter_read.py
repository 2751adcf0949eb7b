"""Counter reads, and the protocol of the objects that make them."""

from __future__ import annotations

from typing import Protocol

#: The value if the counter is missing, or if the client hides an outage. It is not
#: None, because a client may return None for a value that it cannot decode.
ABSENT = object()

#: The value until the server has answered.
UNREAD = object()


class CounterRead:
    """One counter read.

    `floor` is the lowest generation that can be right. `began` is the moment before the
    server was asked, by `time.monotonic()`. `value` is the counter's value, or UNREAD
    until the server has answered.
    """

    __slots__ = ("began", "floor", "value")

    def __init__(self, floor: int, began: float) -> None:
        self.floor = floor
        self.began = began
        self.value: object = UNREAD


class CounterReader(Protocol):
    """Reads the counter while a client carries out a command, in the same round trip.

    If the read is still UNREAD at its end, the counter has to be read after the
    command.
    """

    def begin(self, read: CounterRead) -> None:
        """Begin a counter read, before the command."""

    def end(self) -> None:
        """End the counter read, after the command has returned or raised."""
