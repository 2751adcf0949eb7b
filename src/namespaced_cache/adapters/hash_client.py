"""Shortcuts through pymemcache's HashClient.

With one server, HashClient has only one member, a client for that server. It still
checks and hashes each key, and then the member checks the key again. HashClient also
deletes many keys one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pymemcache import HashClient  # tracers replace the name in its own module

from namespaced_cache.adapters.commands import Command

#: HashClient has no public method that calls a member's method and counts the member's
#: failures.
_PRIVATE = "_get_client", "_run_cmd", "_safely_run_func", "_safely_run_set_many"

#: HashClient's own methods.
_OWN: dict[str, object] = dict(vars(HashClient))

#: The names that HashClient uses for its members' methods. A tracer of its members may
#: know only these.
_MEMBERS_NAMES = {name: name.replace("_multi", "_many") for name in _OWN}

_DELETES_MANY = {"delete_many", "delete_multi"}
_STORES_MANY = {"set_many", "set_multi"}

#: The maximum number of keys in one round trip. The client sends all keys before it
#: reads a reply. The replies to many more keys would fill the socket's buffers.
_AT_ONCE = 1000


def places_keys_as_usual(client: Any) -> bool:
    """Tell whether a client of several servers finds a key's server as HashClient."""
    client_class: Any = type(client)  # mypy takes no class to be hashable
    return issubclass(client_class, HashClient) and _is_plain(client_class)


@cache
def _is_plain(client_class: Any) -> bool:
    """Tell whether a class has HashClient's own versions of the methods needed here."""
    return all(
        name in _OWN and getattr(client_class, name, None) is _OWN[name]
        for name in _PRIVATE
    )


def call(
    client: Any, command: Command, outage_default: object, *args: Any, **kwargs: Any
) -> Any:
    """Call a command of a client, by a shortcut if the method is HashClient's own.

    `outage_default` is the answer while the client hides that a server is down.
    """
    name = command.name
    method = getattr(client, name)
    is_own = getattr(method, "__func__", method) is _OWN.get(name)
    client_class: Any = type(client)  # mypy takes no class to be hashable
    if not is_own or not _is_plain(client_class):
        return method(*args, **kwargs)
    deletes = name in _DELETES_MANY
    # HashClient checks keys before it hides errors.
    if len(client.clients) != 1 or client._dead_clients or client.ignore_exc:
        if deletes:
            return _delete_many(client, *args, **kwargs)
        return method(*args, **kwargs)
    (member,) = client.clients.values()
    if deletes:
        return _delete_from(client, member, *args, **kwargs)
    if name in _STORES_MANY:
        return _set_many(client, member, *args, **kwargs)
    members_method = getattr(member, _MEMBERS_NAMES[name])
    return client._safely_run_func(
        member, members_method, outage_default, *args, **kwargs
    )


def _set_many(
    client: Any, member: Any, values: Mapping[Any, Any], *args: Any, **kwargs: Any
) -> list[Any]:
    failed: list[Any] = []
    items = list(values.items())
    for start in range(0, len(items), _AT_ONCE):
        part = dict(items[start : start + _AT_ONCE])
        failed += client._safely_run_set_many(member, part, *args, **kwargs)
    return failed


def _delete_many(client: Any, keys: list[Any], *args: Any, **kwargs: Any) -> bool:
    batches: dict[Any, list[Any]] = {}
    for key in keys:
        member = client._get_client(key)
        if member is not None:
            batches.setdefault(member, []).append(key)
    for member, batch in batches.items():
        _delete_from(client, member, batch, *args, **kwargs)
    return True


def _delete_from(
    client: Any, member: Any, keys: list[Any], *args: Any, **kwargs: Any
) -> bool:
    for start in range(0, len(keys), _AT_ONCE):
        part = keys[start : start + _AT_ONCE]
        client._safely_run_func(member, member.delete_many, None, part, *args, **kwargs)
    return True
