"""Product cards show the product, and follow its changes."""

from decimal import Decimal

from django.urls import reverse

from catalog.cards import product_card
from catalog.models import Product

from .base import ShopTestCase


class ProductCardTests(ShopTestCase):
    """Product cards."""

    def test_card_shows_the_product(self) -> None:
        """The card has the name, price and stock of the database."""
        teapot = self.make_product("Teapot", price="24.00", stock=3)
        card = product_card(teapot.pk)
        self.assertEqual(
            (card.name, card.price, card.stock), ("Teapot", Decimal("24.00"), 3)
        )

    def test_first_card_is_read_from_the_database_and_the_next_is_not(self) -> None:
        """One query fills the cache. Later cards come from the cache."""
        kettle = self.make_product("Kettle")
        with self.assertNumQueries(1):
            product_card(kettle.pk)
        with self.assertNumQueries(0):
            product_card(kettle.pk)

    def test_new_price_reaches_the_card(self) -> None:
        """Saving a product drops its card."""
        mug = self.make_product("Mug", price="8.00")
        product_card(mug.pk)
        mug.price = Decimal("6.50")
        with self.captureOnCommitCallbacks(execute=True):
            mug.save()
        self.assertEqual(product_card(mug.pk).price, Decimal("6.50"))

    def test_unknown_product_has_no_card(self) -> None:
        """A missing product has no card."""
        with self.assertRaises(Product.DoesNotExist):
            product_card(1)


class ProductPageTests(ShopTestCase):
    """The page that shows a card."""

    def test_page_shows_name_price_and_availability(self) -> None:
        """The page of a new product has all its units and its first view."""
        ladle = self.make_product("Ladle", price="4.20", stock=7)
        response = self.client.get(reverse("catalog:product", args=[ladle.pk]))
        self.assertEqual(
            response.json(),
            {"name": "Ladle", "price": "4.20", "available": 7, "views": 1},
        )

    def test_page_of_a_deleted_product_is_gone(self) -> None:
        """A deleted product has no page."""
        whisk = self.make_product("Whisk")
        page = reverse("catalog:product", args=[whisk.pk])
        self.assertEqual(self.client.get(page).status_code, 200)
        with self.captureOnCommitCallbacks(execute=True):
            whisk.delete()
        self.assertEqual(self.client.get(page).status_code, 404)

    def test_page_of_an_unknown_product_is_not_found(self) -> None:
        """An empty shop has no product pages."""
        response = self.client.get(reverse("catalog:product", args=[1]))
        self.assertEqual(response.status_code, 404)
