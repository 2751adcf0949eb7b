"""As many tests as the environment says, which use the cache if it says so."""

import os

from django.core.cache import cache
from django.test import TestCase


def do_nothing(test: TestCase) -> None:
    """Cost what a test costs by itself."""


def set_and_get(test: TestCase) -> None:
    """Use the cache as little as can be."""
    cache.set("key", test.id())
    if cache.get("key") != test.id():
        test.fail("the cache has lost it")


TESTS = {"nothing": do_nothing, "set and get": set_and_get}


class Trivial(TestCase):
    """The suite."""


for number in range(int(os.environ["TESTS"])):
    setattr(Trivial, f"test_{number}", TESTS[os.environ["TEST"]])
