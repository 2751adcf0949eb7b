"""Units held in baskets: a counter changed by compare-and-swap in memcached.

Django's cache API has no compare-and-swap, so this uses the client behind it,
`cache._cache`, as sites with contended counters do.
"""

from django.core.cache import cache

HOLD_SECONDS = 60 * 60
# Each failed swap means that another shopper's swap succeeded. So this is enough for a
# burst of 50 shoppers on one product.
ATTEMPTS = 50


class OutOfStockError(Exception):
    """A shopper wants more units than are left."""


class BusyError(Exception):
    """Other shoppers' swaps succeeded each time. The shopper may try again."""


def held_key(pk: int) -> str:
    """Return the cache key of the number of units of product `pk` in baskets."""
    return f"held:{pk}"


def held(pk: int) -> int:
    """Return how many units of product `pk` are held in baskets."""
    return cache.get(held_key(pk), 0)


def hold(pk: int, quantity: int, stock: int) -> int:
    """Hold `quantity` of the `stock` units of product `pk`; return the units held.

    Raises `OutOfStockError` if fewer are left, `BusyError` if contention is too high.
    """
    return _change_held(pk, quantity, stock)


def release(pk: int, quantity: int, stock: int) -> int:
    """Give `quantity` held units of product `pk` back; return the units still held."""
    return _change_held(pk, -quantity, stock)


def _change_held(pk: int, change: int, stock: int) -> int:
    client = cache._cache  # noqa: SLF001 - the only way to gets and cas
    key = cache.make_key(held_key(pk))
    for _ in range(ATTEMPTS):
        before, token = client.gets(key)
        after = max((before or 0) + change, 0)
        if after > stock:
            msg = f"product {pk}: {after} units wanted, {stock} in stock"
            raise OutOfStockError(msg)
        if token is None:
            swapped = client.add(key, after, expire=HOLD_SECONDS)
        else:
            swapped = client.cas(key, after, token, expire=HOLD_SECONDS)
        if swapped:
            return after
    msg = f"product {pk}: no swap in {ATTEMPTS} attempts"
    raise BusyError(msg)
