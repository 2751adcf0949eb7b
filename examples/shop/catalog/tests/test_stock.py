"""Stock holds are counted by compare-and-swap on the raw client."""

from concurrent.futures import ThreadPoolExecutor

from django.core.cache import cache

from catalog import stock

from .base import ShopTestCase


class StockTests(ShopTestCase):
    """Units held in baskets."""

    def test_holds_add_up(self) -> None:
        """Each hold adds to the units that are held."""
        plate = self.make_product("Plate", stock=5)
        self.assertEqual(stock.hold(plate.pk, 2, plate.stock), 2)
        self.assertEqual(stock.hold(plate.pk, 1, plate.stock), 3)
        self.assertEqual(stock.held(plate.pk), 3)

    def test_last_unit_is_held_once(self) -> None:
        """A second shopper does not get the same unit."""
        bowl = self.make_product("Bowl", stock=1)
        stock.hold(bowl.pk, 1, bowl.stock)
        with self.assertRaises(stock.OutOfStockError):
            stock.hold(bowl.pk, 1, bowl.stock)

    def test_released_unit_can_be_held_again(self) -> None:
        """Units that are given back can be held again."""
        jug = self.make_product("Jug", stock=1)
        stock.hold(jug.pk, 1, jug.stock)
        stock.release(jug.pk, 1, jug.stock)
        self.assertEqual(stock.hold(jug.pk, 1, jug.stock), 1)

    def test_shoppers_at_once_lose_no_hold(self) -> None:
        """Swaps that fail are repeated: four threads hold forty units."""
        spoon = self.make_product("Spoon", stock=40)

        def shop() -> None:
            try:
                for _ in range(10):
                    stock.hold(spoon.pk, 1, spoon.stock)
            finally:
                cache.close()

        with ThreadPoolExecutor(max_workers=4) as shoppers:
            for shopper in [shoppers.submit(shop) for _ in range(4)]:
                shopper.result()
        self.assertEqual(stock.held(spoon.pk), 40)
