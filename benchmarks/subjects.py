"""What is compared: Django's own backend, ours in each mode, and two alternatives."""

from __future__ import annotations

import gc
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import django
from django.conf import settings
from django.core.cache.backends.base import BaseCache
from django.utils.module_loading import import_string

from namespaced_cache import NamespacedCache

#: What Django's LOCATION takes: one server, or a list of servers.
Location = str | Sequence[str]

BACKENDS = {
    "pymemcache": "django.core.cache.backends.memcached.PyMemcacheCache",
    "pylibmc": "django.core.cache.backends.memcached.PyLibMCCache",
}

#: How many worker threads memcached has, and the arguments that it gets for that.
THREADS = {"default": (), "1": ("-t", "1")}

#: memcached's default number of worker threads.
DEFAULT_THREADS = 4

#: Seconds for which a bounded alias trusts the latest generation.
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
    """The naive wrapper: reads the namespace's version before each command."""

    def __init__(self, bare: BaseCache) -> None:
        self._bare = bare
        bare.set("naive-version", secrets.randbits(31), timeout=None, version=0)

    def close(self) -> None:
        self._bare.close()


def _after_reading_the_version(method: str) -> Callable[..., Any]:
    def call(self: TwoTrips, *args: Any) -> Any:
        version = self._bare.get("naive-version", version=0)
        return getattr(self._bare, method)(*args, version=version)

    return call


for _one_key in "get", "has_key", "set", "add", "delete", "touch", "incr":
    setattr(TwoTrips, _one_key, _after_reading_the_version(_one_key))
for _many_keys in "get_many", "set_many", "delete_many":
    setattr(TwoTrips, _many_keys, _after_reading_the_version(_many_keys))


def bare(client: str, location: Location, **params: object) -> BaseCache:
    """Make Django's own backend."""
    return import_string(BACKENDS[client])(location, params)


def ours(
    client: str, location: Location, name: str, **options: object
) -> NamespacedCache:
    """Make a NamespacedCache of the namespace with this name."""
    options = {"WRAPPED_BACKEND": BACKENDS[client], "NAMESPACE": name, **options}
    return NamespacedCache(location, {"OPTIONS": options})


def _bare(client: str, location: Location) -> Subject:
    return Subject(bare(client, location))


def _strict(client: str, location: Location) -> Subject:
    return Subject(ours(client, location, "strict"))


def _bounded(client: str, location: Location) -> Subject:
    cache = ours(client, location, "bounded", MAX_STALENESS=MAX_STALENESS)
    return Subject(cache)


def _pinned(client: str, location: Location) -> Subject:
    cache = ours(client, location, "pinned")
    return Subject(cache, cache.pinned_generation)


def _naive(client: str, location: Location) -> Subject:
    return Subject(TwoTrips(bare(client, location)))


def _prefix(client: str, location: Location) -> Subject:
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
    "strict": "`NamespacedCache` with its default options",
    "bounded": f"`NamespacedCache` with `MAX_STALENESS` {MAX_STALENESS}",
    "pinned": "`NamespacedCache` inside `with cache.pinned_generation():`. The time "
    "to enter the block is not counted",
    "naive": "a wrapper that reads the namespace's version from memcached before each "
    "command, and passes it to Django's backend as `version`",
    "prefix": "Django's backend with a random `KEY_PREFIX`, which is never invalidated",
}


@contextmanager
def opened(
    client: str, location: Location, *names: str
) -> Iterator[dict[str, Subject]]:
    """Give subjects, each with a fresh connection to a random thread of memcached.

    memcached assigns each new connection to the next of its worker threads. So the
    subjects connect in random order, and each connects a random number of times and
    keeps its last connection. This makes each thread equally likely.
    """
    # PyLibMCCache.close() does nothing. The connections of earlier subjects end when
    # their clients are collected.
    gc.collect()
    subjects = {}
    try:
        for name in random.sample(names, len(names)):
            for _ in range(random.randint(1, DEFAULT_THREADS)):
                if name in subjects:
                    subjects[name].cache.close()
                subjects[name] = SUBJECTS[name](client, location)
                subjects[name].cache.get("connect")
        yield {name: subjects[name] for name in names}
    finally:
        for subject in subjects.values():
            subject.cache.close()
