"""Finds the place in the project's code that caused a warning, and warns there."""

from __future__ import annotations

import re
import sys
import sysconfig
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

from namespaced_cache.adapters.adapter import LIBRARIES
from namespaced_cache.errors import NamespaceWarning

#: Packages, beside the standard library, that the project's code calls or that call it.
#: A warning never names a place in one of them.
_BETWEEN = {"asgiref", "django", "namespaced_cache", "pytest_django", *LIBRARIES}

#: Modules that run tests or commands. What calls them has not caused a warning.
_RUNNERS = re.compile(
    r"(_pytest|pluggy|pytest|xdist|execnet|coverage|django\.core\.management"
    r"|django\.test\.runner|unittest(?!\.mock))(\.|$)"
)

_STANDARD_LIBRARY = sysconfig.get_path("stdlib")

#: The place of a warning if the project's code has not caused it.
_NO_PLACE = "cache isolation"


def warn(text: str, place: FrameType | None = None) -> bool:
    """Warn, but never raise. Tell whether the warning would not have been raised.

    `place` is the frame that the warning names. The default is the innermost frame of
    the project's code.
    """
    place = place or find()
    where: tuple[str, int] = (_NO_PLACE, 0)
    registry: dict[Any, Any] = {}
    if place is not None:
        where = place.f_code.co_filename, place.f_lineno
        registry = place.f_globals.setdefault("__warningregistry__", {})
    try:
        warnings.warn_explicit(text, NamespaceWarning, *where, registry=registry)
    except NamespaceWarning:
        return False
    return True


def find() -> FrameType | None:
    """Return the innermost frame that belongs to the project's code, or None."""
    place: FrameType | None = sys._getframe()
    while place is not None and not _RUNNERS.match(_module(place)):
        if _is_projects(place):
            return place
        place = place.f_back
    return None


def described() -> str:
    """Return ", at FILE:LINE" for that frame, or nothing."""
    place = find()
    return f", at {place.f_code.co_filename}:{place.f_lineno}" if place else ""


def package(frame: FrameType) -> str:
    """Return the name of the top-level package of a frame's module."""
    return _module(frame).partition(".")[0]


def _module(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name


def _is_projects(frame: FrameType) -> bool:
    path = Path(frame.f_code.co_filename)
    if package(frame) in _BETWEEN or str(path).startswith("<frozen "):
        return False
    # Installed packages are below the standard library, and may be the project's. What
    # `python -m` runs is named "__main__".
    for folder in ("site-packages", "dist-packages"):
        if folder in path.parts[:-1]:
            name = path.parts[path.parts.index(folder) + 1].removesuffix(".py")
            return name not in _BETWEEN and not _RUNNERS.match(name)
    return not path.is_relative_to(_STANDARD_LIBRARY)
