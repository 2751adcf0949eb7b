"""Delegation: the methods and attributes that the proxy takes from a wrapped backend.

Django's own are attributes of NamespacedCache. Those of a project's backend are
attributes of a subclass, which is made when such a backend is wrapped.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, MutableMapping
from functools import lru_cache
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any, NamedTuple

from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.memcached import BaseMemcachedCache

from namespaced_cache.proxy.signatures import (
    accept_all,
    is_method,
    parameters,
    with_parameters_of,
)

#: Methods that a backend's other methods call. Code that replaces one of them wants to
#: change those calls. So these are read from and assigned to the wrapped backend.
HELPERS = {"get_backend_timeout", "make_and_validate_key", "make_key", "validate_key"}


class _Method(NamedTuple):
    """A method of Django's on the class of the proxy, and what it calls."""

    function: FunctionType
    call: str
    owner: type
    #: What `signatures.parameters()` returns for Django's method.
    parameters: tuple[object, ...]


_METHODS: dict[str, _Method] = {}


def delegate_djangos_attributes(proxy_class: type) -> None:
    """Give the proxy's class all attributes of Django's memcached backends.

    They are made from Django's own list, so that no method of a later Django is
    missing. They must be attributes of the class: tracers patch `get`, `set`, … on the
    class that BACKEND names, and Django's async methods inspect
    `self.get_many.__func__`.
    """
    for name in {**vars(BaseCache), **vars(BaseMemcachedCache)}:
        if name.startswith("__") and name != "__contains__":
            continue
        source = BaseMemcachedCache if name in vars(BaseMemcachedCache) else BaseCache
        if is_method(vars(source)[name]) and name not in HELPERS:
            setattr(proxy_class, name, _djangos_method(name, source, proxy_class))
        else:
            setattr(proxy_class, name, _attribute(name))
    library = SimpleNamespace(Client=None)
    djangos: Any = BaseMemcachedCache
    for name in vars(djangos("", {}, library, KeyError)):
        setattr(proxy_class, name, _attribute(name))


def _attribute(name: str) -> property:
    """Make a property that is the wrapped backend's attribute."""
    return property(
        lambda self: getattr(self.wrapped, name),
        lambda self, value: setattr(self.wrapped, name, value),
        lambda self: delattr(self.wrapped, name),
    )


def _djangos_method(name: str, source: type, proxy_class: type) -> FunctionType:
    """Make the method that calls the wrapped backend's method of the same name.

    Some of Django's methods call others: `in` calls `has_key`, and `aget` calls `get`.
    Unless the wrapped backend overrides such a method, it runs on the proxy and calls
    the proxy's methods. So a spy on these records the same calls as on a bare backend.
    """
    djangos = vars(BaseCache).get(name)

    def choose(self: Any) -> Any:
        own = getattr(self._namespaced_backend, name)
        if getattr(own, "__func__", own) is djangos:
            return MethodType(djangos, self)
        return own

    # The fast path is for the methods that Django's memcached backends override: the
    # wrapped backend's method is always right.
    is_direct = source is BaseMemcachedCache
    call = _of_the_backend(name) if is_direct else "_namespaced_choose({self})"
    used = {"_namespaced_choose": choose}
    member = vars(source)[name]
    method = with_parameters_of(member, name, proxy_class, call, used)
    _METHODS[name] = _Method(method, call, proxy_class, parameters(member))
    return method


def _of_the_backend(name: str) -> str:
    return f"{{self}}._namespaced_backend.{name}"


def class_for(
    proxy_class: type, wrapped_class: type, backend: BaseMemcachedCache
) -> type:
    """Return the class of a proxy for this backend of `wrapped_class`.

    This is `proxy_class`, unless the backend has attributes of its own, or methods with
    other parameters. Then it is a subclass that has them, for code that does not use
    `getattr()`.
    """
    members: dict[str, Any] = {}
    for each in reversed(wrapped_class.__mro__):
        members |= vars(each)
    methods = []
    members |= {
        name: each for name, each in vars(backend).items() if not is_hidden(name)
    }
    data = set()
    for name, found in members.items():
        if name.startswith("__"):
            continue
        djangos = _METHODS.get(name)
        member = found
        if not is_method(member):
            if djangos is None:
                data.add(name)
                continue
            # Such as a partial or a static method, whose parameters are unknown.
            is_async = inspect.iscoroutinefunction(djangos.function)
            member = _any_async if is_async else _any
        if djangos and parameters(member) == djangos.parameters:
            continue
        owner = _owner(proxy_class, name)
        if owner is (djangos and djangos.owner):
            methods.append((name, member))
        elif djangos:
            # A project's subclass of the proxy overrides it, and may call it.
            accept_all(djangos.function, djangos.call)
    data = {name for name in data if _owner(proxy_class, name) is None}
    if methods or data:
        return _subclass(proxy_class, tuple(methods), frozenset(data))
    return proxy_class


def _any(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Show the parameters of a method that is not a plain function."""


async def _any_async(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Show the parameters of an async method that is not a plain function."""


def _owner(proxy_class: type, name: str) -> type | None:
    """Return the class that has this attribute, or None."""
    for each in proxy_class.__mro__:
        if name in each.__dict__:
            return each
    return None


@lru_cache(maxsize=128)
def _subclass(
    proxy_class: Any, methods: tuple[tuple[str, Any], ...], data: frozenset[str]
) -> type:
    names = ("__module__", "__qualname__", "__doc__")
    attributes = {name: getattr(proxy_class, name) for name in names}
    attributes |= {name: _attribute(name) for name in data}
    subclass = type(proxy_class.__name__, (proxy_class,), attributes)
    for name, member in methods:
        call, used = _of_the_backend(name), {}
        if name in _METHODS:
            call = "_namespaced_next({self})"
            used = {"_namespaced_next": _next_method(subclass, proxy_class, name)}
        method = with_parameters_of(member, name, proxy_class, call, used)
        setattr(subclass, name, method)
    return subclass


def _next_method(
    subclass: type, proxy_class: type, name: str
) -> Callable[[Any], Callable[..., Any]]:
    """Make the function that finds what a method with other parameters calls.

    This is the wrapped backend's method. But if a tracer has replaced the method of the
    proxy's class, it is the tracer's.
    """
    djangos = _METHODS[name]

    def find(self: Any) -> Any:
        owner = _owner(proxy_class, name)
        if owner is djangos.owner and vars(owner)[name] is djangos.function:
            return getattr(self._namespaced_backend, name)
        accept_all(djangos.function, djangos.call)
        return getattr(super(subclass, self), name)

    return find


#: Returns the dictionary of a proxy's own attributes. `vars()` returns `Attributes`.
own_attributes = vars(BaseCache)["__dict__"].__get__


def is_hidden(name: str) -> bool:
    """Tell whether `vars()` of a proxy leaves this attribute of the objects below out.

    These are this package's own, and the real client, which is in no namespace.
    """
    return name == "_cache" or name.startswith(("_namespaced_", "_ClientBoundary__"))


class Attributes(dict[str, Any]):
    """The `vars()` of a proxy: the wrapped backend's attributes, and what was patched.

    It is a copy. A change of the copy also changes the attribute of the proxy.
    """

    def __init__(self, proxy: Any, backend: BaseMemcachedCache) -> None:
        self._proxy = proxy
        for attributes in (vars(backend), own_attributes(proxy)):
            # dict() copies them in one step, because other threads may add some.
            for name, value in dict(attributes).items():
                if not is_hidden(name):
                    super().__setitem__(name, value)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self._proxy, name, value)
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        delattr(self._proxy, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    # These methods of a dict do not call the ones above.
    clear = MutableMapping.clear
    pop = MutableMapping.pop
    popitem = MutableMapping.popitem
    setdefault = MutableMapping.setdefault
    update = MutableMapping.update
