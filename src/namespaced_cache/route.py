"""Route: the way to a namespace, and how an operation takes it.

Every operation takes effect in the generation that the counter shows at a moment of the
operation. Where the look at the counter travels with it, it goes out under the newest
generation that this process knows; if the counter stands elsewhere, what was done is
invisible, for it happened in a dead generation, and is done again. Where the look
cannot travel, it follows. Where the generation is pinned, or may be trusted for a
while, there is none.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from namespaced_cache import identity, libraries
from namespaced_cache.generation import Counter
from namespaced_cache.keys import GenerationKeys, Key
from namespaced_cache.look import ABSENT, Look, waiting

#: How often an operation is done again before it gives up. Each time means that another
#: process invalidated the namespace within the few microseconds between.
ATTEMPTS = 100

#: After so many, it waits a moment, up to so many seconds, for a storm to pass.
_PATIENCE = 10
_PAUSE = 0.002

_NOTHING = object()
_AGAIN = object()


class Route:
    """The way to a namespace, as it is at the moment.

    The real client; `home`, the client that reaches the counter, often the same; and
    the counter. `call(verb, hidden, *args, **kwargs)` calls a verb of the real client;
    `hidden` is what it answers where it hides an outage.
    """

    def __init__(self, client: Any, home: Any, counter: Counter) -> None:
        self.client = client
        self.home = home
        self.counter = counter
        self.library = libraries.of(client)
        #: A route leads no further than the names do that it was made of.
        self.epoch = identity.epoch
        #: Travels with commands; None where it does not.
        self.request = self.library.request(client, home, counter.key)
        #: Whether what reads can fetch the counter as well, which is the next best.
        self.fetches = self.request is None and home is client
        self.call: Callable[..., Any] = partial(self.library.call, client)
        self._keys: GenerationKeys | None = None

    def keys(self, generation: int) -> GenerationKeys:
        """Return the keys of a generation."""
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
        return keys

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
            for attempt in range(ATTEMPTS):
                if attempt >= _PATIENCE:
                    time.sleep(random.uniform(0, _PAUSE))  # noqa: S311  # no secret
                generation = counter.trusted(max_staleness)
                if generation is None:
                    answer = self._confirmed(act, quiet, missing, verb)
                else:
                    answer = self._trusting(act, generation, max_staleness)
                if answer is not _AGAIN:
                    return answer
        except Exception:
            raise
        except BaseException:  # Ctrl-C, a test's time limit
            self.break_off()
            raise
        raise counter.unavailable(f"invalidated {ATTEMPTS} times within one operation")

    def _trusting(self, act: Act, generation: int, max_staleness: float) -> Any:
        """Act in a generation that needs no look, unless it was left meanwhile."""
        try:
            answer = act(self, self.keys(generation), None)
        except Exception:
            if self.counter.stands_at(generation, max_staleness):
                raise
            return _AGAIN
        return answer if self.counter.stands_at(generation, max_staleness) else _AGAIN

    def _confirmed(self, act: Act, quiet: Any, missing: Any, verb: str) -> Any:
        """Act in the newest generation known, unless the counter stands elsewhere."""
        counter = self.counter
        look = counter.look(self.request) if counter.known else None
        generation = look.floor if look else counter.read(self.home)
        if generation is None:
            return quiet
        answer, error = None, None
        try:
            answer = self.carry_out(act, generation, look)
        except Exception as raised:
            if self.library.is_away(raised, verb):
                raise
            # It may be of a generation that is dead, or of the counter itself.
            error = raised
        if look and look.answer is ABSENT and missing is not _NOTHING:
            return missing  # who writes will seed the counter
        # Another thread may have begun a newer one since.
        seen = counter.seen(self.home, look) if look else counter.known
        if seen not in (generation, None):
            return _AGAIN
        if error is not None:
            raise error
        return quiet if seen is None else answer

    def carry_out(self, act: Act, generation: int, look: Look | None) -> Any:
        """Act in a generation, and have a look travel with it where it can."""
        if look is None or look.request is None:
            return act(self, self.keys(generation), look)
        waiting.look = look
        try:
            return act(self, self.keys(generation), look)
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


#: What is done by a route with a generation's keys; the look is None where none is
#: needed.
Act = Callable[[Route, GenerationKeys, Look | None], Any]
