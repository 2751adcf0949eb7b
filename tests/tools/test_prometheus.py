"""django-prometheus's backends, which count in their own `get`."""

from __future__ import annotations

import pytest
from django_prometheus.cache.backends.memcached import MemcachedPrometheusCacheMixin

from namespaced_cache import NamespacedCache
from tests.support.caches import BACKENDS
from tests.support.recordings import (
    ANSWERS,
    OURS,
    Bystander,
    alias,
    assert_recorded,
    recording,
)

#: The counts of each call: gets, hits, misses. Only `get` is counted, including calls
#: of `get` by other methods.
COUNTED = {
    "set": (0, 0, 0),
    "get": (1, 1, 0),
    "get, a miss": (1, 0, 1),
    "add": (0, 0, 0),
    "set_many": (0, 0, 0),
    "get_many": (0, 0, 0),
    "incr": (0, 0, 0),
    "decr": (0, 0, 0),
    "touch": (0, 0, 0),
    # Its first `get` has a default, and still counts as a miss.
    "get_or_set": (2, 1, 1),
    "has_key": (1, 1, 0),
    "in": (1, 1, 0),
    "incr_version": (1, 1, 0),
    "delete": (0, 0, 0),
    "delete_many": (0, 0, 0),
    "aset": (0, 0, 0),
    "aget": (1, 1, 0),
    "aget_many": (1, 1, 0),
    "ahas_key": (1, 1, 0),
    "adelete": (0, 0, 0),
}


class OutsideCache(MemcachedPrometheusCacheMixin, NamespacedCache):
    """Counts in front of our class: the mixin calls our `super().get`."""


class OutsideBystander(MemcachedPrometheusCacheMixin, Bystander):
    """The same mixin in front of a class without a `get`."""


def watch(set_up, work) -> None:
    set_up()
    from prometheus_client import REGISTRY

    names = "django_cache_get", "django_cache_get_hits", "django_cache_get_misses"

    def count():
        backend = {"backend": "memcached"}
        samples = (
            REGISTRY.get_sample_value(f"{name}_total", backend) for name in names
        )
        return [sample or 0 for sample in samples]  # none before the first call

    def record(act):
        before = count()
        act()
        return tuple(int(now - then) for now, then in zip(count(), before, strict=True))

    work(record)


def counting(client: str) -> str:
    name = BACKENDS[client].rpartition(".")[2]
    return f"django_prometheus.cache.backends.memcached.{name}"


@pytest.mark.parametrize("kind", ["bare", OURS])
def test_a_wrapped_backend_counts_each_get_once(kind, client, server):
    cache = alias(kind, counting(client), server.location)
    assert_recorded(__name__, kind, cache, COUNTED)


def test_its_mixin_counts_each_get_once_before_our_class(backend, server):
    kind = f"{__name__}.OutsideCache"
    seen = recording(__name__, alias(kind, backend, server.location))
    assert seen.answers == ANSWERS
    assert seen.recorded == COUNTED
    assert seen.neighbour is None


def test_its_mixin_needs_a_get_on_the_class(backend, server):
    kind = f"{__name__}.OutsideBystander"
    seen = recording(__name__, alias(kind, backend, server.location))
    assert seen.answers["get"] == "AttributeError"
