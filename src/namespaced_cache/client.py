"""NamespacedClient: the one place where a key gets its generation.

A wrapped backend has it for its `_cache`. Every verb of the real client that takes keys
is namespaced by its shape, one key or many; the rest passes through or is refused.

Every verb is strict in the same way: it goes out under the newest generation that this
process knows, together with a look at the counter. If the counter stands elsewhere,
what was done is invisible, for it happened in a dead generation, and is done again.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from namespaced_cache import libraries
from namespaced_cache.errors import VerbRefusedError
from namespaced_cache.generation import Counter
from namespaced_cache.keys import GenerationKeys, Key


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Verbs that take one key, before all else, and give back nothing that holds a key.
ONE_KEY = _words("get gets set add replace append prepend cas delete touch incr decr")

#: Verbs that take many keys, as a sequence or as a mapping, and may give some back.
MANY_KEYS = _words("""
    get_many get_multi gets_many gets_multi set_many set_multi add_multi
    delete_many delete_multi incr_multi
""")

#: Routines that neither take a key nor touch what others keep on the server, or that
#: only compute.
PASSED = _words("""
    close disconnect_all quit stats get_stats version add_server remove_server
    check_key hash serialize deserialize get_behaviors set_behaviors
""")

#: What a verb may be given beside many keys, and must be understood here.
_LOOKED_AT = {"gets", "key_prefix"}

#: Verbs of which we know why they cannot be namespaced.
REFUSED = {
    "raw_command": "its text may name any key",
    "shutdown": "it stops the server for everybody",
    "cache_memlimit": "it changes the server for everybody",
}

#: What pymemcache's HashClient answers, where it does not raise, while the server of a
#: key is in its retry window. It is the answer while a counter cannot be had.
_QUIET: dict[str, Any] = {"delete_many": True, "delete_multi": True, "gets": None}

#: How often an operation is done again before it gives up. Each time means that another
#: process invalidated the namespace within the few microseconds between.
ATTEMPTS = 100


class NamespacedClient:
    """The real client, with every key moved into a namespace's live generation.

    `connect` gives the real client of the moment and `find_counter` the counter of the
    moment; both are asked at every operation, because a backend may reconnect and a
    process may fork or become a test worker. Data attributes are read from and written
    to the real client. The real client itself is `wrapped`: what is done through it is
    in no namespace.
    """

    def __init__(
        self, connect: Callable[[], Any], find_counter: Callable[[], Counter]
    ) -> None:
        vars(self).update(
            _connect=connect, _find_counter=find_counter, _keys=None, _keys_client=None
        )

    # What a namespace adds or changes.

    @property
    def wrapped(self) -> Any:
        """The real client, outside any namespace."""
        return self._connect()

    @property
    def counter(self) -> Counter:
        """The counter of the namespace."""
        counter: Counter = self._find_counter()
        return counter

    def invalidate(self) -> int:
        """Begin a new generation and return it: one round trip.

        Raises NamespaceUnavailable unless a server acknowledged it.
        """
        return self.counter.bump(self.wrapped)

    def flush_all(self) -> bool:
        """Invalidate this namespace and nothing else; True as clients answer it.

        It takes no delay: an invalidation cannot be put off.
        """
        self.invalidate()
        return True

    def clone(self) -> NamespacedClient:
        """Return a clone of the real client in the same namespace (pylibmc)."""
        clones: dict[int, Any] = {}  # by process, for a child needs another

        def connect() -> Any:
            process = os.getpid()
            if process not in clones:
                clones[process] = self.wrapped.clone()
                libraries.watch(clones[process])
            return clones[process]

        return NamespacedClient(connect, self._find_counter)

    # Verbs, and only those that the real client has.

    def __getattr__(self, name: str) -> Any:
        connect = vars(self).get("_connect")
        if connect is None:  # asked by copy or pickle before there is an instance
            raise AttributeError(name)
        client = connect()
        libraries.of(client)  # refuses one that we do not know
        real = getattr(client, name)
        verb: Callable[..., Any]
        if name == "get":
            verb = self._get
        elif name == "gets" and hasattr(client, "gets_many"):
            verb = self._gets
        elif name in ("get_many", "get_multi", "gets_many", "gets_multi"):
            verb = partial(self._get_many, name)
        elif name in ONE_KEY:
            verb = partial(self._one, name)
        elif name in MANY_KEYS:
            verb = partial(self._many, name)
        elif name in PASSED or not _is_verb(real):
            return real
        else:
            reason = REFUSED.get(name, "nobody has said where it takes its keys")
            raise VerbRefusedError(
                f"{type(client).__name__}.{name}() cannot be namespaced: {reason}. The "
                f"real client, outside any namespace, is `cache._cache.wrapped`."
            )
        return verb

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self) or _is_verb(getattr(self.wrapped, name, None)):
            vars(self)[name] = value
        else:
            setattr(self.wrapped, name, value)

    def __delattr__(self, name: str) -> None:
        if name in vars(self):
            del vars(self)[name]
        else:
            delattr(self.wrapped, name)

    def __dir__(self) -> Iterable[str]:
        return {*super().__dir__(), *dir(self.wrapped)}

    def __repr__(self) -> str:
        counter = self.counter
        return f"<NamespacedClient {counter.namespace} of {self.wrapped!r}>"

    def __getitem__(self, key: Key) -> Any:
        return self._item(key, operator.getitem)

    def __setitem__(self, key: Key, value: Any) -> None:
        self._item(key, lambda client, name: operator.setitem(client, name, value))

    def __delitem__(self, key: Key) -> None:
        self._item(key, operator.delitem)

    def __contains__(self, key: Key) -> bool:
        return bool(self._item(key, operator.contains))

    # The shapes of verbs.

    def _get(self, key: Key, default: Any = None) -> Any:
        found = self._fetch([(key, key)], cas=False) or {}
        return found.get(key, default)

    def _gets(self, key: Key, default: Any = None, cas_default: Any = None) -> Any:
        found = self._fetch([(key, key)], cas=True)
        return None if found is None else found.get(key, (default, cas_default))

    def _get_many(self, verb: str, *args: Any, **kwargs: Any) -> dict[Key, Any]:
        call = ManyCall(self.wrapped, verb, args, kwargs)
        if call.args or call.kwargs:
            raise TypeError(f"{verb}() got more than keys: {call.args} {call.kwargs}")
        cas = call.gets or verb.startswith("gets_")
        return self._fetch(call.pairs, cas=cas) or {}

    def _one(self, verb: str, key: Key, *args: Any, **kwargs: Any) -> Any:
        def act(client: Any, name: Callable[[Key], Key]) -> Any:
            return getattr(client, verb)(name(key), *args, **kwargs)

        return self._confirmed(act, quiet=_QUIET.get(verb, False))

    def _many(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        call = ManyCall(self.wrapped, verb, args, kwargs)

        def act(client: Any, name: Callable[[Key], Key]) -> Any:
            names = [name(wire_key) for _, wire_key in call.pairs]
            answer = getattr(client, verb)(
                call.container(names), *call.args, **call.kwargs
            )
            if answer is None or isinstance(answer, bool):
                return answer
            callers_keys = dict(zip(names, call.keys, strict=True))
            return [callers_keys[failed] for failed in answer]

        return self._confirmed(act, quiet=_QUIET.get(verb, call.keys))

    def _item(self, key: Key, act: Callable[[Any, Key], Any]) -> Any:
        try:
            return self._confirmed(
                lambda client, name: act(client, name(key)), quiet=None
            )
        except KeyError:
            raise KeyError(key) from None

    # The two ways to be strict.

    def _fetch(
        self, pairs: list[tuple[Key, Key]], *, cas: bool
    ) -> dict[Key, Any] | None:
        """Fetch items and the counter together: one round trip a server.

        `pairs` are the caller's keys with the keys they stand for. None where the
        client hides an outage.
        """
        client = self.wrapped
        counter = self.counter
        generation = counter.known or counter.read(client)
        # Twice, because the number known at first may be an old one.
        for _ in range(2):
            if generation is None:
                return None
            name = self._name(client, counter, generation)
            names = [name(wire_key) for _, wire_key in pairs]
            found = libraries.of(client).fetch(client, [counter.key, *names], cas=cas)
            answer = found.pop(counter.key, None)
            if cas and answer is not None:
                answer = answer[0]
            seen = counter.judge(client, answer, generation)
            if seen == generation:
                callers_keys = dict(zip(names, (key for key, _ in pairs), strict=True))
                return {callers_keys[name]: value for name, value in found.items()}
            generation = seen
        # The namespace was invalidated while this operation ran, and holds nothing at
        # that moment.
        return None if generation is None else {}

    def _confirmed(
        self, act: Callable[[Any, Callable[[Key], Key]], Any], *, quiet: Any
    ) -> Any:
        """Act, look at the counter, and act again until it stood still in between.

        Two round trips. `quiet` is the answer where the client hides an outage.
        """
        client = self.wrapped
        counter = self.counter
        generation = counter.known or counter.read(client)
        for _ in range(ATTEMPTS):
            if generation is None:
                return quiet
            answer, error = None, None
            try:
                answer = act(client, self._name(client, counter, generation))
            except libraries.of(client).away:
                raise
            except Exception as raised:  # noqa: BLE001  # whatever the client raises
                # "Not found", or the like, of a generation that may be dead.
                error = raised
            seen = counter.read(client)
            if error is not None and seen in (generation, None):
                raise error
            if seen == generation:
                return answer
            generation = seen
        raise counter.unavailable(f"invalidated {ATTEMPTS} times within one operation")

    def _name(
        self, client: Any, counter: Counter, generation: int
    ) -> Callable[[Key], Key]:
        keys: GenerationKeys | None = self._keys
        if (
            keys is None
            or keys.number != generation
            or keys.namespace != counter.namespace
            or self._keys_client is not client
        ):
            library = libraries.of(client)
            keys = GenerationKeys(
                counter.namespace,
                generation,
                limit=library.key_limit(client),
                refuse_key_ends=not library.checks_keys(client),
            )
            vars(self).update(_keys=keys, _keys_client=client)
        return keys.name


def _is_verb(attribute: object) -> bool:
    # Functions, partials, objects that can be called: whatever may take a key. Not
    # classes, such as pymemcache's `client_class`.
    return callable(attribute) and not isinstance(attribute, type)


class ManyCall:
    """The arguments of a verb that takes many keys, taken apart.

    `pairs` are the caller's keys with the keys they stand for, which differ where
    pylibmc is given a `key_prefix`; `gets` tells whether pymemcache is asked for cas
    tokens; `args` and `kwargs` are what else follows the keys.
    """

    def __init__(
        self, client: Any, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        parameters = libraries.of(client).many_parameters.get(verb, ())
        if args:
            self._given, *rest = args
        else:
            rest = []
            name = "values" if "values" in kwargs else "keys"
            if name not in kwargs:
                raise TypeError(f"{verb}() is missing its keys")
            self._given = kwargs.pop(name)
        if any(name in _LOOKED_AT for name in parameters[: len(rest)]):
            named = dict(zip(parameters, rest, strict=False))
            if named.keys() & kwargs.keys():
                raise TypeError(f"{verb}() got an argument twice: {rest} {kwargs}")
            kwargs.update(named)
            rest = rest[len(parameters) :]
        # What the verb does not know stays, for the client to refuse.
        looked_at = {
            name: kwargs.pop(name)
            for name in _LOOKED_AT.intersection(parameters, kwargs)
        }
        self.gets = bool(looked_at.get("gets"))
        self.args = rest
        self.kwargs = kwargs
        prefix = looked_at.get("key_prefix") or b""
        self.keys: list[Key] = list(self._given)
        self.pairs = [(key, _joined(prefix, key)) for key in self.keys]

    def container(self, names: list[Key]) -> list[Key] | dict[Key, Any]:
        """Put the names where the caller's keys were: in a mapping or a sequence."""
        if isinstance(self._given, Mapping):
            return dict(zip(names, self._given.values(), strict=True))
        return names


def _joined(prefix: Key, key: Key) -> Key:
    if not prefix:
        return key
    if isinstance(prefix, str) and isinstance(key, str):
        return prefix + key
    return _as_bytes(prefix) + _as_bytes(key)


def _as_bytes(key: Key) -> bytes:
    return key.encode() if isinstance(key, str) else key
