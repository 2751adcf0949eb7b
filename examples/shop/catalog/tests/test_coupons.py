"""Coupon codes, and the guard against guessing them."""

from django.urls import reverse

from catalog.models import Coupon

from .base import ShopTestCase


class CouponTests(ShopTestCase):
    """What the coupon page answers."""

    def setUp(self) -> None:
        """One code is valid."""
        Coupon.objects.create(code="SPRING", percent=10)

    def try_code(self, code: str) -> int:
        """Send `code` and return the status of the answer."""
        return self.client.post(reverse("catalog:coupon"), {"code": code}).status_code

    def test_valid_code_has_a_discount(self) -> None:
        """The answer says how much."""
        response = self.client.post(reverse("catalog:coupon"), {"code": "SPRING"})
        self.assertEqual(response.json(), {"percent": 10})

    def test_unknown_code_is_not_found(self) -> None:
        """A wrong code is worth nothing."""
        self.assertEqual(self.try_code("WINTER"), 404)

    def test_fourth_guess_is_refused(self) -> None:
        """Three wrong codes, then the visitor must wait, even with the right one."""
        answers = [self.try_code(code) for code in ("A", "B", "C", "SPRING")]
        self.assertEqual(answers, [404, 404, 404, 429])
