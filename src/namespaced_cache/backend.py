"""NamespacedCache: the class that BACKEND points at.

    application ─► NamespacedCache ─► wrapped backend ─► NamespacedClient ─► client

It is a proxy and nothing else. Keys are made and validated by the wrapped backend,
which is production's own; they get their generation in `client.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import wraps
from types import FunctionType, MethodType
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.memcached import BaseMemcachedCache

from namespaced_cache import identity, options, wrapped
from namespaced_cache.client import NamespacedClient
from namespaced_cache.generation import PinnedGeneration

#: Routines that a backend's own verbs call. Who replaces one means those calls, so they
#: are the wrapped backend's, to read and to assign, like its data.
HELPERS = {"get_backend_timeout", "make_and_validate_key", "make_key", "validate_key"}


class NamespacedCache(BaseMemcachedCache):
    """A memcached backend whose keys live in a namespace that is forgotten at once.

    Every verb of Django's cache API is handed to the wrapped backend, and so is every
    other attribute, read or assigned. It passes for the wrapped backend's class in
    `isinstance()`. OPTIONS are described in the README; wrong ones raise
    ImproperlyConfigured.
    """

    _namespaced_backend: BaseMemcachedCache

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        # Not super().__init__(): what it would set is the wrapped backend's to hold.
        settings = options.read(params, wrapper=NamespacedCache)
        if settings.namespace is None:
            identity.run()  # named now, for child processes that are started next
        # Names that no backend has, for all other attributes are the wrapped backend's.
        vars(self).update(
            _namespaced_from=(server, params),
            _namespaced_class=settings.wrapped_class,
            _namespaced_backend=wrapped.build(server, settings),
        )

    @property
    def wrapped(self) -> BaseMemcachedCache:
        """The wrapped backend. Its keys are in the namespace as well."""
        return self._namespaced_backend

    @property
    def namespace(self) -> str:
        """The namespace's name in this process, with its worker. No round trip."""
        client: NamespacedClient = self._cache
        return client.counter.namespace

    @property
    def generation(self) -> int:
        """The generation that stands on the server: one round trip.

        Raises NamespaceUnavailable where there is none to be had.
        """
        client: NamespacedClient = self._cache
        return client.current_generation()

    def invalidate_namespace(self) -> int:
        """Forget every key of the namespace and return its new generation.

        One round trip, however many keys there are. Other namespaces, and what others
        keep on the server, stay as they are. Raises NamespaceUnavailable unless a
        server acknowledged it.
        """
        client: NamespacedClient = self._cache
        return client.invalidate()

    async def ainvalidate_namespace(self) -> int:
        """See invalidate_namespace()."""
        return await sync_to_async(self.invalidate_namespace, thread_sensitive=True)()

    def pinned_generation(self) -> PinnedGeneration:
        """Make a block in which this context keeps to one generation.

        `with` or `async with`; it gives the generation, which is read at its start, in
        one round trip. No operation of the block, in this thread or task and those
        tasks that it starts, looks at the counter again. If somebody else invalidates
        the namespace meanwhile, the block reads and writes in the dead generation: what
        it computed from old data never comes into the new one. An invalidation made
        inside the block moves it on.

        Raises NamespaceUnavailable, at the start, unless a server answers.
        """
        client: NamespacedClient = self._cache
        return client.pinned_generation()

    # The proxy.

    @property  # type: ignore[misc]  # read only here
    def __class__(self) -> type:
        # isinstance() asks type() first and then this: it holds for both classes.
        wrapped_class: type = vars(self).get("_namespaced_class", type(self))
        return wrapped_class

    def __getattr__(self, name: str) -> Any:
        # Only for what the class lacks. copy and pickle ask before __init__() ran.
        if "_namespaced_backend" not in vars(self):
            raise AttributeError(name)
        return getattr(self._namespaced_backend, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # A verb's name is a spy's; it stays here, where the application calls it. All
        # else is the wrapped backend's.
        if hasattr(type(self), name) or callable(
            getattr(type(self._namespaced_backend), name, None)
        ):
            super().__setattr__(name, value)
        else:
            setattr(self._namespaced_backend, name, value)

    def __delattr__(self, name: str) -> None:
        if name in vars(self) or hasattr(type(self), name):
            super().__delattr__(name)
        else:
            delattr(self._namespaced_backend, name)

    def __dir__(self) -> Iterable[str]:
        return {*super().__dir__(), *dir(self._namespaced_backend)}

    def __repr__(self) -> str:
        return (
            f"<NamespacedCache {self.namespace!r} of {self._namespaced_class.__name__}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy has a client of its own; modules and sockets cannot be pickled.
        state = {name: getattr(self, name) for name in vars(BaseCache({}))}
        return type(self), self._namespaced_from, state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self._namespaced_backend, name, value)


def _handed_over(name: str, member: object) -> object:
    """Make the attribute that hands over to the wrapped backend's of the same name."""
    if inspect.isfunction(member) and name not in HELPERS:
        verb = _verb(name, member)
        # Tracers name by it what they record, as profilers do.
        code = verb.__code__
        qualified = f"{NamespacedCache.__qualname__}.{name}"
        verb.__code__ = code.replace(co_name=name, co_qualname=qualified)
        return verb

    return property(
        lambda self: getattr(self.wrapped, name),
        lambda self, value: setattr(self.wrapped, name, value),
        lambda self: delattr(self.wrapped, name),
    )


def _verb(name: str, member: Any) -> FunctionType:
    """Make the verb that hands over to the wrapped backend's of the same name.

    Django makes some verbs of others, `in` of `has_key` and `aget` of `get`. Such a one
    is made of ours, unless the wrapped backend has a way of its own, so that who spies
    on those sees what he sees on the bare backend.
    """
    djangos = vars(BaseCache).get(name)

    def choose(self: NamespacedCache) -> Any:
        theirs = getattr(self._namespaced_backend, name)
        if getattr(theirs, "__func__", theirs) is djangos:
            return MethodType(djangos, self)
        return theirs

    if inspect.iscoroutinefunction(member):

        @wraps(member)
        async def averb(self: NamespacedCache, *args: Any, **kwargs: Any) -> Any:
            return await choose(self)(*args, **kwargs)

        return cast("FunctionType", averb)

    @wraps(member)
    def verb(self: NamespacedCache, *args: Any, **kwargs: Any) -> Any:
        return choose(self)(*args, **kwargs)

    # In short, where there is nothing to choose: the verbs that reach the server.
    @wraps(member)
    def short(self: NamespacedCache, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._namespaced_backend, name)(*args, **kwargs)

    chosen = short if name in vars(BaseMemcachedCache) else verb
    return cast("FunctionType", chosen)


# Made from Django's own list, so that a verb of a later Django is not forgotten. They
# must stand on the class: tracers wrap `get`, `set`, … on the class that BACKEND names,
# and Django's async verbs look at `self.get_many.__func__`.
for _name, _member in {**vars(BaseCache), **vars(BaseMemcachedCache)}.items():
    if not _name.startswith("__") or _name == "__contains__":
        setattr(NamespacedCache, _name, _handed_over(_name, _member))
