"""Shortcuts through pymemcache's HashClient.

With one server there is nothing to choose, yet HashClient checks and hashes each key
before its only client checks it again; and it deletes many keys one by one.
"""

from __future__ import annotations

from typing import Any

from pymemcache import HashClient  # where tracers put nothing else

#: There is no public way to do something with one of HashClient's clients that counts
#: this client's failures.
_PRIVATE = "_dead_clients", "_get_client", "_safely_run_func", "_safely_run_set_many"

#: HashClient's own verbs; none where it has not what is private.
_OWN: dict[str, object] = (
    dict(vars(HashClient))
    if all(hasattr(HashClient([]), private) for private in _PRIVATE)
    else {}
)


def call(client: Any, verb: str, hidden: object, *args: Any, **kwargs: Any) -> Any:
    """Call a verb of a client; a shortcut is taken where it is HashClient's own.

    `hidden` is what the verb answers while the client hides an outage.
    """
    found = getattr(client, verb)
    if getattr(found, "__func__", found) is not _OWN.get(verb):
        return found(*args, **kwargs)  # somebody else's
    if len(client.clients) == 1 and not client._dead_clients:
        (member,) = client.clients.values()
        if verb in ("set_many", "set_multi"):
            return client._safely_run_set_many(member, *args, **kwargs)
        # As HashClient names it: who traces its clients need not know both names.
        real = getattr(member, verb.replace("_multi", "_many"))
        return client._safely_run_func(member, real, hidden, *args, **kwargs)
    if verb in ("delete_many", "delete_multi"):
        return _delete_many(client, *args, **kwargs)
    return found(*args, **kwargs)


def _delete_many(client: Any, names: list[Any], *args: Any, **kwargs: Any) -> bool:
    batches: dict[Any, list[Any]] = {}
    for name in names:
        member = client._get_client(name)
        if member is not None:
            batches.setdefault(member, []).append(name)
    for member, batch in batches.items():
        real = member.delete_many
        client._safely_run_func(member, real, None, batch, *args, **kwargs)
    return True
