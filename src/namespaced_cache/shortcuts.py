"""Shortcuts through pymemcache's HashClient.

With one server there is nothing to choose, yet HashClient checks and hashes each key
before its only client checks it again; and it deletes many keys one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from pymemcache import HashClient  # not from its module, where tracers put another

#: There is no public way to do something with one of HashClient's clients that counts
#: this client's failures.
_PRIVATE = "_get_client", "_run_cmd", "_safely_run_func", "_safely_run_set_many"

#: HashClient's own routines.
_OWN: dict[str, object] = dict(vars(HashClient))

#: So many keys are sent in one round trip: nobody reads a reply before all are sent,
#: and those to many more would fill the buffers on their way.
_AT_ONCE = 1000


@cache
def _is_plain(kind: Any) -> bool:
    """Tell whether clients of a class go HashClient's own ways."""
    return all(
        name in _OWN and getattr(kind, name, None) is _OWN[name] for name in _PRIVATE
    )


def call(client: Any, verb: str, hidden: object, *args: Any, **kwargs: Any) -> Any:
    """Call a verb of a client; a shortcut is taken where it is HashClient's own.

    `hidden` is what the verb answers while the client hides an outage.
    """
    found = getattr(client, verb)
    own = getattr(found, "__func__", found) is _OWN.get(verb)
    kind: Any = type(client)  # mypy takes no class to be hashable
    if not own or not _is_plain(kind):
        return found(*args, **kwargs)
    deletes = verb in ("delete_many", "delete_multi")
    # What hides errors would hide those of keys, if nobody looked at these before.
    if len(client.clients) != 1 or client._dead_clients or client.ignore_exc:
        act = partial(_delete_many, client) if deletes else found
        return act(*args, **kwargs)
    (member,) = client.clients.values()
    if deletes:
        return _delete_from(client, member, *args, **kwargs)
    if verb in ("set_many", "set_multi"):
        return _set_many(client, member, *args, **kwargs)
    # As HashClient names it: who traces its clients need not know both names.
    real = getattr(member, verb.replace("_multi", "_many"))
    return client._safely_run_func(member, real, hidden, *args, **kwargs)


def _set_many(
    client: Any, member: Any, values: Mapping[Any, Any], *args: Any, **kwargs: Any
) -> list[Any]:
    failed: list[Any] = []
    items = list(values.items())
    for start in range(0, len(items), _AT_ONCE):
        part = dict(items[start : start + _AT_ONCE])
        failed += client._safely_run_set_many(member, part, *args, **kwargs)
    return failed


def _delete_many(client: Any, names: list[Any], *args: Any, **kwargs: Any) -> bool:
    batches: dict[Any, list[Any]] = {}
    for name in names:
        member = client._get_client(name)
        if member is not None:
            batches.setdefault(member, []).append(name)
    for member, batch in batches.items():
        _delete_from(client, member, batch, *args, **kwargs)
    return True


def _delete_from(
    client: Any, member: Any, names: list[Any], *args: Any, **kwargs: Any
) -> bool:
    for start in range(0, len(names), _AT_ONCE):
        part = names[start : start + _AT_ONCE]
        real = member.delete_many
        client._safely_run_func(member, real, None, part, *args, **kwargs)
    return True
