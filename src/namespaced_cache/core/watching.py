"""Watching: lets a test run see each operation, at no cost while nothing watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from namespaced_cache.core.binding import Binding
from namespaced_cache.core.operation import Operation
from namespaced_cache.forks import new_lock

#: A function that is called after each operation, with its binding and its answer. If
#: the operation has raised an error, the answer is that error.
Watcher = Callable[[Operation, Binding, object], object]

_lock = new_lock()
_watchers: tuple[Watcher, ...] = ()
_run = Operation.run


def watch(watcher: Watcher) -> None:
    """Call a function after each operation of this process."""
    _change((*_watchers, watcher))


def unwatch(watcher: Watcher) -> None:
    """Stop calling a function."""
    _change(tuple(each for each in _watchers if each != watcher))


def _change(watchers: tuple[Watcher, ...]) -> None:
    global _watchers
    with _lock:
        _watchers = watchers
        # An operation that nothing watches has no step more than without this module.
        operation: Any = Operation
        operation.run = _run_watched if watchers else _run


def _run_watched(operation: Operation, binding: Binding) -> Any:
    try:
        answer = _run(operation, binding)
    except BaseException as error:  # also one that is broken off may take effect
        _tell(operation, binding, error)
        raise
    _tell(operation, binding, answer)
    return answer


def _tell(operation: Operation, binding: Binding, answer: object) -> None:
    for watcher in _watchers:
        watcher(operation, binding, answer)
