"""The actors of a pytest run, for the leak report: tests and wider fixtures."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

import pytest

from namespaced_cache.test.actors import Actor, set_up_of

#: How pytest names the fixtures that it makes of methods such as setUpClass().
_OF_METHODS = ("_unittest_", "_xunit_")


def of_test(item: pytest.Item, group: Hashable) -> Actor:
    """Return the actor of a test, whose group shares items on purpose."""
    # The request also names the fixtures of getfixturevalue(), even after the test.
    request = getattr(item, "_request", item)
    uses = partial(_requests, item.listchain(), request)
    return Actor(item.nodeid, uses=uses, group=group)


def of_set_up(
    fixture: pytest.FixtureDef[Any], request: pytest.FixtureRequest, test: Actor
) -> Actor:
    """Return the actor of the set-up of a fixture, which the current test requests."""
    name = fixture.argname
    node = request.node
    kind = f"fixture {name}"
    if name.startswith(_OF_METHODS):
        kind = fixture.scope
    # Only within a class do tests share items.
    group = test.group if isinstance(node, pytest.Class) else None
    of = node.nodeid or "the session"
    return set_up_of(kind, of, (node, name), test.uses, group)


def _requests(
    chain: list[Any], request: Any, owner: tuple[pytest.Collector, str]
) -> bool:
    """Tell whether a test requests a fixture.

    A fixture is told by the node that it is set up for, and its name.
    """
    node, name = owner
    return node in chain and name in getattr(request, "fixturenames", ())
