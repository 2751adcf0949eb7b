"""A lock that a forked process finds free."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager


class ForkableLock(AbstractContextManager[None, None]):
    """A reentrant lock for a module: it stays as long as the process.

    A child process has one of its own, because a thread that it does not have may have
    held its parent's when it forked.
    """

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
