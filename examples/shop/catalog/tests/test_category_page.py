"""The whole category page is cached."""

from django.urls import reverse

from catalog.models import Category

from .base import ShopTestCase


class CategoryPageTests(ShopTestCase):
    """The category page."""

    def test_page_lists_the_products(self) -> None:
        """Every product of the category is on its page."""
        trowel = self.make_product("Trowel", shelf="Garden")
        self.make_product("Rake", shelf="Garden")
        page = reverse("catalog:category", args=[trowel.category_id])
        response = self.client.get(page)
        self.assertContains(response, "Garden")
        self.assertContains(response, "Trowel")
        self.assertContains(response, "Rake")

    def test_page_of_an_empty_category_says_so(self) -> None:
        """The page of a new category is empty."""
        attic = Category.objects.create(name="Attic")
        response = self.client.get(reverse("catalog:category", args=[attic.pk]))
        self.assertContains(response, "Nothing on this shelf yet.")

    def test_second_visit_needs_no_query(self) -> None:
        """The whole page comes from the cache."""
        lamp = self.make_product("Lamp", shelf="Lights")
        page = reverse("catalog:category", args=[lamp.category_id])
        first = self.client.get(page)
        with self.assertNumQueries(0):
            second = self.client.get(page)
        self.assertEqual(first.content, second.content)
