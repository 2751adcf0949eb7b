"""Product cards: the data that a page shows of a product, cached by primary key."""

from dataclasses import dataclass
from decimal import Decimal

from django.core.cache import cache

from .models import Product

CARD_SECONDS = 60 * 60


@dataclass(frozen=True)
class ProductCard:
    """The data of a product that pages show. It is small and can be pickled."""

    pk: int
    name: str
    price: Decimal
    stock: int


def card_key(pk: int) -> str:
    """Return the cache key of the card of product `pk`."""
    return f"product:{pk}"


def product_card(pk: int) -> ProductCard:
    """Return the card of product `pk`, from the cache if it is there.

    Raises `Product.DoesNotExist` if neither the cache nor the database has it.
    """
    return cache.get_or_set(card_key(pk), lambda: _read_card(pk), CARD_SECONDS)


def drop_card(pk: int) -> None:
    """Drop the cached card of product `pk`."""
    cache.delete(card_key(pk))


def _read_card(pk: int) -> ProductCard:
    product = Product.objects.get(pk=pk)
    return ProductCard(product.pk, product.name, product.price, product.stock)
