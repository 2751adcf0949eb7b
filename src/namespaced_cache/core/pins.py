"""Pins: the generation that a block uses without counter reads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar

from asgiref.sync import sync_to_async

from namespaced_cache.forks import new_lock


class Pin:
    """The generation of a counter that a context uses, until it is moved."""

    def __init__(self, counter: object, generation: int) -> None:
        self.counter = counter
        self.generation = generation


#: The pins of this context, the innermost last. A task that is started inside a block
#: inherits them. Both contexts share each Pin, so an invalidation in one moves both.
current: ContextVar[tuple[Pin, ...]] = ContextVar("namespaced_cache_pins", default=())

_lock = new_lock()


def pinned(pins: tuple[Pin, ...], counter: object) -> int | None:
    """Return the generation of a counter that is among the pins, or None."""
    for pin in reversed(pins):
        if pin.counter is counter:
            return pin.generation
    return None


def move(counter: object, generation: int) -> None:
    """Move the pins of a counter in this context on to a new generation."""
    for pin in current.get():
        if pin.counter is counter:
            with _lock:  # tasks that share the pin may invalidate at the same time
                pin.generation = max(pin.generation, generation)


class PinnedGeneration(
    AbstractContextManager[int, None], AbstractAsyncContextManager[int, None]
):
    """A block, `with` or `async with`, in which one generation is used: see `Pin`.

    At the block's start, `make_pin` reads the counter, in one round trip. The block
    gives that generation. It cannot be entered twice.
    """

    def __init__(self, make_pin: Callable[[], Pin]) -> None:
        self._make_pin = make_pin
        self._pin: Pin | None = None

    def __enter__(self) -> int:
        return self._begin(self._make_pin())

    def __exit__(self, *_: object) -> None:
        # A ContextVar's token is not used. It would be invalid if an asynchronous
        # fixture begins in one context and ends in another.
        current.set(tuple(pin for pin in current.get() if pin is not self._pin))

    async def __aenter__(self) -> int:
        make_pin = sync_to_async(self._make_pin, thread_sensitive=True)
        return self._begin(await make_pin())

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def _begin(self, pin: Pin) -> int:
        if self._pin is not None:
            raise RuntimeError("A pinned_generation() is entered once; make another.")
        self._pin = pin
        current.set((*current.get(), pin))
        return pin.generation
