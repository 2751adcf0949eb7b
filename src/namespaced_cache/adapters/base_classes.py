"""Adds a base before the class of pymemcache's clients, where connections are made."""

from __future__ import annotations

from functools import cache
from typing import Any

# Not from their modules, where a tracer puts its proxies.
from pymemcache import Client, HashClient, PooledClient


def add_base(client: Any, base: type) -> bool:
    """Add a base before the class of each connection's client. Tell whether it could.

    The clients that a HashClient or a pool makes later have it as well. A tracer's
    proxy cannot have one: isinstance() takes it for a Client, but it is not one.
    """
    if isinstance(client, HashClient | PooledClient):
        if not issubclass(client.client_class, Client):
            return False
        client.client_class = _derived(client.client_class, base)
        if isinstance(client, HashClient):
            members = list(client.clients.values())
        else:
            members = [*client.client_pool.used, *client.client_pool.free]
        added = [add_base(member, base) for member in members]
        return all(added)
    if not issubclass(type(client), Client):
        return False
    client_class: Any = type(client)  # mypy takes no class to be hashable
    if not issubclass(client_class, base):
        sock = vars(client).pop("sock", None)
        client.__class__ = _derived(client_class, base)
        client.sock = sock  # as the base keeps it
    return True


@cache
def _derived(client_class: Any, base: Any) -> type[Any]:
    if issubclass(client_class, base):
        derived: type[Any] = client_class
        return derived
    names = ("__module__", "__qualname__", "__doc__")
    attributes = {name: getattr(client_class, name) for name in names}
    return type(client_class.__name__, (base, client_class), attributes)
