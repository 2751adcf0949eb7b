"""Baskets are sessions, and hold what is in them."""

from django.test import Client
from django.urls import reverse

from .base import ShopTestCase


class BasketTests(ShopTestCase):
    """What a visitor can put into a basket."""

    def test_basket_of_a_new_visitor_is_empty(self) -> None:
        """Nothing in it, nothing to pay."""
        response = self.client.get(reverse("catalog:basket"))
        self.assertEqual(response.json(), {"lines": {}, "total": "0"})

    def test_basket_adds_up(self) -> None:
        """Two units of one product and one of another."""
        cup = self.make_product("Cup", price="5.00")
        saucer = self.make_product("Saucer", price="3.00")
        for product in (cup, cup, saucer):
            self.client.post(reverse("catalog:add-to-basket", args=[product.pk]))
        response = self.client.get(reverse("catalog:basket"))
        self.assertEqual(
            response.json(), {"lines": {"Cup": 2, "Saucer": 1}, "total": "13.00"}
        )

    def test_last_unit_goes_to_the_first_visitor(self) -> None:
        """What one visitor holds, the next cannot have."""
        vase = self.make_product("Vase", stock=1)
        add = reverse("catalog:add-to-basket", args=[vase.pk])
        self.assertEqual(self.client.post(add).status_code, 201)
        self.assertEqual(Client().post(add).status_code, 409)
