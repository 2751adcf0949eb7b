"""Forks: what a child process renews, and what it releases.

    parent                            child
    ──────                            ─────
    before the fork
      hold every watched client
         │
       fork() ───────────────────────► the same memory, and the threads of none but one
         │                            1. a new lock in the place of each of ours,
    let go of the clients                because a thread that is not here may hold it
         │                            2. release the parent's clients,
         ▼                               because both would use one socket
                                      3. look up the run's and the worker's name again,
                                         because the child may be another worker

A system that cannot fork has none of this, and needs none: there, modules register what
a child should do, and nothing ever does it.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

logger = logging.getLogger("namespaced_cache")

#: Returns whether the child may use the client again.
Release = Callable[[Any], bool]

_renewals: list[Callable[[], object]] = []


def renew_in_child(renew: Callable[[], object]) -> None:
    """Call `renew` first in every child process that is forked from now on."""
    _renewals.append(renew)


def new_lock() -> threading.RLock:
    """Return a reentrant lock for a module, which a child process always finds free.

    It is the interpreter's own lock, so that `with` takes and releases it in one step:
    a signal handler that raises finds it either held by the block or free.
    """
    lock = threading.RLock()
    # Without an underscore there is no way to make a lock of the interpreter's free;
    # the standard library's logging does the same with its own.
    renew_in_child(lock._at_fork_reinit)  # type: ignore[attr-defined]
    return lock


_watched: weakref.WeakKeyDictionary[Any, Release] = weakref.WeakKeyDictionary()

#: Clients of the process that this one was forked from, which must not be used here.
_unusable: weakref.WeakSet[Any] = weakref.WeakSet()


def release_in_child(client: object, release: Release) -> None:
    """Release the client in every child process that is forked from now on.

    At once, not when the child first uses a cache: one that never does would break its
    parent's connections when it ends.
    """
    _watched[client] = release


def is_unusable(client: object) -> bool:
    """Tell whether this client is the parent process's, and must not be used here."""
    return client in _unusable


class _Forking(threading.local):
    """What the thread that forks holds meanwhile: two threads may fork at once."""

    clients: Sequence[tuple[Any, Release]] = ()


_forking = _Forking()


def _before() -> None:
    # By strong references: before a child runs anything, it frees what the other
    # threads of its parent held, and a client of pylibmc's must not be freed.
    while True:
        with suppress(RuntimeError):  # another thread watches one more, or frees one
            _forking.clients = list(_watched.items())
            return


def _after_in_parent() -> None:
    _forking.clients = ()


def _after_in_child() -> None:
    for renew in _renewals:
        renew()
    for client, release in _forking.clients:
        try:
            usable = release(client)
        except Exception:
            # The others must be released all the same.
            logger.exception("A client that was inherited over a fork does not close")
            usable = False
        if not usable:
            _unusable.add(client)
    _forking.clients = ()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before,
        after_in_parent=_after_in_parent,
        after_in_child=_after_in_child,
    )
