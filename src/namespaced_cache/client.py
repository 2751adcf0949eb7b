"""NamespacedClient: the one place where a key gets its generation.

A wrapped backend has it for its `_cache`. Every verb of the real client that takes keys
is namespaced by its shape, one key or many; the rest passes through or is refused, as
`verbs.py` lists it.

Every verb is strict in the same way: it goes out under the newest generation that this
process knows, together with a look at the counter. If the counter stands elsewhere,
what was done is invisible, for it happened in a dead generation, and is done again.
Where the generation is pinned, or may be trusted for a while, there is no look.
"""

from __future__ import annotations

import operator
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from namespaced_cache import libraries
from namespaced_cache.errors import VerbRefusedError
from namespaced_cache.expiry import capped
from namespaced_cache.generation import ABSENT, Counter, Pin, PinnedGeneration
from namespaced_cache.keys import GenerationKeys, Key
from namespaced_cache.verbs import (
    LEAVING,
    MANY_KEYS,
    ONE_KEY,
    PASSED,
    QUIET,
    REFUSED,
    ManyCall,
    is_verb,
)

#: How often an operation is done again before it gives up. Each time means that another
#: process invalidated the namespace within the few microseconds between.
ATTEMPTS = 100

#: After so many, it waits a moment, up to so many seconds, for a storm to pass.
_PATIENCE = 10
_PAUSE = 0.002


class NamespacedClient:
    """The real client, with every key moved into a namespace's live generation.

    `connect` gives the real client of the moment and `find_counter` the counter of the
    moment; both are asked at every operation, because a backend may reconnect and a
    process may fork or become a test worker. `connect_home` gives the client that
    reaches the counter, None where the real one does. For `max_staleness` seconds the
    known generation is trusted without a look; unless it is None, no item stays for
    more than `max_timeout` seconds.

    Data attributes are read from and written to the real client. The real client itself
    is `wrapped`: what is done through it is in no namespace.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        find_counter: Callable[[], Counter],
        connect_home: Callable[[], Any],
        max_staleness: float,
        max_timeout: int | None,
    ) -> None:
        vars(self).update(
            _connect=connect,
            _find_counter=find_counter,
            _connect_home=connect_home,
            _max_staleness=max_staleness,
            _max_timeout=max_timeout,
            _keys=None,
            _keys_client=None,
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

    def current_generation(self) -> int:
        """Return the generation that stands on the server: one round trip.

        Raises NamespaceUnavailable where there is none to be had.
        """
        _, home = self._clients()
        return self.counter.current(home)

    def pinned_generation(self) -> PinnedGeneration:
        """Make the block in which this context keeps to one generation."""

        def look() -> Pin:
            _, home = self._clients()
            counter = self.counter
            return Pin(counter, counter.current(home))

        return PinnedGeneration(look)

    def invalidate(self) -> int:
        """Begin a new generation and return it: one round trip.

        Raises NamespaceUnavailable unless a server acknowledged it.
        """
        _, home = self._clients()
        return self.counter.bump(home)

    def flush_all(self) -> bool:
        """Invalidate this namespace and nothing else; True as clients answer it.

        It takes no delay: an invalidation cannot be put off.
        """
        self.invalidate()
        return True

    def _clients(self) -> tuple[Any, Any]:
        """Return the real client and the one that reaches the counter, often the same.

        Once for an operation: a backend may make another at each use.
        """
        client = self.wrapped
        home = self._connect_home()
        return client, client if home is None else home

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
        elif name == "clone":
            verb = self._clone
        elif name in LEAVING:
            verb = partial(self._leave, name)
        elif name in PASSED or not is_verb(real):
            return real
        else:
            reason = REFUSED.get(name, "nobody has said where it takes its keys")
            raise VerbRefusedError(
                f"{type(client).__name__}.{name}() cannot be namespaced: {reason}. The "
                f"real client, outside any namespace, is `cache._cache.wrapped`."
            )
        return verb

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self) or is_verb(getattr(self.wrapped, name, None)):
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
        if self._max_timeout is not None:
            self.set(key, value)  # which can say when the item expires
        else:
            self._item(key, lambda client, name: operator.setitem(client, name, value))

    def __delitem__(self, key: Key) -> None:
        self._item(key, operator.delitem)

    def __contains__(self, key: Key) -> bool:
        return bool(self._item(key, operator.contains))

    # The shapes of verbs.

    def _clone(self) -> NamespacedClient:
        """Return a clone of the real client in the same namespace (pylibmc).

        And of the counter's client: who clones has another thread use it.
        """

        def cloned(original: Callable[[], Any]) -> Callable[[], Any]:
            clones: dict[int, Any] = {}  # by process, for a child needs another

            def connect() -> Any:
                process = os.getpid()
                if process not in clones:
                    client = original()
                    clones[process] = None if client is None else client.clone()
                    libraries.watch(clones[process])
                return clones[process]

            connect()  # now, and not in the other thread, while this one is at work
            return connect

        return NamespacedClient(
            cloned(self._connect),
            self._find_counter,
            cloned(self._connect_home),
            self._max_staleness,
            self._max_timeout,
        )

    def _leave(self, verb: str) -> Any:
        """Close the connection to the counter's home as well."""
        client, home = self._clients()
        if home is not client:
            getattr(home, verb)()
        return getattr(client, verb)()

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
        args = tuple(self._capped(verb, args, kwargs))

        def act(client: Any, name: Callable[[Key], Key]) -> Any:
            wire_key = name(key)
            if verb == "gets" and isinstance(wire_key, str):
                # pylibmc 1.6.3 makes bytes of text, and frees them before it sends
                # them: other threads' keys may be asked for instead. See
                # https://github.com/lericson/pylibmc/issues/300
                wire_key = wire_key.encode()
            return getattr(client, verb)(wire_key, *args, **kwargs)

        return self._confirmed(act, quiet=QUIET.get(verb, False), verb=verb)

    def _many(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        call = ManyCall(self.wrapped, verb, args, kwargs)
        rest = self._capped(verb, call.args, call.kwargs)

        def act(client: Any, name: Callable[[Key], Key]) -> Any:
            names = [name(wire_key) for _, wire_key in call.pairs]
            answer = getattr(client, verb)(call.container(names), *rest, **call.kwargs)
            if answer is None or isinstance(answer, bool):
                return answer
            callers_keys = dict(zip(names, call.keys, strict=True))
            return [callers_keys[failed] for failed in answer]

        return self._confirmed(act, quiet=QUIET.get(verb, call.keys), verb=verb)

    def _item(self, key: Key, act: Callable[[Any, Key], Any]) -> Any:
        try:
            return self._confirmed(
                lambda client, name: act(client, name(key)), quiet=None
            )
        except KeyError:
            raise KeyError(key) from None

    def _capped(
        self, verb: str, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Sequence[Any]:
        """Cap the expiry among the arguments that follow a verb's keys."""
        longest = self._max_timeout
        if longest is None:
            return args
        expiry = libraries.of(self.wrapped).expiries.get(verb)
        if expiry is None:
            return args
        name, place = expiry
        if place >= len(args):
            kwargs[name] = capped(kwargs.get(name, 0), longest)
            return args
        return [*args[:place], capped(args[place], longest), *args[place + 1 :]]

    # The two ways to be strict.

    def _fetch(
        self, pairs: list[tuple[Key, Key]], *, cas: bool
    ) -> dict[Key, Any] | None:
        """Fetch items, and the counter unless it need not be looked at.

        `pairs` are the caller's keys with the keys they stand for. One round trip a
        server, and one more where the counter has a home of its own. None where the
        client hides an outage.
        """
        client, home = self._clients()
        counter = self.counter
        generation = counter.trusted(self._max_staleness)
        if generation is None and home is not client:
            generation = counter.read(home)
            if generation is None:
                return None
        if generation is not None:
            name = self._name(client, counter, generation)
            return self._fetch_named(client, name, pairs, cas=cas)[1]

        generation = counter.known or counter.read(client)
        # Twice, because the number known at first may be an old one.
        for _ in range(2):
            if generation is None:
                return None
            question = counter.question()
            name = self._name(client, counter, generation)
            try:
                answer, found = self._fetch_named(
                    client, name, pairs, counter.key, cas=cas
                )
            except Exception as error:
                if libraries.of(client).is_undecodable(error):
                    counter.read(client)  # which says so if it is the counter
                raise
            if answer is ABSENT and not cas:
                # Lost, or hidden with all else by a client whose server is away; to
                # seed it then would wait for that server once more. The namespace holds
                # nothing either way, and who writes will seed it.
                return {}
            seen = counter.judge(client, answer, question)
            if seen == generation:
                return found
            generation = seen
        # The namespace was invalidated while this operation ran, and holds nothing at
        # that moment.
        return None if generation is None else {}

    def _fetch_named(
        self,
        client: Any,
        name: Callable[[Key], Key],
        pairs: list[tuple[Key, Key]],
        *counters: Key,
        cas: bool,
    ) -> tuple[object, dict[Key, Any]]:
        """Fetch items of one generation, and the counter if its key is given."""
        names = [name(wire_key) for _, wire_key in pairs]
        found = libraries.of(client).fetch(client, [*counters, *names], cas=cas)
        answer: Any = ABSENT
        for key in counters:
            answer = found.pop(key, ABSENT)
            if cas and answer is not ABSENT:
                answer, _ = answer
        callers_keys = dict(zip(names, (key for key, _ in pairs), strict=True))
        return answer, {callers_keys[name]: value for name, value in found.items()}

    def _confirmed(
        self,
        act: Callable[[Any, Callable[[Key], Key]], Any],
        *,
        quiet: Any,
        verb: str = "",
    ) -> Any:
        """Act, look at the counter, and act again until it stood still in between.

        Two round trips; one where the counter need not be looked at. `quiet` is the
        answer where the client hides an outage.
        """
        client, home = self._clients()
        counter = self.counter
        trusted = partial(counter.trusted, self._max_staleness)
        generation = trusted() or counter.known or counter.read(home)
        for attempt in range(ATTEMPTS):
            if generation is None:
                return quiet
            if attempt >= _PATIENCE:
                time.sleep(random.uniform(0, _PAUSE))  # noqa: S311  # no secret
            answer, error = None, None
            try:
                answer = act(client, self._name(client, counter, generation))
            except Exception as raised:
                if libraries.of(client).is_away(raised, verb):
                    raise
                # "Not found", or the like, of a generation that may be dead.
                error = raised
            # Also where it is trusted: another thread may have moved it since.
            seen = trusted() or counter.read(home)
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
                check=partial(library.check, client),
            )
            vars(self).update(_keys=keys, _keys_client=client)
        return keys.name
