"""Coupon codes, guarded against guessing by a counter for each visitor's address."""

from django.core.cache import cache

from .models import Coupon

ALLOWED_FAILURES = 3
FAILURE_SECONDS = 10 * 60


class TooManyAttemptsError(Exception):
    """Too many wrong codes came from an address, so it must wait."""


def redeem(code: str, address: str) -> int | None:
    """Return the discount of `code` in percent, or None if there is no such code.

    Raises `TooManyAttemptsError` after `ALLOWED_FAILURES` wrong codes from `address`.
    """
    key = f"coupon-failures:{address}"
    if cache.get(key, 0) >= ALLOWED_FAILURES:
        raise TooManyAttemptsError(address)
    coupon = Coupon.objects.filter(code=code).first()
    if coupon is None:
        cache.add(key, 0, FAILURE_SECONDS)
        cache.incr(key)
        return None
    return coupon.percent
