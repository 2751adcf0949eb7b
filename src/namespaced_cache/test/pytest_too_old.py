"""The hooks of the plugin for a pytest that is too old: they refuse to be used."""

from __future__ import annotations

import pluggy
import pytest

from namespaced_cache.test.pytest_options import add_marker, add_options


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, so that their use can be refused."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse the options and the ini options."""
    add_marker(config)
    if (
        config.option.cache_leaks
        or config.option.cache_leaks_json
        or config.getini("cache_namespace_wrap")
        or config.getini("cache_namespace_require")
        or config.getini("cache_namespace_exclude")
        or config.getini("cache_isolation") != "function"
    ):
        raise _too_old()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse the marker."""
    if any(item.get_closest_marker("cache_isolation") for item in items):
        raise _too_old()


def _too_old() -> pytest.UsageError:
    return pytest.UsageError(
        f"django-namespaced-cache isolates tests with pytest 7.0 and pluggy 1.2, or "
        f"later. These are pytest {pytest.__version__} and pluggy {pluggy.__version__}."
    )
