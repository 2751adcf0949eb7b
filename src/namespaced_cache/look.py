"""A look at the counter, which says which generation is alive."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from namespaced_cache.piggyback import Request

#: The answer where there is no counter, or where the client hides an outage. Not None,
#: which a client may make of a value that it cannot decode.
ABSENT = object()

#: Stands for the answer of a server that was not asked yet.
UNASKED = object()


class Look:
    """One look: what was known when the server was asked, and what it answered.

    `floor` is the lowest number that can be right, `asked` the moment by
    `time.monotonic()`. A look with a `request` may travel with a command, see
    `piggyback.py`.
    """

    __slots__ = ("answer", "asked", "floor", "request")

    def __init__(
        self, floor: int, asked: float, request: Request | None = None
    ) -> None:
        self.floor = floor
        self.asked = asked
        self.request = request
        self.answer: object = UNASKED


class _Waiting(threading.local):
    look: Any = None


#: The look, if there is one, that is to travel with this thread's next command. It has
#: a request.
waiting = _Waiting()
