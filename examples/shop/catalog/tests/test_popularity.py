"""View counters and the ranking by them."""

from django.urls import reverse

from catalog.popularity import count_view, most_viewed

from .base import ShopTestCase


class PopularityTests(ShopTestCase):
    """Counters that are in the cache only."""

    def test_views_are_counted_from_one(self) -> None:
        """A new product has no views before the first."""
        fork = self.make_product("Fork")
        self.assertEqual([count_view(fork.pk) for _ in range(3)], [1, 2, 3])

    def test_ranking_puts_the_most_viewed_first(self) -> None:
        """A product with more views is listed first."""
        knife, board = self.make_product("Knife"), self.make_product("Board")
        count_view(knife.pk)
        count_view(board.pk)
        count_view(board.pk)
        self.assertEqual(
            most_viewed([knife.pk, board.pk]), [(board.pk, 2), (knife.pk, 1)]
        )

    def test_product_nobody_looked_at_is_not_popular(self) -> None:
        """Without views there is no ranking."""
        self.make_product("Corkscrew")
        response = self.client.get(reverse("catalog:popular"))
        self.assertEqual(response.json(), {"popular": []})
