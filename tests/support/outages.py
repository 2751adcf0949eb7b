"""Commands in an outage, and tables of what each call does then.

A table has a column for each outage and a line for each command: see `read`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import pylibmc
import pymemcache

from namespaced_cache import NamespaceUnavailable

#: Each command, and its answer while the client hides that the server is down.
COMMANDS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "get": (lambda cache: cache.get("k", "default"), "default"),
    "get_many": (lambda cache: cache.get_many(["k", "l"]), {}),
    "has_key": (lambda cache: "k" in cache, False),
    "get_or_set": (lambda cache: cache.get_or_set("k", "made"), "made"),
    "set": (lambda cache: cache.set("k", 7), None),
    "raw_set": (lambda cache: cache._cache.set(cache.make_key("k"), 7), False),
    "set_many": (lambda cache: cache.set_many({"k": 7, "l": 7}), ["k", "l"]),
    "add": (lambda cache: cache.add("new", 7), False),
    "touch": (lambda cache: cache.touch("k", 60), False),
    "incr": (lambda cache: cache.incr("k"), False),
    "delete": (lambda cache: cache.delete("k"), False),
    "delete_many": (lambda cache: cache.delete_many(["k", "l"]), None),
}
#: Calls for which ours never hides an outage: they raise NamespaceUnavailable.
LOUD: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "clear": (lambda cache: cache.clear(), ...),
    "invalidate": (lambda cache: cache.invalidate_namespace(), ...),
    "generation": (lambda cache: cache.generation, ...),
}

#: The words of the tables. "default" is the outage default, which COMMANDS has beside
#: each command. Any other answer is written as it is.
ERRORS = {
    "closed": pymemcache.exceptions.MemcacheUnexpectedCloseError,
    "refused": ConnectionRefusedError,
    "timed-out": TimeoutError,
    "all-down": pymemcache.exceptions.MemcacheError,  # "All servers seem to be down"
    "Error": pylibmc.Error,  # a timeout has no class of its own
    "Connection": pylibmc.ConnectionError,
    "Write": pylibmc.WriteError,
    "Down": pylibmc.ServerDown,
    "Dead": pylibmc.ServerDead,
    "unavailable": NamespaceUnavailable,
}


class Cell(NamedTuple):
    """The words for bare and for ours, and the note that says why they differ."""

    bare: list[str]
    ours: list[str]
    note: str = ""


def read(table: str) -> dict[tuple[str, str, str, str], Cell]:
    """Return the cells by client, libmemcached's version, outage and command.

    A line without cells names the clients of the lines below it. After an "@" it names
    a version of libmemcached. "any" means the commands that have no line of their own.
    A line "ours" says how ours differs from the bare backend, which is in the line
    above. It names a note that says why. "=" means no difference.
    """
    cells: dict[tuple[str, str, str, str], Cell] = {}
    header, *lines = table.strip("\n").splitlines()
    outages = header.replace("|", "").split()
    clients, version, commands = "", "", list(COMMANDS)
    for line in lines:
        first, *rest = (part.strip() for part in line.split("|"))
        if not rest:
            clients, _, version = first.partition("@")
            continue
        ours, _, note = first.partition("ours: ")
        if not note:
            commands = list(COMMANDS) if first == "any" else ours.split()
        for client in clients.split():
            for outage, cell in zip(outages, rest, strict=True):
                words = cell.split()
                for where in (
                    (client, version, outage, command) for command in commands
                ):
                    if not note:
                        cells[where] = Cell(words, words)
                    elif words != ["="]:
                        cells[where] = Cell(cells[where].bare, words, note)
    return cells


def word(act: Callable[[], Any], outage_default: Any) -> str:
    """Return the table's word for what `act` does."""
    try:
        answer = act()
    except Exception as error:  # noqa: BLE001  # the caller compares any error
        words = [word for word, kind in ERRORS.items() if type(error) is kind]
        return words[0] if words else repr(error)
    same = type(answer) is type(outage_default) and answer == outage_default
    return "default" if same else repr(answer).replace(" ", "")


def all_recover(pending: list[Callable[[], bool]]) -> None:
    """Call all functions again and again, until each has returned true once."""
    deadline = time.monotonic() + 30

    def is_down(ask: Callable[[], bool]) -> bool:
        with suppress(*ERRORS.values()):
            return not ask()
        return True

    while pending := [ask for ask in pending if is_down(ask)]:
        assert time.monotonic() < deadline, "a client does not recover"
        time.sleep(0.02)
