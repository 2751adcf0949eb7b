"""What a run reports: which aliases it isolates, how often, and which it does not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.cache import caches

from namespaced_cache import wrapping
from namespaced_cache.adapters import locations
from namespaced_cache.core import options as alias_options
from namespaced_cache.test.isolation import Isolation

_FREQUENCIES = {
    "function": "invalidated before each test",
    "empty": "emptied before each test",
    "class": "invalidated before each class",
    "off": "never invalidated",
}

_CHILDREN = "processes that tests start are isolated too"
_CHILDREN_WITH_SETTINGS = f"{_CHILDREN}, if they use these settings"
_NO_CHILDREN = (
    'processes that tests start are not (add "namespaced_cache" to INSTALLED_APPS)'
)


def first_lines(isolation: Isolation, scope: str) -> list[str]:
    """Return the lines for the start of a run. No round trip.

    There is none if no alias is isolated, and the run does not wrap aliases.
    """
    isolated: dict[str, list[str]] = {}
    others: list[str] = []
    for alias, setting in caches.settings.items():
        reason = isolation.reason_against(alias, setting)
        if reason is None:
            named = f"{alias} on {_where(alias, setting)}"
            if name := alias_options.of_setting(setting).get("NAMESPACE"):
                named += f" in namespace {name}"
            isolated.setdefault(_children(alias, setting), []).append(named)
        else:
            others.append(f"{alias} ({reason})")
    if not isolated and not isolation.wraps:
        return []
    lines = []
    for children, alike in isolated.items():
        lines.append(f"{', '.join(alike)}: {_FREQUENCIES[scope]}; {children}")
    if others:
        lines.append(f"not isolated: {', '.join(others)}")
    return [f"cache isolation: {line}" for line in lines]


def last_line(namespaces: int, invalidations: int) -> str:
    """Return the line for the end of a run."""
    plural = "s" * (namespaces != 1)
    return (
        f"cache isolation: {namespaces} namespace{plural}, invalidated "
        f"{invalidations:,} times"
    )


def _children(alias: str, setting: Mapping[str, Any]) -> str:
    """Say whether child processes use the namespace of this alias."""
    if wrapping.is_namespaced(wrapping.backend_of(alias, setting)):
        return _CHILDREN_WITH_SETTINGS
    apps = (entry.partition(".")[0] for entry in settings.INSTALLED_APPS)
    return _CHILDREN if "namespaced_cache" in apps else _NO_CHILDREN


def _where(alias: str, setting: Mapping[str, Any]) -> str:
    backend = wrapping.backend_of(alias, setting)
    if not setting.get("LOCATION") and alias_options.is_function(backend):
        return f"the servers of {backend.__name__}()"
    return "+".join(_servers(setting))


def _servers(setting: Mapping[str, Any]) -> Iterator[str]:
    # As Django's memcached backends take it.
    location = setting.get("LOCATION", "")
    if isinstance(location, str):
        location = re.split("[;,]", location)
    return map(locations.name, location)
