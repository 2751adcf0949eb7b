"""The commands that take keys, from the tables of both adapters."""

from __future__ import annotations

from namespaced_cache.adapters import pylibmc, pymemcache
from namespaced_cache.adapters.commands import Shape

#: Each library's table of commands.
TABLES = {"pymemcache": pymemcache.COMMANDS, "pylibmc": pylibmc.COMMANDS}


def _of_shapes(*shapes: Shape) -> frozenset[str]:
    return frozenset(
        command.name
        for table in TABLES.values()
        for command in table.values()
        if command.shape in shapes
    )


ONE_KEY = _of_shapes(Shape.ONE_KEY)
MANY_KEYS = _of_shapes(Shape.MANY_KEYS, Shape.MAPPING)
