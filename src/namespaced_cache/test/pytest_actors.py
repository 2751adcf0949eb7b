"""The actors of a pytest run, for the leak report: tests and wider fixtures."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from namespaced_cache.test.actors import Actor, set_up_of

#: How pytest names the fixtures that it makes of methods such as setUpClass().
_OF_METHODS = ("_unittest_", "_xunit_")


class _SetUp(NamedTuple):
    """One set-up of a fixture: a parametrized fixture has one for each parameter."""

    fixture: pytest.FixtureDef[Any]
    parameter: int | None


@dataclass
class Actors:
    """Makes the actors, and remembers which fixtures a fixture has requested."""

    _requested_by: dict[pytest.FixtureDef[Any], set[pytest.FixtureDef[Any]]] = field(
        default_factory=dict
    )

    def of_test(self, item: pytest.Item, group: Hashable) -> Actor:
        """Return the actor of a test, whose group shares items on purpose."""
        # The request also has the fixtures of getfixturevalue(), even after the test.
        request = getattr(item, "_request", None)

        def uses(owner: Any) -> bool:
            fixture, parameter = owner
            indices = getattr(getattr(item, "callspec", None), "indices", {})
            if parameter is not None and indices.get(fixture.argname) != parameter:
                return False
            return fixture in self._all_requested(item, request)

        return Actor(item.nodeid, uses=uses, group=group)

    def of_set_up(
        self,
        fixture: pytest.FixtureDef[Any],
        request: pytest.FixtureRequest,
        test: Actor,
    ) -> Actor:
        """Return the actor of the set-up of a fixture that the current test needs."""
        node = request.node
        parameter: int | None = None
        kind = f"fixture {fixture.argname}"
        if hasattr(request, "param"):
            parameter = getattr(request, "param_index", 0)
            kind += f"[{parameter}]"
        if fixture.argname.startswith(_OF_METHODS):
            kind = fixture.scope
        # Only within a class do tests share items.
        group = test.group if isinstance(node, pytest.Class) else None
        of = node.nodeid or "the session"
        return set_up_of(kind, of, _SetUp(fixture, parameter), test.uses, group)

    def note_requested(
        self, fixture: pytest.FixtureDef[Any], request: Any, before: Collection[str]
    ) -> None:
        """Note which fixtures a fixture has requested by getfixturevalue().

        `before` are the names of those that the test had requested before.
        """
        requested = getattr(request, "_fixture_defs", {})
        self._requested_by[fixture] = {
            other for name, other in requested.items() if name not in before
        }

    def _all_requested(self, item: Any, request: Any) -> set[pytest.FixtureDef[Any]]:
        """Return the fixtures that a test requests, directly or through others."""
        left = [*_by_name(item), *getattr(request, "_fixture_defs", {}).values()]
        found: set[pytest.FixtureDef[Any]] = set()
        while left:
            fixture = left.pop()
            if fixture not in found:
                found.add(fixture)
                left += self._requested_by.get(fixture, ())
        return found


def late_tear_down_of(item: pytest.Item) -> Actor:
    """Return the actor of what a wider fixture has left for after the last test."""
    return Actor(f"{item.nodeid} (tear-down of wider fixtures)", finds_all=True)


def _by_name(item: Any) -> Iterator[pytest.FixtureDef[Any]]:
    """Yield the fixtures that a test, or a fixture of it, has as an argument."""
    fixtures = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    for name in getattr(item, "fixturenames", ()):
        # Each overrides the one before, and may request it.
        for fixture in reversed(fixtures.get(name, ())):
            yield fixture
            if name not in fixture.argnames:
                break
