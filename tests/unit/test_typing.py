"""What the types say is so: `typed_use.py`, which type checkers read, is run here."""

from __future__ import annotations

import asyncio
from types import UnionType
from typing import get_origin

import pytest
from django.core.cache import caches
from django.test import override_settings

from tests.unit import typed_use


@pytest.fixture
def asserted(monkeypatch):
    """The types that typed_use asserts, each of which is held to its value."""
    seen = []

    def assert_type(value, stated):
        known = stated if isinstance(stated, UnionType) else get_origin(stated)
        assert isinstance(value, known or stated)
        seen.append(stated)
        return value

    monkeypatch.setattr(typed_use, "assert_type", assert_type)
    return seen


@pytest.fixture
def settings(backend, server):
    """The settings of a site, wrapped as typed_use wraps them."""
    production = {"default": {"BACKEND": backend, "LOCATION": server.location}}
    return typed_use.settings(production)


@pytest.fixture
def _site(settings):
    with override_settings(CACHES=settings):
        yield
        caches.close_all()


def in_a_task():
    async def use():
        await typed_use.pinned_by_a_task()
        caches.close_all()  # a task has backends of its own

    asyncio.run(use())


@pytest.mark.parametrize(
    ("use", "count"),
    [
        (typed_use.aliases, 3),
        (typed_use.one_alias, 6),
        (typed_use.told_apart, 1),
        (typed_use.pinned, 1),
        (in_a_task, 2),
        (typed_use.after_a_block, 0),
        (typed_use.told_of_it, 5),
        (typed_use.errors, 1),
    ],
)
@pytest.mark.usefixtures("_site")
def test_each_value_is_of_the_type_that_is_asserted(asserted, use, count):
    use()
    assert len(asserted) == count


def test_a_name_that_is_not_ours_is_no_attribute():
    """A checker is not shown the routine that looks names up, and says so, too."""
    with pytest.raises(AttributeError, match=r"no attribute 'nobodys'"):
        typed_use.a_name_that_is_not_ours()
