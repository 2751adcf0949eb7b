"""Leaks: keys that one test cached and another test asked for.

Isolation hides leaks, because no test finds the items of another. So each command is
watched, and compared with what the bare server would hold: each key that tests have
stored, unless it was deleted or cleared since, or its timeout has passed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

from namespaced_cache.adapters.commands import Effect
from namespaced_cache.adapters.raw_items import LONGEST_RELATIVE
from namespaced_cache.core import clock
from namespaced_cache.core.binding import Binding
from namespaced_cache.core.counter import Counter
from namespaced_cache.core.operation import Operation
from namespaced_cache.core.watching import unwatch, watch
from namespaced_cache.keys import Key, as_bytes
from namespaced_cache.test.actors import BEFORE_THE_TESTS, Actor
from namespaced_cache.test.findings import Findings
from namespaced_cache.test.stores import store_of

#: How many keys of a store are remembered. Of more, those that came first are
#: forgotten.
MAX_KEYS = 1_000_000

#: Longer keys are remembered by a digest, which takes less memory.
_LONG = 64


class _Stored(NamedTuple):
    """The actor that stored an item last, and the moment at which the item expires.

    `clears` is how often the store had been cleared before. Items with the same actor,
    moment and number share one object, to save memory.
    """

    by: Actor
    deadline: float
    clears: int


class _Namespace(NamedTuple):
    """What tells a counter from others, apart from the name of the worker."""

    name: str
    server: str
    client_prefix: str


@dataclass
class _Model:
    """What a store would hold without isolation.

    A key that was asked for, or deleted, has None.
    """

    alias: str
    items: dict[Key, _Stored | None] = field(default_factory=dict)
    clears: int = 0
    #: The number of keys that are no longer in `items`.
    forgotten: int = 0

    def forget_half(self) -> None:
        """Forget the keys that came first."""
        for key in [*islice(self.items, MAX_KEYS // 2)]:
            del self.items[key]
        self.forgotten += MAX_KEYS // 2


class Leaks:
    """Finds leaks in this process, from `start()` to `stop()`.

    Tests and set-ups run one after another. Whatever threads run commands, these belong
    to the actor of the moment.
    """

    def __init__(self) -> None:
        self.findings = Findings()
        self._actor = BEFORE_THE_TESTS
        self._outer: list[Actor] = []
        self._models: dict[tuple[_Namespace, Hashable], _Model] = {}
        self._model_of: WeakKeyDictionary[Binding, _Model] = WeakKeyDictionary()
        #: The generation of each namespace that was seen.
        self._generations: dict[Counter, int] = {}
        self._is_isolating = False
        self._latest = _Stored(self._actor, math.inf, 0)
        self._taken_keys = 0
        #: Where this process hands its findings over, if it is a worker.
        self.folder: Path | None = None

    def start(self, folder: Path | None = None) -> None:
        """Watch the operations of this process.

        A worker hands its findings over in a folder.
        """
        self.folder = folder
        watch(self._note)

    def stop(self) -> None:
        """Stop watching."""
        unwatch(self._note)

    def begin_test(self, test: Actor) -> None:
        """Note that a test begins. No round trip."""
        self._actor = test
        self._outer.clear()
        self.findings.tests.add(test.name)
        self.findings.runs += 1

    def enter(self, actor: Actor) -> None:
        """Note that a set-up or tear-down begins. No round trip."""
        self._outer.append(self._actor)
        self._actor = actor

    @contextmanager
    def acting(self, actor: Actor) -> Iterator[None]:
        """Let an actor run the commands within this block."""
        self.enter(actor)
        try:
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """Note that the set-up or tear-down that began last has ended."""
        if self._outer:
            self._actor = self._outer.pop()

    @contextmanager
    def invalidating(self) -> Iterator[None]:
        """Isolate within this block: one step of each counter in it clears nothing.

        A larger step does: then a test has emptied the server, or another process has
        cleared the namespace.
        """
        for counter in [*self._generations]:
            self._note_cleared(counter)
        before = self._generations.copy()
        # Receivers of the signal, and other threads, may run commands meanwhile.
        self._is_isolating = True
        try:
            yield
        finally:
            for counter, generation in before.items():
                if counter.latest > generation + 1:
                    self._clear(counter)
                self._generations[counter] = counter.latest
            self._is_isolating = False

    def take(self) -> Findings:
        """Return what was found since this was last called, to be merged elsewhere."""
        taken, self.findings = self.findings, Findings()
        models = self._models.values()
        keys = sum(len(each.items) + each.forgotten for each in models)
        taken.keys, self._taken_keys = keys - self._taken_keys, keys
        return taken

    def hand_over(self) -> None:
        """Let the process that reports to the user have what was found since."""
        if self.folder is not None:
            with suppress(OSError):  # the report then tells that something is missing
                self.take().add_to(self.folder)

    def _note(self, operation: Operation, binding: Binding, answer: object) -> None:
        model = self._model_of.get(binding) or self._open(binding)
        self._note_cleared(binding.counter)
        effect, used = operation.effect, operation.keys
        has_failed = isinstance(answer, BaseException)
        if has_failed:  # the client may have refused a key
            used = [key for key in used if binding.accepts(key)]
        keys = _remembered(binding, used)
        if effect.asks:
            self._note_asking(model, operation, binding, keys)
        if effect.stores:
            stored = _remembered(binding, operation.stored_keys(answer))
            self._note_storing(model, operation, stored)
        # Whether an isolated test finds a key to touch or to delete tells nothing about
        # the bare server.
        elif effect is Effect.TOUCHES and not has_failed:
            self._note_touching(model, operation, keys)
        elif effect is Effect.DELETES and (
            not has_failed or isinstance(answer, KeyError)
        ):
            model.items.update(dict.fromkeys(keys))
        if len(model.items) > MAX_KEYS:
            model.forget_half()
            self.findings.incomplete.add(f"there were more than {MAX_KEYS:,} keys")

    def _note_asking(
        self,
        model: _Model,
        operation: Operation,
        binding: Binding,
        keys: Mapping[Key, Key],
    ) -> None:
        actor, clears = self._actor, model.clears
        for remembered, key in keys.items():
            stored = model.items.setdefault(remembered, None)
            if (
                stored is None
                or stored.by is actor
                or stored.clears != clears
                or stored.deadline <= clock.monotonic()
                or actor.may_find(stored.by)
            ):
                continue
            alias = binding.options.find_alias() or model.alias
            self.findings.add(alias, key, stored.by.name, actor.name, operation.name)

    def _note_storing(
        self, model: _Model, operation: Operation, keys: Iterable[Key]
    ) -> None:
        items = model.items
        deadline = _deadline(operation.expiry)
        for key in keys:
            until = deadline
            if until is None:  # `incr` and its like leave the expiry as it was
                before = items.get(key)
                until = math.inf if before is None else before.deadline
            items[key] = self._stored(self._actor, until, model.clears)

    def _note_touching(
        self, model: _Model, operation: Operation, keys: Iterable[Key]
    ) -> None:
        until = _deadline(operation.expiry)
        for key in keys:
            before = model.items.get(key)
            if before is not None and until is not None:
                model.items[key] = self._stored(before.by, until, before.clears)

    def _stored(self, by: Actor, deadline: float, clears: int) -> _Stored:
        """Return the object for such items: the latest, if it is for them."""
        if self._latest != (by, deadline, clears):
            self._latest = _Stored(by, deadline, clears)
        return self._latest

    def _note_cleared(self, counter: Counter) -> None:
        """Clear the models of a namespace that was invalidated since the last look."""
        latest = counter.latest
        known = self._generations.setdefault(counter, latest)
        # Another thread may have seen a newer one meanwhile.
        if latest > known and not self._is_isolating:
            self._generations[counter] = latest
            self._clear(counter)

    def _clear(self, counter: Counter) -> None:
        for (namespace, *_), model in [*self._models.items()]:
            if namespace == _namespace(counter):
                model.clears += 1

    def _open(self, binding: Binding) -> _Model:
        store = store_of(binding)
        # Not the counter itself: a worker that was forked has another one.
        identity = (_namespace(store.counter), store.placement)
        alias = binding.options.find_alias() or "?"
        model = self._models.setdefault(identity, _Model(alias))
        self._model_of[binding] = model
        return model


def _namespace(counter: Counter) -> _Namespace:
    name, _, _ = counter.namespace.partition(".")
    return _Namespace(name, counter.server, counter.client_prefix)


def _remembered(binding: Binding, keys: Sequence[Key]) -> dict[Key, Key]:
    """Return how each key is remembered, and how the caller spelled it.

    A client that hides that its server is down takes keys that are none. They are left
    out.
    """
    found: dict[Key, Key] = {}
    for key in keys:
        if isinstance(key, (str, bytes)):
            with suppress(UnicodeEncodeError):
                found[_shortened(binding.same_key(key))] = key
    return found


def _shortened(key: Key) -> Key:
    if len(key) <= _LONG:
        return key
    return b"\0" + blake2b(as_bytes(key), digest_size=16).digest()


def _deadline(expiry: object) -> float | None:
    """Return the moment at which an item with this expiry is gone, or None."""
    if not isinstance(expiry, int):
        return None
    if expiry == 0:
        return math.inf
    if expiry > LONGEST_RELATIVE:
        expiry -= int(clock.wall())
    return int(clock.monotonic()) + expiry
