"""The public names of `namespaced_cache.test`."""

from __future__ import annotations

import pytest

from namespaced_cache import test


@pytest.mark.parametrize("name", test.__all__)
def test_each_name_is_found(name):
    assert getattr(test, name).__name__ == name
    assert name in dir(test)


@pytest.mark.parametrize("name", ["NamespacedTestCase", "isolated", "__wrapped__"])
def test_another_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=rf"'namespaced_cache\.test' .* '{name}'"):
        getattr(test, name)
