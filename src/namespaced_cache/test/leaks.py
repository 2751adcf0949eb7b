"""Leaks: keys that one test cached and another test asked for.

Isolation hides leaks, because no test finds the items of another. So each command is
watched, and compared with what the bare server would hold: each key that tests have
stored, unless it was deleted or cleared since, or its timeout has passed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
from namespaced_cache.keys import Key
from namespaced_cache.test.actors import BEFORE_THE_TESTS, Actor
from namespaced_cache.test.findings import Findings
from namespaced_cache.test.stores import store_of

#: How many keys of a store are remembered. Of more, those that came first are
#: forgotten.
MAX_KEYS = 1_000_000

#: Longer keys are remembered by a digest, which takes less memory.
_LONG = 64

#: Reading them from the Enum takes longer.
_SETS, _TOUCHES, _DELETES = Effect.SETS, Effect.TOUCHES, Effect.DELETES


class _Stored(NamedTuple):
    """Who has stored an item last, and until when it would be there.

    Items that are stored in the same second share one object, to save memory.
    `clears` is how often the store had been cleared.
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
        self._latest = _Stored(self._actor, math.inf, 0)
        self._taken_keys = 0
        self._folder: Path | None = None

    def start(self, folder: Path | None = None) -> None:
        """Watch the operations of this process.

        If it becomes a worker, it hands its findings over in this folder.
        """
        self._folder = folder
        watch(self._note)

    def stop(self) -> None:
        """Stop watching."""
        unwatch(self._note)

    def begin_test(self, test: Actor) -> None:
        """Note that a test begins. No round trip."""
        self._actor = test
        self._outer.clear()
        self.findings.tests.add(test.name)

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
        """Isolate within this block: an invalidation in it clears nothing."""
        self._note_cleared([*self._generations])
        try:
            yield
        finally:
            for counter in [*self._generations]:
                self._generations[counter] = counter.latest

    def take(self) -> Findings:
        """Return what was found since this was last called, to be merged elsewhere."""
        taken, self.findings = self.findings, Findings()
        models = self._models.values()
        keys = sum(len(each.items) + each.forgotten for each in models)
        taken.keys, self._taken_keys = keys - self._taken_keys, keys
        return taken

    def hand_over(self) -> None:
        """Let the process that reports to the user have what was found since."""
        if self._folder is not None:
            self.take().add_to(self._folder)

    def _note(self, operation: Operation, binding: Binding, answer: object) -> None:
        model = self._model_of.get(binding) or self._open(binding)
        counter = binding.counter
        if counter.latest != self._generations.get(counter):
            self._note_cleared([counter])
        keys = operation.keys
        if isinstance(answer, BaseException):  # the client may have refused a key
            keys = [key for key in keys if binding.accepts(key)]
        effect = operation.effect
        if effect.asks:
            self._note_asking(model, operation, binding, keys)
        if effect is _SETS or (effect.asks and effect is not Effect.READS):
            self._note_storing(model, operation, binding, answer)
        elif effect is _DELETES and (
            not isinstance(answer, BaseException) or isinstance(answer, KeyError)
        ):
            for key in keys:
                model.items[_remembered(binding, key)] = None
        if len(model.items) > MAX_KEYS:
            model.forget_half()
            self.findings.is_complete = False

    def _note_asking(
        self,
        model: _Model,
        operation: Operation,
        binding: Binding,
        keys: Sequence[Key],
    ) -> None:
        actor, clears = self._actor, model.clears
        for key in keys:
            stored = model.items.setdefault(_remembered(binding, key), None)
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
        self, model: _Model, operation: Operation, binding: Binding, answer: object
    ) -> None:
        items, actor = model.items, self._actor
        deadline = _deadline(operation.expiry)
        for key in operation.stored_keys(answer):
            remembered = _remembered(binding, key)
            before = items.get(remembered)
            by, until = actor, deadline
            if until is None:  # such as `incr`, which leaves the expiry as it was
                until = math.inf if before is None else before.deadline
            if operation.effect is _TOUCHES:
                if before is None:
                    continue
                by = before.by
            latest = self._latest
            if latest != (by, until, model.clears):
                self._latest = latest = _Stored(by, until, model.clears)
            items[remembered] = latest

    def _note_cleared(self, counters: Iterable[Counter]) -> None:
        """Clear the models of namespaces that were invalidated since the last look."""
        for counter in counters:
            latest = counter.latest
            known = self._generations.setdefault(counter, latest)
            if known != latest:
                self._generations[counter] = latest
                for (namespace, *_), model in self._models.items():
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


def _remembered(binding: Binding, key: Key) -> Key:
    same = binding.same_key(key)
    if len(same) <= _LONG:
        return same
    raw = same.encode() if isinstance(same, str) else same
    return b"\0" + blake2b(raw, digest_size=16).digest()


def _deadline(expiry: object) -> float | None:
    """Return the moment at which an item with this expiry is gone, or None."""
    if not isinstance(expiry, int):
        return None
    if expiry == 0:
        return math.inf
    if expiry > LONGEST_RELATIVE:
        expiry -= int(clock.wall())
    return int(clock.monotonic()) + expiry
