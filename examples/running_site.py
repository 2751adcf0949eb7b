"""Plays the shop's running site: its keys in memcached while the tests run.

The keys are written by the shop's own code under its production settings, so Django
must be set up before this module is imported.
"""

from dataclasses import dataclass

from django.contrib.sessions.backends.cache import SessionStore
from django.core.cache import cache
from django.core.management import call_command

from catalog.cards import card_key, product_card
from catalog.models import Category, Product
from catalog.popularity import count_view, views_key
from catalog.stock import held_key, hold

PRODUCTS = 200
HOLDS = 50
SESSIONS = 50
KEEP_SECONDS = 60 * 60


@dataclass(frozen=True)
class Damage:
    """How many keys the site has, and how many of them were changed."""

    keys: int
    overwritten: int
    missing: int

    @property
    def changed(self) -> int:
        """How many of the keys were changed."""
        return self.overwritten + self.missing

    def __bool__(self) -> bool:
        """Tell whether any key was changed."""
        return bool(self.overwritten or self.missing)

    def __str__(self) -> str:
        """Return the numbers as the table shows them."""
        if not self:
            return f"0 of {self.keys}"
        return (
            f"{self.changed} of {self.keys}"
            f" ({self.overwritten} overwritten, {self.missing} gone)"
        )


class RunningSite:
    """A shop with products, visitors and baskets, and a copy of what it has cached."""

    def __init__(self) -> None:
        """Open the shop: fill its database and, through its own code, its cache."""
        call_command("migrate", verbosity=0)
        names = [*_cached_products(), *_cached_sessions()]
        self.values = cache.get_many(names)
        if len(self.values) != len(names):
            lost = len(names) - len(self.values)
            msg = f"memcached lost {lost} of {len(names)} keys at once: is it full?"
            raise RuntimeError(msg)

    def damage(self) -> Damage:
        """Compare each key with what the site wrote."""
        found = cache.get_many(self.values)
        overwritten = sum(self.values[name] != value for name, value in found.items())
        missing = len(self.values) - len(found)
        return Damage(len(self.values), overwritten, missing)

    def restore(self) -> None:
        """Write all keys again with their old values."""
        cache.set_many(self.values, KEEP_SECONDS)

    def close(self) -> None:
        """Delete the site's keys from the server."""
        cache.delete_many(self.values)
        cache.close()


def _cached_products() -> list[str]:
    shelf = Category.objects.create(name="Everything")
    Product.objects.bulk_create(
        Product(category=shelf, name=f"Site's product {number}", price=number, stock=9)
        for number in range(1, PRODUCTS + 1)
    )
    names = []
    pks = Product.objects.order_by("pk").values_list("pk", flat=True)
    for pk in pks:
        product_card(pk)
        count_view(pk)
        names += [card_key(pk), views_key(pk)]
    for pk in pks[:HOLDS]:
        hold(pk, 9, stock=9)
        names.append(held_key(pk))
    return names


def _cached_sessions() -> list[str]:
    names = []
    for number in range(SESSIONS):
        session = SessionStore()
        session["basket"] = {str(number + 1): 1}
        session.create()
        names.append(f"{session.cache_key_prefix}{session.session_key}")
    return names
