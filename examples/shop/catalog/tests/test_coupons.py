"""Coupon codes, and the protection against guessing."""

from django.urls import reverse

from catalog.models import Coupon

from .base import ShopTestCase


class CouponTests(ShopTestCase):
    """The answers of the coupon page."""

    def setUp(self) -> None:
        """Create one valid code."""
        Coupon.objects.create(code="SPRING", percent=10)

    def try_code(self, code: str) -> int:
        """Send `code` and return the status of the answer."""
        return self.client.post(reverse("catalog:coupon"), {"code": code}).status_code

    def test_valid_code_has_a_discount(self) -> None:
        """The answer for a valid code contains the discount."""
        response = self.client.post(reverse("catalog:coupon"), {"code": "SPRING"})
        self.assertEqual(response.json(), {"percent": 10})

    def test_unknown_code_is_not_found(self) -> None:
        """The answer for a wrong code contains no discount."""
        self.assertEqual(self.try_code("WINTER"), 404)

    def test_fourth_guess_is_refused(self) -> None:
        """After three wrong codes the visitor must wait, even with the right code."""
        answers = [self.try_code(code) for code in ("A", "B", "C", "SPRING")]
        self.assertEqual(answers, [404, 404, 404, 429])
