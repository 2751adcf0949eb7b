"""Forks: what a forked child process renews, and what it releases.

    parent                            child
    ──────                            ─────
    before the fork
      hold a reference to every
      watched client
         │
       fork() ───────────────────────► has the same memory, but only one thread
         │                            1. reset each lock of this package, because a
      drop the references                thread that is missing here may hold it
         │                            2. release the parent's clients, because both
         ▼                               processes would use the same sockets
                                      3. look up the run's and the worker's name again,
                                         because the child may be another worker

On a system without fork, modules register these steps all the same. No step ever runs.
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
    """Return a reentrant lock for a module. In a forked child it is always free.

    It is the interpreter's own lock, because `with` takes and releases that in one
    step. So even if a signal handler raises, the lock is held only inside the block.
    """
    lock = threading.RLock()
    # No public method resets such a lock. The standard library's logging module calls
    # the same method for its own locks.
    renew_in_child(lock._at_fork_reinit)  # type: ignore[attr-defined]
    return lock


_watched: weakref.WeakKeyDictionary[Any, Release] = weakref.WeakKeyDictionary()

#: Clients of the parent process, which must not be used in this process.
_unusable: weakref.WeakSet[Any] = weakref.WeakSet()


def release_in_child(client: object, release: Release) -> None:
    """Release the client in every child process that is forked from now on.

    The child releases it immediately after the fork. It cannot wait until it first uses
    a cache: a child that never uses one would break its parent's connections when it
    exits.
    """
    _watched[client] = release


def is_unusable(client: object) -> bool:
    """Tell whether this client is the parent's and must not be used in this process."""
    return client in _unusable


class _Forking(threading.local):
    """The clients that a thread holds while it forks. Two threads may fork at once."""

    clients: Sequence[tuple[Any, Release]] = ()


_forking = _Forking()


def _before() -> None:
    # Strong references are needed. Before a child runs any code, it frees the objects
    # that only other threads of its parent held. A client of pylibmc must not be freed.
    while True:
        with suppress(RuntimeError):  # another thread has added or freed a client
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
            # The other clients must still be released.
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
