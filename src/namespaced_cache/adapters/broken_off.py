"""Broken-off commands: no command receives the reply to an earlier one.

A signal handler that raises (Ctrl-C, a test's time limit) breaks a command off. If it
raises a BaseException, pymemcache leaves the connection open, and the next command
would receive the reply that is still to come. With a base before its class, each client
of one connection notes that a command is under way. If one was still under way, the
next command closes the connection first. No other connection is touched, and no signal
comes too early or too late for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymemcache import (
    HashClient,
    PooledClient,  # see base_classes
)
from pymemcache.pool import ObjectPool

from namespaced_cache.adapters.base_classes import add_base


class _Guarded:
    """A base before a class of clients with one connection."""

    _is_under_way = False

    # These three methods of pymemcache's Client send every command. After an Exception
    # they have closed the connection, or have not sent anything. What they do here is
    # written three times, because a function in between takes a microsecond.

    def _fetch_cmd(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_under_way:
            self.close()  # type: ignore[attr-defined]  # pymemcache's
        self._is_under_way = True
        try:
            answer = super()._fetch_cmd(*args, **kwargs)  # type: ignore[misc]
        except Exception:
            self._is_under_way = False
            raise
        self._is_under_way = False
        return answer

    def _store_cmd(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_under_way:
            self.close()  # type: ignore[attr-defined]
        self._is_under_way = True
        try:
            answer = super()._store_cmd(*args, **kwargs)  # type: ignore[misc]
        except Exception:
            self._is_under_way = False
            raise
        self._is_under_way = False
        return answer

    def _misc_cmd(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_under_way:
            self.close()  # type: ignore[attr-defined]
        self._is_under_way = True
        try:
            answer = super()._misc_cmd(*args, **kwargs)  # type: ignore[misc]
        except Exception:
            self._is_under_way = False
            raise
        self._is_under_way = False
        return answer


class _GuardedPool(ObjectPool):  # type: ignore[misc]  # pymemcache has no types
    """A pool that drops the connection of a broken-off command."""

    @contextmanager
    def get_and_release(self, destroy_on_fail: bool = False) -> Iterator[Any]:  # noqa: FBT001, FBT002  # pymemcache's
        """Lend a client with a connection of its own."""
        lent = self.get()
        try:
            yield lent
        except BaseException as error:
            if destroy_on_fail or not isinstance(error, Exception):
                self.destroy(lent)
            else:
                self.release(lent)
            raise
        self.release(lent)


def guard(client: Any) -> bool:
    """Let no command of a client receive another's reply. Tell whether it could.

    It cannot if a tracer has put proxies before the client's connections.
    """
    if isinstance(client, HashClient):
        members = list(client.clients.values())
    else:
        members = [client]
    for member in members:
        if isinstance(member, PooledClient) and type(member.client_pool) is ObjectPool:
            member.client_pool.__class__ = _GuardedPool
    return add_base(client, _Guarded)
