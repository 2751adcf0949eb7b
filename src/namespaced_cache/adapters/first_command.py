"""Notices the first command of one client."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from namespaced_cache.adapters.adapter import adapter_of
from namespaced_cache.adapters.commands import Shape

_WITH_KEYS = {Shape.ONE_KEY, Shape.MANY_KEYS, Shape.MAPPING}

#: Item access of clients, which is in no table of commands.
_ITEM_ACCESS = "__getitem__", "__setitem__", "__delitem__", "__contains__"


def before_first_command(client: Any, act: Callable[[], None]) -> Callable[[], None]:
    """Call `act` once, before the client's first command with a key.

    Returns a function that ends this. Until then, the client's class is a subclass of
    its own. The client is not kept alive.
    """
    own_class = client.__class__  # of the real client, if a tracer wraps it
    kept = weakref.ref(client)

    def end() -> None:
        watched = kept()
        if watched is not None and watched.__class__ is watching_class:
            watched.__class__ = own_class

    def noticing(name: str) -> Callable[..., Any]:
        def command(client: Any, *args: Any, **kwargs: Any) -> Any:
            end()
            client.__class__ = own_class  # it may be a copy of the client
            act()
            return getattr(client, name)(*args, **kwargs)

        return command

    commands = adapter_of(client).commands.values()
    names = [each.name for each in commands if each.shape in _WITH_KEYS]
    noticed = [name for name in names if hasattr(client, name)]
    noticed += [name for name in _ITEM_ACCESS if hasattr(own_class, name)]
    attributes = {name: getattr(own_class, name) for name in ("__module__", "__doc__")}
    watching_class = type(
        own_class.__name__,
        (own_class,),
        attributes | {name: noticing(name) for name in noticed},
    )
    client.__class__ = watching_class
    return end
