"""Examples: the parts of one test that hypothesis runs as tests of their own.

Before each example, hypothesis calls the method `setup_example()` of the test's
instance, if it has one. Its test cases for Django roll the database back in it. See
https://hypothesis.readthedocs.io/en/latest/extras.html#django
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any


def invalidate_before_examples(test: Any, invalidate: Callable[[], None]) -> None:
    """Let each example of this test instance begin with an empty cache.

    One round trip for each namespace and example. A test without `setup_example()` is
    left as it is.
    """
    set_up = getattr(test, "setup_example", None)
    if set_up is None:
        return

    @wraps(set_up)
    def setup_example() -> Any:
        invalidate()
        return set_up()

    test.setup_example = setup_example
