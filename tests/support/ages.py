"""Items that were last used long ago: memcached cannot be told so."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from unittest import mock

from namespaced_cache.admin.server import Items, Server

#: Seconds of two days: more than the age that `purge` takes by default.
TWO_DAYS = 2 * 24 * 60 * 60


@contextmanager
def aged(age_of: Callable[[bytes], int] = lambda _: TWO_DAYS):
    """Let servers add `age_of(key)` seconds to the time since an item's last use."""
    walk, states = Items.__iter__, Server.states

    def older_items(self):
        for item in walk(self):
            yield item._replace(idle=item.idle + age_of(item.key))

    def older_states(self, keys):
        return [
            state and state._replace(idle=state.idle + age_of(key))
            for key, state in zip(keys, states(self, keys), strict=True)
        ]

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Items, "__iter__", older_items))
        stack.enter_context(mock.patch.object(Server, "states", older_states))
        yield
