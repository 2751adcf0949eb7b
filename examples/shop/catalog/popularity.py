"""How often each product was viewed: counters that are in memcached only."""

from collections.abc import Iterable

from django.core.cache import cache

VIEWS_SECONDS = 60 * 60


def views_key(pk: int) -> str:
    """Return the cache key of the view counter of product `pk`."""
    return f"views:{pk}"


def count_view(pk: int) -> int:
    """Count one view of product `pk` and return the views so far."""
    cache.add(views_key(pk), 0, VIEWS_SECONDS)
    return cache.incr(views_key(pk))


def most_viewed(pks: Iterable[int], limit: int = 5) -> list[tuple[int, int]]:
    """Return up to `limit` pairs of primary key and views, the most viewed first."""
    keys = {views_key(pk): pk for pk in pks}
    views = {keys[key]: count for key, count in cache.get_many(keys).items()}
    return sorted(views.items(), key=lambda item: (-item[1], item[0]))[:limit]
