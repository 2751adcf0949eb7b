"""Baskets are sessions, which contain the products of a visitor."""

from django.test import Client
from django.urls import reverse

from .base import ShopTestCase


class BasketTests(ShopTestCase):
    """The contents of baskets."""

    def test_basket_of_a_new_visitor_is_empty(self) -> None:
        """An empty basket costs nothing."""
        response = self.client.get(reverse("catalog:basket"))
        self.assertEqual(response.json(), {"lines": {}, "total": "0"})

    def test_basket_adds_up(self) -> None:
        """The basket has two units of one product and one of another."""
        cup = self.make_product("Cup", price="5.00")
        saucer = self.make_product("Saucer", price="3.00")
        for product in (cup, cup, saucer):
            self.client.post(reverse("catalog:add-to-basket", args=[product.pk]))
        response = self.client.get(reverse("catalog:basket"))
        self.assertEqual(
            response.json(), {"lines": {"Cup": 2, "Saucer": 1}, "total": "13.00"}
        )

    def test_last_unit_goes_to_the_first_visitor(self) -> None:
        """A visitor cannot take units that another visitor has in a basket."""
        vase = self.make_product("Vase", stock=1)
        add = reverse("catalog:add-to-basket", args=[vase.pk])
        self.assertEqual(self.client.post(add).status_code, 201)
        self.assertEqual(Client().post(add).status_code, 409)
