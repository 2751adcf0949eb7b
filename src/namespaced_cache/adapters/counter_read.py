"""A read of the counter, from its beginning to the value that was found."""

from __future__ import annotations

from typing import Protocol

#: The value where there is no counter, or where the client hides an outage. Not None,
#: which a client may return for a value that it cannot decode.
ABSENT = object()

#: Stands for the value while the server has not answered.
UNREAD = object()


class CounterRead:
    """One read of the counter.

    `floor` is the lowest generation that can be right, `began` the moment by
    `time.monotonic()` before the server was asked, and `value` what was found: UNREAD
    until it is known.
    """

    __slots__ = ("began", "floor", "value")

    def __init__(self, floor: int, began: float) -> None:
        self.floor = floor
        self.began = began
        self.value: object = UNREAD


class CounterReader(Protocol):
    """Reads the counter while a client carries out a command, in the same round trip.

    A read that is UNREAD at its end has to be made after the command.
    """

    def begin(self, read: CounterRead) -> None:
        """Begin a read, before the command."""

    def end(self) -> None:
        """End it, after the command, however that ended."""
