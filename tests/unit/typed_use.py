"""A typed project that uses this package.

mypy and pyright read this file and fail if a type is not the asserted one.
`test_typing.py` runs it, to check that the values have these types.
"""

from __future__ import annotations

from typing import Any, assert_type

from django.core.cache import cache, caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.dispatch import receiver
from django.test import SimpleTestCase
from django.test.runner import DiscoverRunner

import namespaced_cache
from namespaced_cache import (
    NamespacedCache,
    NamespaceError,
    NamespaceUnavailable,
    NamespaceWarning,
    get_namespaced,
    invalidate_namespaces,
    namespaced,
)
from namespaced_cache.signals import namespace_invalidated
from namespaced_cache.test import (
    NamespacedCacheMixin,
    NamespacedDiscoverRunner,
    NamespacedParallelTestSuite,
    NamespacedRunnerMixin,
    NamespacedTestSuite,
)


def settings(production: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    wrapped = namespaced(production, NAMESPACE="shop-tests", MAX_STALENESS=0.5)
    return assert_type(wrapped, dict[str, dict[str, Any]])


def aliases() -> None:
    assert_type(invalidate_namespaces(), dict[str, int])
    assert_type(invalidate_namespaces("default"), dict[str, int])
    assert_type(invalidate_namespaces(using=["default"]), dict[str, int])


def one_alias() -> None:
    assert_type(get_namespaced("default"), NamespacedCache)
    namespaced_one = get_namespaced()
    assert_type(namespaced_one.invalidate_namespace(), int)
    assert_type(namespaced_one.namespace, str)
    assert_type(namespaced_one.generation, int)
    assert_type(namespaced_one.wrapped, BaseMemcachedCache)
    # It is also one of Django's backends.
    as_django_backend: BaseCache = namespaced_one
    as_django_backend.set("answer", 42)
    assert_type(namespaced_one.has_key("answer"), bool)


def of_djangos_own_type() -> None:
    """A checker cannot know these types: in Django's stubs, both are a BaseCache.

    No test runs this, because `cache` is a proxy and not a BaseCache.
    """
    assert_type(cache, BaseCache)
    assert_type(caches["default"], BaseCache)
    # A checker that finds nothing to ignore reports the comment as an error.
    cache.invalidate_namespace()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    caches["default"].invalidate_namespace()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def unknown_name() -> None:
    namespaced_cache.unknown()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def narrowed() -> None:
    """After isinstance(), a checker knows the type."""
    found = caches["default"]
    assert isinstance(found, NamespacedCache)
    assert_type(found.invalidate_namespace(), int)


def pinned() -> None:
    with get_namespaced().pinned_generation() as generation:
        assert_type(generation, int)


async def pinned_by_a_task() -> None:
    namespaced_one = get_namespaced()
    async with namespaced_one.pinned_generation() as generation:
        assert_type(generation, int)
    assert_type(await namespaced_one.ainvalidate_namespace(), int)


def after_a_block() -> int:
    # The block swallows no exception, so a checker knows that this returns.
    with get_namespaced().pinned_generation():
        return 1


def receiver_of_the_signal() -> int:
    heard: list[int] = []

    @receiver(namespace_invalidated)
    def hear(
        sender: type[NamespacedCache],
        *,
        alias: str | None,
        namespace: str,
        generation: int,
        **_: Any,
    ) -> None:
        assert_type(sender, type[NamespacedCache])
        assert_type(alias, str | None)
        assert_type(namespace, str)
        heard.append(assert_type(generation, int))

    get_namespaced().invalidate_namespace()
    assert_type(namespace_invalidated.disconnect(hear), bool)
    return heard[0]


def errors() -> str:
    try:
        invalidate_namespaces()
    except NamespaceUnavailable as error:
        of_ours: NamespaceError = error
        return assert_type(str(of_ours), str)
    of_pythons: UserWarning = NamespaceWarning("of a test")
    return assert_type(str(of_pythons), str)


class IsolatedTests(NamespacedCacheMixin, SimpleTestCase):
    cache_isolation = "class"

    def test_it(self) -> None:
        assert get_namespaced().add("answer", 42)


class SitesSuite(NamespacedTestSuite):
    pass


class SitesParallelSuite(NamespacedParallelTestSuite):
    pass


class SitesRunner(NamespacedRunnerMixin, DiscoverRunner):
    test_suite = SitesSuite
    parallel_test_suite = SitesParallelSuite


class ShorterRunner(NamespacedDiscoverRunner):
    pass
