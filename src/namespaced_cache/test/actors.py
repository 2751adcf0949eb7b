"""Actors: the tests and set-ups that run commands, as the leak report names them.

It imports nothing from Django, because the pytest plugin imports it in projects without
Django.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

#: The tests of a class with this scope share items on purpose.
_SHARING = "class"


def _uses_nothing(_: Hashable) -> bool:
    return False


@dataclass(frozen=True)
class Actor:
    """A test, or the set-up or tear-down of several tests.

    `name` is what the report calls it. `owner` is the class, module or fixture whose
    set-up or tear-down it is. `uses` tells whether the set-up of an owner is meant for
    it. Tests with the same `group` share items on purpose. If it `finds_all`, nothing
    that it finds is a leak.
    """

    name: str
    owner: Hashable = None
    uses: Callable[[Hashable], bool] = _uses_nothing
    group: Hashable = None
    is_tear_down: bool = False
    finds_all: bool = False

    def tear_down(self) -> Actor:
        """Return the tear-down that belongs to this set-up."""
        name = self.name.replace("(set-up of", "(tear-down of")
        return replace(self, name=name, is_tear_down=True)

    def may_find(self, other: Actor) -> bool:
        """Tell whether it is right that this actor finds what the other has cached."""
        if other.name == self.name or self.finds_all:
            return True
        if other.owner is not None and (
            other.owner == self.owner or self.uses(other.owner)
        ):
            return True
        if self.is_tear_down and other.uses(self.owner):
            return True
        return self.group is not None and self.group == other.group


#: What runs before the first test.
BEFORE_THE_TESTS = Actor("before the tests")


def set_up_of(
    kind: str,
    of: str,
    owner: Hashable,
    uses: Callable[[Hashable], bool] = _uses_nothing,
    group: Hashable = None,
) -> Actor:
    """Return the actor of a set-up: `kind` is what is set up, such as "class"."""
    return Actor(f"{of} (set-up of the {kind})", owner, uses, group)


def group_of(scope: str, test_class: Hashable) -> Hashable:
    """Return the group of a test of this class with this scope."""
    return test_class if scope == _SHARING else None
