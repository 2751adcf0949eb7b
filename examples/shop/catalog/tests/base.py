"""The base class of all tests of the shop."""

from decimal import Decimal

from django.test import TestCase

from catalog.models import Category, Product
from namespaced_cache import invalidate_namespaces


class ShopTestCase(TestCase):
    """Empties the cache after each test, as `TestCase` empties the database.

    Under the plain settings no alias has a namespace, and `invalidate_namespaces`
    does nothing.
    """

    def tearDown(self) -> None:
        """Leave nothing cached for the next test."""
        invalidate_namespaces()
        super().tearDown()

    def make_product(
        self, name: str, price: str = "10.00", stock: int = 5, shelf: str = "Kitchen"
    ) -> Product:
        """Create a product, and its category where that is missing."""
        category, _ = Category.objects.get_or_create(name=shelf)
        return Product.objects.create(
            category=category, name=name, price=Decimal(price), stock=stock
        )
