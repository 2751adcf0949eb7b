"""The types are right: the tests run `typed_use.py`, which type checkers read."""

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
    """The types that typed_use asserts. Each assertion is also checked at run time."""
    seen = []

    def assert_type(value, stated):
        runtime_type = stated if isinstance(stated, UnionType) else get_origin(stated)
        assert isinstance(value, runtime_type or stated)
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
        caches.close_all()  # a task has its own backends

    asyncio.run(use())


@pytest.mark.parametrize(
    ("use", "count"),
    [
        (typed_use.aliases, 3),
        (typed_use.one_alias, 6),
        (typed_use.narrowed, 1),
        (typed_use.pinned, 1),
        (in_a_task, 2),
        (typed_use.after_a_block, 0),
        (typed_use.receiver_of_the_signal, 5),
        (typed_use.errors, 1),
    ],
)
@pytest.mark.usefixtures("_site")
def test_each_value_has_the_asserted_type(asserted, use, count):
    use()
    assert len(asserted) == count


def test_an_unknown_name_is_no_attribute():
    """Type checkers report it, too, because `__getattr__` is hidden from them."""
    with pytest.raises(AttributeError, match=r"no attribute 'unknown'"):
        typed_use.unknown_name()
