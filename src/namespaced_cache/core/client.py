"""NamespacedClient: the one place where a key gets its generation.

It is the `_cache` of a wrapped backend. Each library has a table of commands (see
`adapters`). A command that takes keys is namespaced as its line in the table says. A
command that takes no key passes through. A command that is not in the table is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from namespaced_cache import events
from namespaced_cache.adapters.adapter import adapter_of, is_client
from namespaced_cache.adapters.arguments import Arguments
from namespaced_cache.adapters.commands import (
    DISCONNECTING,
    Command,
    Effect,
    Shape,
)
from namespaced_cache.core.binding import Binder, Binding, CloneBinder
from namespaced_cache.core.counter import Counter
from namespaced_cache.core.expiry import capped_arguments
from namespaced_cache.core.operation import (
    Get,
    GetMany,
    Gets,
    Item,
    ManyKeys,
    OneKey,
)
from namespaced_cache.core.pins import Pin, PinnedGeneration
from namespaced_cache.errors import CommandRefusedError
from namespaced_cache.keys import Key

#: A function that is called with the client, the namespace and its new generation.
OnInvalidated = Callable[["NamespacedClient", str, int], object]


#: Reading it from the Enum takes longer.
_READS = Effect.READS


class NamespacedClient:
    """The real client, with every key moved into the live generation of a namespace.

    `binder` finds the current real client and counter. `max_timeout` is the maximum
    timeout of an item in seconds, or None. `on_invalidated` is called after each
    invalidation that a server acknowledged.

    Data attributes are read from and written to the real client. The bare client is
    `wrapped`: its keys are in no namespace.
    """

    def __init__(
        self,
        binder: Binder,
        max_timeout: int | None,
        on_invalidated: OnInvalidated,
    ) -> None:
        vars(self).update(
            _binder=binder, _max_timeout=max_timeout, _on_invalidated=on_invalidated
        )

    # The namespace.

    @property
    def wrapped(self) -> Any:
        """The bare client, outside any namespace. No round trip."""
        return self._binder.client()

    @property
    def counter(self) -> Counter:
        """The counter of the namespace. No round trip."""
        counter: Counter = self._binder.counter()
        return counter

    @property
    def binding(self) -> Binding:
        """The real client, bound to the counter. No round trip."""
        binding: Binding = self._binder.binding()
        return binding

    def current_generation(self) -> int:
        """Return the generation on the server: one round trip.

        Raises NamespaceUnavailable if the server does not answer.
        """
        generation: int = self._binder.binding().ask_counter(Counter.current)
        return generation

    def pinned_generation(self) -> PinnedGeneration:
        """Make a block in which this context uses one generation."""
        return PinnedGeneration(self._pin)

    def _pin(self) -> Pin:
        return Pin(self.counter, self.current_generation())

    def invalidate(self) -> int:
        """Start a new generation and return it: one round trip.

        Raises NamespaceUnavailable unless a server acknowledged it.
        """
        generation: int = self._binder.binding().ask_counter(Counter.invalidate)
        namespace = self.counter.namespace
        events.note("invalidated", "Namespace %r: now %d", namespace, generation)
        self._on_invalidated(self, namespace, generation)
        return generation

    def flush_all(self) -> bool:
        """Invalidate this namespace and nothing else. Return True, as clients do.

        Unlike the real client's, it takes no delay, because an invalidation cannot be
        delayed.
        """
        self.invalidate()
        return True

    # The commands, one method for each shape.

    def _get(self, command: Command, key: Key, default: Any = None) -> Any:
        return Get(command, key, default).run(self._binder.binding())

    def _one_key(self, command: Command, key: Key, *args: Any, **kwargs: Any) -> Any:
        if self._max_timeout is not None:
            args = capped_arguments(command, args, kwargs, self._max_timeout)
        kind = Gets if command.name == "gets" else OneKey
        return kind(command, key, args, kwargs).run(self._binder.binding())

    def _many_keys(self, command: Command, *args: Any, **kwargs: Any) -> Any:
        arguments = Arguments(command, args, kwargs)
        if command.effect is _READS:
            return self._get_many(command, arguments)
        rest = arguments.args
        if self._max_timeout is not None:
            rest = capped_arguments(command, rest, arguments.kwargs, self._max_timeout)
        if not arguments.callers_keys:
            method = getattr(self.wrapped, command.name)
            return method(arguments.with_keys([]), *rest, **arguments.kwargs)
        return ManyKeys(command, arguments, rest).run(self._binder.binding())

    def _get_many(self, command: Command, arguments: Arguments) -> Any:
        if arguments.args or arguments.kwargs:
            raise TypeError(
                f"{command.name}() got more than keys: {arguments.args} "
                f"{arguments.kwargs}"
            )
        if not arguments.callers_keys:
            return {}
        if arguments.gets:
            command = adapter_of(self.wrapped).commands["gets_many"]
        return GetMany(command, arguments).run(self._binder.binding())

    def _clone(self, _: Command) -> NamespacedClient:
        """Return a clone of the real client in the same namespace (pylibmc)."""
        return NamespacedClient(
            CloneBinder(self._binder), self._max_timeout, self._on_invalidated
        )

    def _disconnect(self, command: Command) -> Any:
        """Close the connection to the counter server as well."""
        binding = self._binder.binding()
        if binding.counter_reader is not None:
            binding.counter_reader.close()
        if binding.counter_client is not binding.client:
            getattr(binding.counter_client, command.name)()
        return getattr(binding.client, command.name)()

    # Item access.

    def __getitem__(self, key: Key) -> Any:
        return self._item(operator.getitem, key)

    def __setitem__(self, key: Key, value: Any) -> None:
        if self._max_timeout is not None:
            self.set(key, value)  # set() can give the item an expiry
        else:
            self._item(operator.setitem, key, value)

    def __delitem__(self, key: Key) -> None:
        self._item(operator.delitem, key)

    def __contains__(self, key: Key) -> bool:
        return bool(self._item(operator.contains, key))

    def _item(self, access: Callable[..., Any], key: Key, *values: Any) -> Any:
        try:
            return Item(access, key, *values).run(self._binder.binding())
        except KeyError:
            raise KeyError(key) from None

    # Attributes: there are exactly those of the real client.

    @property  # type: ignore[misc]  # read only here
    def __class__(self) -> type:
        # isinstance() uses type() first and then this, so it is true for both classes.
        if "_binder" not in vars(self):  # copy and pickle, before __init__()
            return type(self)
        real_class: type = self.wrapped.__class__
        return real_class

    def __getattr__(self, name: str) -> Any:
        binder = vars(self).get("_binder")
        if binder is None:  # copy and pickle read attributes before __init__()
            raise AttributeError(name)
        client = binder.client()
        if name in DISCONNECTING and not is_client(client):
            # Django closes all backends, those that nothing uses as well.
            return getattr(client, name)
        adapter = adapter_of(client)  # refuses a client of another library
        real = getattr(client, name)
        command = adapter.commands.get(name)
        if command is None:
            if _is_data(real):
                return real
            raise _refused(
                client, name, "this package does not know where it takes its keys"
            )
        if command.shape is Shape.NO_KEY:
            return real
        if command.shape is Shape.REFUSED:
            raise _refused(client, name, command.reason)
        method = self._get if name == "get" else getattr(self, _METHODS[command.shape])
        namespaced = partial(method, command)
        vars(self)[name] = namespaced  # so that __getattr__ is not called again
        return namespaced

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self) or not _is_data(getattr(self.wrapped, name, None)):
            vars(self)[name] = value
        else:
            setattr(self.wrapped, name, value)

    def __delattr__(self, name: str) -> None:
        if name in vars(self):
            del vars(self)[name]
        else:
            delattr(self.wrapped, name)

    def __dir__(self) -> Iterable[str]:
        # Not super().__dir__(), which uses __class__.
        return {*dir(type(self)), *vars(self), *dir(self.wrapped)}

    def __repr__(self) -> str:
        return f"<NamespacedClient {self.counter.namespace} of {self.wrapped!r}>"


_METHODS: Mapping[Shape, str] = {
    Shape.ONE_KEY: "_one_key",
    Shape.MANY_KEYS: "_many_keys",
    Shape.MAPPING: "_many_keys",
    Shape.CLONE: "_clone",
    Shape.DISCONNECT: "_disconnect",
}


def _is_data(attribute: object) -> bool:
    """Tell whether a client's attribute cannot take a key.

    Functions, partials and other callable objects may take a key. Classes, such as
    pymemcache's `client_class`, do not.
    """
    return not callable(attribute) or isinstance(attribute, type)


def _refused(client: object, name: str, reason: str) -> CommandRefusedError:
    return CommandRefusedError(
        f"{type(client).__name__}.{name}() cannot be namespaced: {reason}. The bare "
        f"client, outside any namespace, is `cache._cache.wrapped`."
    )
