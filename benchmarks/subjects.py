"""What is compared: Django's own backend, ours in each mode, and two other ways out."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import django
from django.conf import settings
from django.core.cache.backends.base import BaseCache
from django.utils.module_loading import import_string

from namespaced_cache import NamespacedCache

BACKENDS = {
    "pymemcache": "django.core.cache.backends.memcached.PyMemcacheCache",
    "pylibmc": "django.core.cache.backends.memcached.PyLibMCCache",
}

#: Seconds for which a bounded alias trusts what it knows.
MAX_STALENESS = 1

if not settings.configured:
    settings.configure()
    django.setup()


@dataclass(frozen=True)
class Subject:
    """A cache, and the block in which it is used."""

    cache: Any
    block: Callable[[], AbstractContextManager[object]] = nullcontext


class TwoTrips:
    """The naive wrapper: asks for the namespace's version before each operation."""

    def __init__(self, bare: BaseCache) -> None:
        self._bare = bare
        bare.set("naive-version", secrets.randbits(31), timeout=None, version=0)

    def close(self) -> None:
        self._bare.close()


def _after_a_look(verb: str) -> Callable[..., Any]:
    def do(self: TwoTrips, *args: Any) -> Any:
        version = self._bare.get("naive-version", version=0)
        return getattr(self._bare, verb)(*args, version=version)

    return do


for _one in "get", "set", "add", "delete", "touch", "incr":
    setattr(TwoTrips, _one, _after_a_look(_one))
for _many in "get_many", "set_many", "delete_many":
    setattr(TwoTrips, _many, _after_a_look(_many))


def bare(client: str, location: str, **params: object) -> BaseCache:
    """Make Django's own backend."""
    return import_string(BACKENDS[client])(location, params)


def ours(client: str, location: str, name: str, **options: object) -> NamespacedCache:
    """Make NamespacedCache, for all who give this name in one namespace."""
    options = {"WRAPPED_BACKEND": BACKENDS[client], "NAMESPACE": name, **options}
    return NamespacedCache(location, {"OPTIONS": options})


def _bare(client: str, location: str) -> Subject:
    return Subject(bare(client, location))


def _strict(client: str, location: str) -> Subject:
    return Subject(ours(client, location, "strict"))


def _bounded(client: str, location: str) -> Subject:
    cache = ours(client, location, "bounded", MAX_STALENESS=MAX_STALENESS)
    return Subject(cache)


def _pinned(client: str, location: str) -> Subject:
    cache = ours(client, location, "pinned")
    return Subject(cache, cache.pinned_generation)


def _naive(client: str, location: str) -> Subject:
    return Subject(TwoTrips(bare(client, location)))


def _prefix(client: str, location: str) -> Subject:
    return Subject(bare(client, location, KEY_PREFIX=secrets.token_hex(8)))


#: The first is what the others are compared with.
SUBJECTS = {
    "bare": _bare,
    "strict": _strict,
    "bounded": _bounded,
    "pinned": _pinned,
    "naive": _naive,
    "prefix": _prefix,
}

#: What the report says of each.
MEANINGS = {
    "bare": "Django's own backend",
    "strict": "`NamespacedCache`, as it comes",
    "bounded": f"`NamespacedCache` with `MAX_STALENESS` {MAX_STALENESS}",
    "pinned": "`NamespacedCache` inside `with cache.pinned_generation():`, whose "
    "beginning is not timed",
    "naive": "a wrapper that gets the namespace's version from memcached before each "
    "operation, and hands it to Django's backend as `version`",
    "prefix": "Django's backend with a random `KEY_PREFIX`, which is never forgotten",
}


@contextmanager
def opened(client: str, location: str, *names: str) -> Iterator[dict[str, Subject]]:
    """Give subjects, each with a connection of its own."""
    subjects = {name: SUBJECTS[name](client, location) for name in names}
    try:
        yield subjects
    finally:
        for subject in subjects.values():
            subject.cache.close()
