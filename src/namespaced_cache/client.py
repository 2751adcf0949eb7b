"""NamespacedClient: the one place where a key gets its generation.

A wrapped backend has it for its `_cache`. Every verb of the real client that takes keys
is namespaced by its shape, one key or many; the rest passes through or is refused, as
`verbs.py` lists it.

Every operation takes effect in the generation that the counter shows at a moment of the
operation. Where the look at the counter travels with it, it goes out under the newest
generation that this process knows; if the counter stands elsewhere, what was done is
invisible, for it happened in a dead generation, and is done again. Where the look
cannot travel, it follows. Where the generation is pinned, or may be trusted for a
while, there is none.
"""

from __future__ import annotations

import operator
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from namespaced_cache import identity, libraries
from namespaced_cache.errors import VerbRefusedError
from namespaced_cache.expiry import capped
from namespaced_cache.generation import Counter, Pin, PinnedGeneration
from namespaced_cache.keys import GenerationKeys, Key
from namespaced_cache.look import ABSENT, Look, waiting
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


_NOTHING = object()


class Route:
    """The way to a namespace, as it is at the moment.

    The real client; `home`, the client that reaches the counter, often the same; and
    the counter.
    """

    def __init__(self, client: Any, home: Any, counter: Counter) -> None:
        self.client = client
        self.is_home = home is None
        self.home = client if home is None else home
        self.counter = counter
        self.library = libraries.of(client)
        #: A route leads no further than the names do that it was made of.
        self.epoch = identity.epoch
        #: Travels with commands; None where it does not.
        self.request = self.library.request(client, self.home, counter.key)
        #: Returns the client's verb of a name, given what it answers where it hides an
        #: outage.
        self.verb: Callable[[str, object], Callable[..., Any]] = partial(
            self.library.verb, client
        )
        #: Whether what reads can fetch the counter as well, which is the next best.
        self.fetches = self.request is None and self.is_home
        self._keys: GenerationKeys | None = None

    def name(self, generation: int) -> Callable[[Key], Key]:
        """Return what gives a key its generation."""
        keys = self._keys
        if keys is None or keys.number != generation:
            library, client = self.library, self.client
            self._keys = keys = GenerationKeys(
                self.counter.namespace,
                generation,
                limit=library.key_limit(client),
                refuse_key_ends=not library.checks_keys(client),
                check=partial(library.check, client),
            )
        return keys.name

    def done(
        self,
        act: Act,
        max_staleness: float,
        quiet: Any,
        missing: Any = _NOTHING,
        verb: str = "",
    ) -> Any:
        """Act, and look at the counter, until it stands still meanwhile.

        For `max_staleness` seconds the known generation is trusted without a look.
        `quiet` is the answer where the client hides an outage, `missing` that of a read
        where there is no counter, and so nothing in the namespace; `verb` is what
        `act` does.
        """
        counter = self.counter
        try:
            generation = counter.trusted(max_staleness)
            if generation is not None:
                try:
                    answer = act(self, self.name(generation), None)
                except Exception:
                    if counter.stands_at(generation, max_staleness):
                        raise
                else:
                    if counter.stands_at(generation, max_staleness):
                        return answer
            return self._until_confirmed(act, max_staleness, quiet, missing, verb)
        except Exception:
            raise
        except BaseException:  # Ctrl-C, a test's time limit
            self.break_off()
            raise

    def _until_confirmed(
        self, act: Act, max_staleness: float, quiet: Any, missing: Any, verb: str
    ) -> Any:
        counter = self.counter
        for attempt in range(ATTEMPTS):
            if attempt >= _PATIENCE:
                time.sleep(random.uniform(0, _PAUSE))  # noqa: S311  # no secret
            generation, look = self._begin(max_staleness)
            if generation is None:
                return quiet
            answer, error = None, None
            try:
                answer = self.act(act, generation, look)
            except Exception as raised:
                if self.library.is_away(raised, verb):
                    raise
                # It may be of a generation that is dead, or of the counter itself.
                error = raised
            if look and look.answer is ABSENT and missing is not _NOTHING:
                return missing  # who writes will seed the counter
            # Another thread may have begun a newer one since.
            seen = counter.seen(self.home, look) if look else counter.known
            if seen in (generation, None):
                if error is not None:
                    raise error
                return quiet if seen is None else answer
        raise counter.unavailable(f"invalidated {ATTEMPTS} times within one operation")

    def _begin(self, max_staleness: float) -> tuple[int | None, Look | None]:
        """Return the generation to act in, and the look that has to confirm it.

        No look where it was read just now, no generation where none is to be had.
        """
        counter = self.counter
        generation = counter.trusted(max_staleness) if max_staleness else None
        if generation is not None:
            return generation, None
        if counter.known:
            look = counter.look(self.request)
            return look.floor, look
        return counter.read(self.home), None

    def act(self, act: Act, generation: int, look: Look | None) -> Any:
        """Act in a generation, and have a look travel with it where it can."""
        if look is None or look.request is None:
            return act(self, self.name(generation), look)
        waiting.look = look
        try:
            return act(self, self.name(generation), look)
        finally:
            waiting.look = None

    def fetch(self, names: list[Key], look: Look) -> dict[Key, Any]:
        """Fetch items and the counter together; the look is answered."""
        key: Key = self.counter.key
        found: dict[Key, Any] = self.client.get_multi([key, *names])
        look.answer = found.pop(key, ABSENT)
        return found

    def break_off(self) -> None:
        """Leave no reply behind that the next command would take for its own."""
        for client in {self.client, self.home}:
            self.library.break_off(client)


#: What is done by a route with a key's name-giver; the look is None where none is
#: needed.
Act = Callable[[Route, Callable[[Key], Key], Look | None], Any]


class NamespacedClient:
    """The real client, with every key moved into a namespace's live generation.

    `connect` gives the real client of the moment, `find_counter` the counter and
    `find_route` the way to it; they are asked at every operation, because a backend may
    reconnect and a process may fork or become a test worker. For `max_staleness`
    seconds the known generation is trusted without a look; unless it is None, no item
    stays for more than `max_timeout` seconds.

    Data attributes are read from and written to the real client. The real client itself
    is `wrapped`: what is done through it is in no namespace.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        find_counter: Callable[[], Counter],
        find_route: Callable[[], Route],
        max_staleness: float,
        max_timeout: int | None,
    ) -> None:
        vars(self).update(
            _connect=connect,
            _find_counter=find_counter,
            _find_route=find_route,
            _max_staleness=max_staleness,
            _max_timeout=max_timeout,
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
        return self._ask(Counter.current)

    def pinned_generation(self) -> PinnedGeneration:
        """Make the block in which this context keeps to one generation."""

        def look() -> Pin:
            return Pin(self.counter, self._ask(Counter.current))

        return PinnedGeneration(look)

    def invalidate(self) -> int:
        """Begin a new generation and return it: one round trip.

        Raises NamespaceUnavailable unless a server acknowledged it.
        """
        return self._ask(Counter.bump)

    def flush_all(self) -> bool:
        """Invalidate this namespace and nothing else; True as clients answer it.

        It takes no delay: an invalidation cannot be put off.
        """
        self.invalidate()
        return True

    def _ask(self, question: Callable[[Counter, Any], int]) -> int:
        route: Route = self._find_route()
        try:
            return question(route.counter, route.home)
        except Exception:
            raise
        except BaseException:  # as in Route.done
            route.break_off()
            raise

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
        vars(self)[name] = verb  # so that it is not looked for again
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
        clones: dict[int, tuple[Any, Any]] = {}  # by process, for a child needs others

        def clients() -> tuple[Any, Any]:
            process = os.getpid()
            if process not in clones:
                route = self._find_route()
                client = route.client.clone()
                home = None if route.is_home else route.home.clone()
                for clone in (client, home):
                    libraries.watch(clone)
                clones[process] = client, home
            return clones[process]

        clients()  # now, and not in the other thread, while this one is at work
        return NamespacedClient(
            lambda: clients()[0],
            self._find_counter,
            lambda: Route(*clients(), self._find_counter()),
            self._max_staleness,
            self._max_timeout,
        )

    def _leave(self, verb: str) -> Any:
        """Close the connection to the counter's home as well."""
        route = self._find_route()
        if not route.is_home:
            getattr(route.home, verb)()
        return getattr(route.client, verb)()

    def _get(self, key: Key, default: Any = None) -> Any:
        def act(route: Route, name: Callable[[Key], Key], look: Look | None) -> Any:
            wire_key = name(key)
            if look is None or not route.fetches:
                return route.verb("get", default)(wire_key, default)
            return route.fetch([wire_key], look).get(wire_key, default)

        route: Route = self._find_route()
        return route.done(act, self._max_staleness, default, default)

    def _gets(self, key: Key, *defaults: Any, **named_defaults: Any) -> Any:
        def act(route: Route, name: Callable[[Key], Key], _: Look | None) -> Any:
            gets = route.verb("gets", None)
            return gets(name(key), *defaults, **named_defaults)

        missing = _neither(*defaults, **named_defaults)
        route: Route = self._find_route()
        return route.done(act, self._max_staleness, None, missing)

    def _get_many(self, verb: str, *args: Any, **kwargs: Any) -> dict[Key, Any]:
        call = ManyCall(self._connect, verb, args, kwargs)
        if call.args or call.kwargs:
            raise TypeError(f"{verb}() got more than keys: {call.args} {call.kwargs}")
        cas = call.gets or verb.startswith("gets_")

        def act(route: Route, name: Callable[[Key], Key], look: Look | None) -> Any:
            names = [*map(name, call.wire_keys)]
            if cas:
                found = route.verb("gets_many", {})(names)
            elif look is None or not route.fetches:
                found = route.verb("get_multi", {})(names)
            else:
                found = route.fetch(names, look)
            callers_keys = dict(zip(names, call.keys, strict=True))
            return {callers_keys[name]: value for name, value in found.items()}

        if not call.keys:
            return {}
        route: Route = self._find_route()
        found: dict[Key, Any] = route.done(act, self._max_staleness, {}, {})
        return found

    def _one(self, verb: str, key: Key, *args: Any, **kwargs: Any) -> Any:
        if self._max_timeout is not None:
            args = tuple(self._capped(self._max_timeout, verb, args, kwargs))

        def act(route: Route, name: Callable[[Key], Key], _: Look | None) -> Any:
            wire_key = name(key)
            if verb == "gets" and isinstance(wire_key, str):
                # pylibmc 1.6.3 makes bytes of text, and frees them before it sends
                # them: other threads' keys may be asked for instead. See
                # https://github.com/lericson/pylibmc/issues/300
                wire_key = wire_key.encode()
            return route.verb(verb, quiet)(wire_key, *args, **kwargs)

        quiet = QUIET.get(verb, False)
        route: Route = self._find_route()
        return route.done(act, self._max_staleness, quiet, verb=verb)

    def _many(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        call = ManyCall(self._connect, verb, args, kwargs)
        rest = call.args
        if self._max_timeout is not None:
            rest = self._capped(self._max_timeout, verb, rest, call.kwargs)
        if not call.keys:
            return getattr(self.wrapped, verb)(call.container([]), *rest, **call.kwargs)

        def act(route: Route, name: Callable[[Key], Key], _: Look | None) -> Any:
            names = [*map(name, call.wire_keys)]
            real = route.verb(verb, QUIET.get(verb, names))
            answer = real(call.container(names), *rest, **call.kwargs)
            if answer is None or isinstance(answer, bool):
                return answer
            callers_keys = dict(zip(names, call.keys, strict=True))
            return [callers_keys[failed] for failed in answer]

        quiet = QUIET.get(verb, call.keys)
        route: Route = self._find_route()
        return route.done(act, self._max_staleness, quiet, verb=verb)

    def _item(self, key: Key, act: Callable[[Any, Key], Any]) -> Any:
        try:
            route: Route = self._find_route()
            return route.done(
                lambda route, name, _: act(route.client, name(key)),
                self._max_staleness,
                None,
            )
        except KeyError:
            raise KeyError(key) from None

    def _capped(
        self, longest: int, verb: str, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Sequence[Any]:
        """Cap the expiry among the arguments that follow a verb's keys."""
        expiry = libraries.of(self.wrapped).expiries.get(verb)
        if expiry is None:
            return args
        name, place = expiry
        if place >= len(args):
            kwargs[name] = capped(kwargs.get(name, 0), longest)
            return args
        return [*args[:place], capped(args[place], longest), *args[place + 1 :]]


def _neither(default: Any = None, cas_default: Any = None) -> tuple[Any, Any]:
    """Return what pymemcache's `gets` answers where there is no such key."""
    return default, cas_default
