"""Methods of a backend that are not plain functions get all arguments."""

from __future__ import annotations

from functools import lru_cache, partial, partialmethod

import pytest
from django.core.cache.backends.memcached import PyMemcacheCache

from namespaced_cache import NamespacedCache


def _call(_, name, *args, **kwargs):
    return name, args, kwargs


class Callable:
    """A callable object, which is no method."""

    def __call__(self, *args, **kwargs):
        return "callable", args, kwargs


class OverridingCache(PyMemcacheCache):
    get = partialmethod(_call, "partial")

    @staticmethod
    def delete(*args, **kwargs):
        return "static", args, kwargs

    @classmethod
    def add(cls, *args, **kwargs):
        return cls.__name__, args, kwargs

    @property
    def touch(self):
        return partial(_call, self, "property")

    @lru_cache  # noqa: B019  # as a project may write it
    def has_key(self, *args, **kwargs):
        return "cached", args, kwargs

    async def aget(self, *args, **kwargs):
        return "async", args, kwargs

    incr = Callable()

    def __init__(self, *args):
        super().__init__(*args)
        self.set = partial(_call, self, "assigned")


EXPECTED = {
    "get": "partial",
    "delete": "static",
    "add": "OverridingCache",
    "touch": "property",
    "has_key": "cached",
    "incr": "callable",
    "set": "assigned",
}


@pytest.fixture
def cache(server):
    path = f"{__name__}.OverridingCache"
    return NamespacedCache(server.location, {"OPTIONS": {"WRAPPED_BACKEND": path}})


@pytest.mark.parametrize("name", EXPECTED)
def test_its_own_arguments_are_passed_on(cache, name):
    found = getattr(cache, name)("k", "positional", hard=True)
    assert found == (EXPECTED[name], ("k", "positional"), {"hard": True})


def test_other_backends_keep_their_signatures(cache, server):
    assert cache.get("k", own=1)
    plain = NamespacedCache(server.location, {"OPTIONS": {}})
    with pytest.raises(TypeError, match="own"):
        plain.get("k", own=1)
    plain.close()
