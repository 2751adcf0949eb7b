"""NamespacedClient: the one place where a key gets its generation.

A wrapped backend has it for its `_cache`. Every verb of the real client that takes keys
is namespaced by its shape, one key or many; the rest passes through or is refused, as
`verbs.py` lists it.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from namespaced_cache import events, libraries
from namespaced_cache.errors import VerbRefusedError
from namespaced_cache.expiry import capped
from namespaced_cache.generation import Counter, Pin, PinnedGeneration
from namespaced_cache.keys import GenerationKeys, Key
from namespaced_cache.look import Look
from namespaced_cache.route import Route
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
        generation = self._ask(Counter.bump)
        namespace = self.counter.namespace
        events.note("invalidated", "Namespace %r: now %d", namespace, generation)
        # Not above: it needs the backend, which needs this module.
        from namespaced_cache import signals  # noqa: PLC0415

        signals.send(self, namespace, generation)
        return generation

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
        except BaseException:  # as in Route.done()
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
                # The counter's client is often the same.
                cloned = {
                    client: client.clone() for client in (route.client, route.home)
                }
                for clone in cloned.values():
                    libraries.watch(clone)
                clones[process] = cloned[route.client], cloned[route.home]
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
        if route.home is not route.client:
            getattr(route.home, verb)()
        return getattr(route.client, verb)()

    def _get(self, key: Key, default: Any = None) -> Any:
        def act(route: Route, its: GenerationKeys, look: Look | None) -> Any:
            wire_key = its.name(key)
            if look is None or not route.fetches:
                return route.call("get", default, wire_key, default)
            return route.fetch([wire_key], look).get(wire_key, default)

        route: Route = self._find_route()
        return route.done(act, self._max_staleness, default, default)

    def _gets(self, key: Key, *defaults: Any, **named_defaults: Any) -> Any:
        def act(route: Route, its: GenerationKeys, _: Look | None) -> Any:
            return route.call("gets", None, its.name(key), *defaults, **named_defaults)

        missing = _neither(*defaults, **named_defaults)
        route: Route = self._find_route()
        return route.done(act, self._max_staleness, None, missing)

    def _get_many(self, verb: str, *args: Any, **kwargs: Any) -> dict[Key, Any]:
        call = ManyCall(self._connect, verb, args, kwargs)
        if call.args or call.kwargs:
            raise TypeError(f"{verb}() got more than keys: {call.args} {call.kwargs}")
        cas = call.gets or verb.startswith("gets_")

        def act(route: Route, its: GenerationKeys, look: Look | None) -> Any:
            names = its.names(call.wire_keys)
            if cas:
                found = route.call("gets_many", {}, names)
            elif look is None or not route.fetches:
                found = route.call("get_multi", {}, names)
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

        def act(route: Route, its: GenerationKeys, _: Look | None) -> Any:
            wire_key = its.name(key)
            if verb == "gets" and isinstance(wire_key, str):
                # pylibmc 1.6.3 makes bytes of text, and frees them before it sends
                # them: other threads' keys may be asked for instead. See
                # https://github.com/lericson/pylibmc/issues/300
                wire_key = wire_key.encode()
            return route.call(verb, quiet, wire_key, *args, **kwargs)

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

        def act(route: Route, its: GenerationKeys, _: Look | None) -> Any:
            names = its.names(call.wire_keys)
            given, hidden = call.container(names), QUIET.get(verb, names)
            answer = route.call(verb, hidden, given, *rest, **call.kwargs)
            if not answer or answer is True:
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
                lambda route, its, _: act(route.client, its.name(key)),
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
