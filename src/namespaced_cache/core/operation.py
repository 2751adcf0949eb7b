"""Operations: one command, carried out in one generation and validated.

An operation uses the latest generation and reads the counter. If possible, the counter
is read during the command, otherwise after it. If the counter has moved, the operation
is repeated. What the first attempt did is invisible, because it happened in a dead
generation. If the generation is pinned, or is trusted for some seconds, the counter is
not read.
"""

from __future__ import annotations

import operator
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from namespaced_cache.adapters.arguments import Arguments
from namespaced_cache.adapters.commands import CALLERS_KEYS, Command, Effect
from namespaced_cache.adapters.counter_read import ABSENT, CounterRead
from namespaced_cache.core import pins
from namespaced_cache.core.binding import Binding
from namespaced_cache.core.expiry import expiry_of
from namespaced_cache.keys import GenerationKeys, Key

#: How often an operation is tried before it fails. Each failed attempt means that
#: another process invalidated the namespace during that attempt.
MAX_ATTEMPTS = 100

#: After so many attempts, the operation waits before each further one, for a random
#: time of up to _MAX_PAUSE seconds.
_ATTEMPTS_AT_ONCE = 10
_MAX_PAUSE = 0.002

_REPEAT = object()

#: Means "the client's answer". It is for operations whose answer does not depend on
#: whether the counter is missing.
_CLIENTS = object()


class Operation:
    """One command, carried out in one generation and validated."""

    __slots__ = ("command",)

    #: The command, for `Adapter.is_outage`. Item access has none.
    command: Command | None

    #: Whether this command can fetch the counter itself, as one more key.
    fetches_counter = False

    def carry_out(
        self, binding: Binding, keys: GenerationKeys, read: CounterRead | None
    ) -> Any:
        """Carry out the command with wire keys, and return the answer for the caller.

        `read` is the counter read of this attempt, or None if the generation is
        trusted. A command that fetches the counter itself sets the value of `read`.
        """
        raise NotImplementedError

    def outage_default(self) -> Any:
        """Return the answer while the client hides that a server is down."""
        raise NotImplementedError

    def missing(self) -> Any:
        """Return the answer if the counter is missing, so that there are no items."""
        return _CLIENTS

    # For those who watch operations.

    @property
    def keys(self) -> Sequence[Key]:
        """The caller's keys."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The name of the command, or of the method of Python for item access."""
        return self.command.name  # type: ignore[union-attr]  # item access has its own

    @property
    def effect(self) -> Effect:
        """What it does on the server."""
        return self.command.effect  # type: ignore[union-attr]  # as above

    def stored_keys(self, answer: object) -> Sequence[Key]:
        """Return the keys that it has stored, as the answer tells.

        The answer may be the error that it has raised. Then it has stored none.
        """
        raise NotImplementedError

    @property
    def expiry(self) -> object:
        """The expiry that it gives to items, or None if it gives none."""
        return None

    def run(self, binding: Binding) -> Any:
        """Carry out the command. Repeat it until the counter does not move meanwhile.

        One attempt takes one round trip if the counter is read during the command, or
        not at all. Otherwise it takes two. Raises NamespaceUnavailable after
        MAX_ATTEMPTS.
        """
        counter = binding.counter
        try:
            for attempt in range(MAX_ATTEMPTS):
                if attempt >= _ATTEMPTS_AT_ONCE:
                    time.sleep(random.uniform(0, _MAX_PAUSE))  # noqa: S311  # no secret
                # A strict operation without a pin trusts nothing: one call less.
                generation = None
                if pins.current.get() or binding.max_staleness:
                    generation = counter.trusted(binding.max_staleness)
                if generation is None:
                    answer = self._validated(binding)
                else:
                    answer = self._trusting(binding, generation)
                if answer is not _REPEAT:
                    return answer
        except Exception:
            raise
        except BaseException:  # Ctrl-C, a test's time limit
            binding.abandon()
            raise
        raise counter.unavailable(
            f"invalidated {MAX_ATTEMPTS} times within one operation"
        )

    def _trusting(self, binding: Binding, generation: int) -> Any:
        """Carry out in a trusted generation, which needs no validation."""
        counter, max_staleness = binding.counter, binding.max_staleness
        # The fast path of `Binding.keys`.
        keys = binding.last_keys
        if keys is None or keys.number != generation:
            keys = binding.keys(generation)
        try:
            answer = self.carry_out(binding, keys, None)
        except Exception:
            if counter.is_trusted(generation, max_staleness):
                raise
            return _REPEAT
        # The first comparison is the fast path.
        if generation == counter.latest or counter.is_trusted(
            generation, max_staleness
        ):
            return answer
        return _REPEAT

    def _validated(self, binding: Binding) -> Any:
        """Carry out in the latest generation, and repeat if the counter has moved."""
        counter = binding.counter
        read = counter.begin_read() if counter.latest else None
        generation = read.floor if read else counter.read(binding.access)
        if generation is None:
            return self.outage_default()
        answer, error = None, None
        try:
            answer = self._carry_out_reading(binding, generation, read)
        except Exception as raised:
            if binding.adapter.is_outage(raised, self.command):
                raise
            # The error may come from a dead generation, or from the counter itself. It
            # is raised below if the counter has not moved.
            error = raised
        if read is None or not counter.confirms(read):
            if read and read.value is ABSENT:
                missing = self.missing()
                if missing is not _CLIENTS:
                    return missing  # the next operation that stores seeds the counter
            # Another thread may have started a newer generation since.
            latest = self._latest_after(binding, read) if read else counter.latest
            if latest not in (generation, None):
                return _REPEAT
            if latest is None and error is None:
                return self.outage_default()
        if error is not None:
            raise error
        return answer

    def _latest_after(self, binding: Binding, read: CounterRead) -> int | None:
        """Return the latest generation after a counter read, or None.

        If the client expected no reply to the command, an outage is not raised: the
        bare client would not have noticed it.
        """
        try:
            latest = binding.counter.latest_after(binding.access, read)
        except Exception as error:
            is_outage = binding.adapter.is_outage(error, self.command)
            if read.is_acknowledged or not is_outage:
                raise
            return read.floor
        return read.floor if latest is None and not read.is_acknowledged else latest

    def _carry_out_reading(
        self, binding: Binding, generation: int, read: CounterRead | None
    ) -> Any:
        """Carry out, and read the counter meanwhile if that is possible."""
        # The fast path of `Binding.keys`.
        keys = binding.last_keys
        if keys is None or keys.number != generation:
            keys = binding.keys(generation)
        reader = binding.counter_reader
        if (
            reader is None
            or read is None
            or (binding.fetches_counter and self.fetches_counter)
        ):
            return self.carry_out(binding, keys, read)
        try:
            reader.begin(read)
            answer = self.carry_out(binding, keys, read)
            reader.end(read)
        except Exception as error:
            if binding.adapter.is_outage(error, self.command):
                reader.abandon(read)
            else:
                reader.end(read)
            raise
        except BaseException:  # Ctrl-C, a test's time limit
            reader.abandon(read)
            raise
        return answer


class _OfOneKey(Operation):
    """An operation with one key."""

    __slots__ = ("key",)

    key: Key

    @property
    def keys(self) -> Sequence[Key]:
        """The caller's key."""
        return (self.key,)

    def stored_keys(self, answer: object) -> Sequence[Key]:
        """Return the key, if it was stored."""
        if isinstance(answer, BaseException) or answer is False:
            return ()
        # A command that finds nothing to change returns False or None.
        return () if answer is None and self.effect.asks else self.keys


class Get(_OfOneKey):
    """`get`, which a read of many keys can replace."""

    __slots__ = ("default",)

    fetches_counter = True

    def __init__(self, command: Command, key: Key, default: Any) -> None:
        self.command: Command = command
        self.key = key
        self.default = default

    def carry_out(
        self, binding: Binding, keys: GenerationKeys, read: CounterRead | None
    ) -> Any:
        """Get the value, or the default."""
        wire_key = keys.wire_key(self.key)
        if read is None or not binding.fetches_counter:
            return binding.adapter.call(
                binding.client, self.command, self.default, wire_key, self.default
            )
        return _fetch(binding, [wire_key], read).get(wire_key, self.default)

    def outage_default(self) -> Any:
        """Return the caller's default."""
        return self.default

    missing = outage_default


class OneKey(_OfOneKey):
    """Any other command for one key."""

    __slots__ = ("args", "kwargs")

    def __init__(
        self, command: Command, key: Key, args: Any, kwargs: dict[str, Any]
    ) -> None:
        self.command: Command = command
        self.key = key
        self.args = args
        self.kwargs = kwargs

    def carry_out(
        self, binding: Binding, keys: GenerationKeys, read: CounterRead | None
    ) -> Any:
        """Call the command with the wire key."""
        command = self.command
        return binding.adapter.call(
            binding.client,
            command,
            command.outage_default,
            keys.wire_key(self.key),
            *self.args,
            **self.kwargs,
        )

    def outage_default(self) -> Any:
        """Return the default in the command's line in the table."""
        return self.command.outage_default

    @property
    def expiry(self) -> object:
        """The expiry that it gives to the item, or None if it gives none."""
        return expiry_of(self.command, self.args, self.kwargs)


class Gets(OneKey):
    """pymemcache's `gets`, whose defaults are the caller's."""

    __slots__ = ()

    def missing(self) -> Any:
        """Return what the client answers if there is no such key."""
        return _gets_defaults(*self.args, **self.kwargs)


class _OfManyKeys(Operation):
    """An operation with many keys."""

    __slots__ = ("arguments",)

    arguments: Arguments

    @property
    def keys(self) -> Sequence[Key]:
        """The caller's keys."""
        return self.arguments.keys

    def stored_keys(self, answer: object) -> Sequence[Key]:
        """Return all keys but those that the answer names as failed."""
        if isinstance(answer, BaseException) or answer is False:
            return ()
        keys = self.arguments.keys
        if not answer or not isinstance(answer, list):
            return keys
        spelled = zip(keys, self.arguments.callers_keys, strict=True)
        return [key for key, callers_key in spelled if callers_key not in answer]


class GetMany(_OfManyKeys):
    """A command that reads many keys, and can fetch the counter as one more."""

    __slots__ = ()

    def __init__(self, command: Command, arguments: Arguments) -> None:
        self.command: Command = command
        self.arguments = arguments

    def carry_out(
        self, binding: Binding, keys: GenerationKeys, read: CounterRead | None
    ) -> Any:
        """Get the items that exist, under the keys as the caller wrote them."""
        callers_keys = self.arguments.callers_keys
        wire_keys = keys.wire_keys(self.arguments.keys)
        if read is not None and binding.fetches_counter and self.fetches_counter:
            found = _fetch(binding, wire_keys, read)
        else:
            found = binding.adapter.call(binding.client, self.command, {}, wire_keys)
        spelled = dict(zip(wire_keys, callers_keys, strict=True))
        return {spelled[wire_key]: value for wire_key, value in found.items()}

    @property
    def fetches_counter(self) -> bool:  # type: ignore[override]  # a constant elsewhere
        """Whether it can: the "gets" commands return tokens too."""
        return not self.command.name.startswith("gets_")

    def outage_default(self) -> Any:
        """Return an empty dictionary: no item was found."""
        return {}

    missing = outage_default


class ManyKeys(_OfManyKeys):
    """A command that stores, changes or deletes many keys."""

    __slots__ = ("rest",)

    def __init__(self, command: Command, arguments: Arguments, rest: Any) -> None:
        self.command: Command = command
        self.arguments = arguments
        self.rest = rest

    def carry_out(
        self, binding: Binding, keys: GenerationKeys, read: CounterRead | None
    ) -> Any:
        """Call the command, and translate keys that it returns back to the caller's."""
        arguments = self.arguments
        wire_keys = keys.wire_keys(arguments.keys)
        answer = binding.adapter.call(
            binding.client,
            self.command,
            self._outage_default(wire_keys),
            arguments.with_keys(wire_keys),
            *self.rest,
            **arguments.kwargs,
        )
        if not answer or answer is True:
            return answer
        spelled = dict(zip(wire_keys, arguments.callers_keys, strict=True))
        return [spelled[failed] for failed in answer]

    def outage_default(self) -> Any:
        """Return all keys as failed, or the default in the command's line."""
        return self._outage_default(self.arguments.callers_keys)

    def _outage_default(self, keys: list[Key]) -> Any:
        default = self.command.outage_default
        return keys if default is CALLERS_KEYS else default

    @property
    def expiry(self) -> object:
        """The expiry that it gives to items, or None if it gives none."""
        return expiry_of(self.command, self.rest, self.arguments.kwargs)


class Item(_OfOneKey):
    """Item access, such as `client[key]` (pylibmc)."""

    __slots__ = ("access", "values")

    def __init__(self, access: Callable[..., Any], key: Key, *values: Any) -> None:
        self.command = None
        self.access = access
        self.key = key
        self.values = values

    def carry_out(
        self, binding: Binding, keys: GenerationKeys, read: CounterRead | None
    ) -> Any:
        """Access the item under the wire key."""
        return self.access(binding.client, keys.wire_key(self.key), *self.values)

    def outage_default(self) -> Any:
        """Return None."""
        return None

    @property
    def name(self) -> str:
        """The name of the method that Python calls, such as `__getitem__`."""
        return f"__{self.access.__name__}__"

    @property
    def effect(self) -> Effect:
        """What it does on the server."""
        return _EFFECTS.get(self.access, Effect.READS)

    @property
    def expiry(self) -> object:
        """The expiry: an item that is stored in this way has none."""
        return 0 if self.access is operator.setitem else None


def _fetch(binding: Binding, wire_keys: list[Key], read: CounterRead) -> dict[Key, Any]:
    """Fetch items together with the counter, and set the value of the counter read."""
    counter_key: Key = binding.counter.key
    found: dict[Key, Any] = binding.client.get_multi([counter_key, *wire_keys])
    read.value = found.pop(counter_key, ABSENT)
    return found


def _gets_defaults(default: Any = None, cas_default: Any = None) -> tuple[Any, Any]:
    return default, cas_default


_EFFECTS = {operator.setitem: Effect.SETS, operator.delitem: Effect.DELETES}
