"""The base class of all tests of the shop."""

from decimal import Decimal

from django.test import TestCase

from catalog.models import Category, Product


class ShopTestCase(TestCase):
    """Helpers for several tests of the shop."""

    def make_product(
        self, name: str, price: str = "10.00", stock: int = 5, shelf: str = "Kitchen"
    ) -> Product:
        """Create a product, and its category if that is missing."""
        category, _ = Category.objects.get_or_create(name=shelf)
        return Product.objects.create(
            category=category, name=name, price=Decimal(price), stock=stock
        )
