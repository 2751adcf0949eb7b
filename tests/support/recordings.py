"""What a tool records of each call of a cache.

Each recording is made in a process of its own, because the tools patch Django and the
client libraries permanently. There the tool's module has a function `watch(set_up,
work)`. It installs the tool, calls `set_up()` to set Django up, and then calls
`work(record)`. Its `record(act)` calls `act` and returns what the tool recorded
meanwhile.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import os
import subprocess
import sys
from dataclasses import dataclass

OURS = "namespaced_cache.NamespacedCache"

#: More seconds than any tool needs to start.
SECONDS = 60

#: Each call and its answer. A tool must show these keys and no wire keys.
CALLS = {
    "set": (lambda cache: cache.set("colour", "red"), None),
    "get": (lambda cache: cache.get("colour"), "red"),
    "get, a miss": (lambda cache: cache.get("shape"), None),
    "add": (lambda cache: cache.add("taste", "sweet"), True),
    "set_many": (lambda cache: cache.set_many({"one": 1, "two": 2}), []),
    "get_many": (lambda cache: cache.get_many(["one", "two"]), {"one": 1, "two": 2}),
    "incr": (lambda cache: cache.incr("one"), 2),
    "decr": (lambda cache: cache.decr("two"), 1),
    "touch": (lambda cache: cache.touch("colour"), True),
    "get_or_set": (lambda cache: cache.get_or_set("smell", "faint"), "faint"),
    "has_key": (lambda cache: cache.has_key("colour"), True),
    "in": (lambda cache: "colour" in cache, True),
    "incr_version": (lambda cache: cache.incr_version("taste"), 2),
    "delete": (lambda cache: cache.delete("smell"), True),
    "delete_many": (lambda cache: cache.delete_many(["one", "two"]), None),
    "aset": (lambda cache: cache.aset("sound", "loud"), None),
    "aget": (lambda cache: cache.aget("sound"), "loud"),
    "aget_many": (lambda cache: cache.aget_many(["sound"]), {"sound": "loud"}),
    "ahas_key": (lambda cache: cache.ahas_key("sound"), True),
    "adelete": (lambda cache: cache.adelete("sound"), True),
}

ANSWERS = {call: answer for call, (_, answer) in CALLS.items()}


@dataclass(frozen=True)
class Recording:
    """The answers of the calls, and what a tool recorded of each call.

    `neighbour` is what a backend without a namespace finds under one of the keys.
    """

    answers: dict
    recorded: dict
    neighbour: object


def alias(kind: str, backend: str, location: str) -> dict:
    """Return the setting of an alias: the "bare" backend, or a class that wraps it."""
    if kind == "bare":
        return {"BACKEND": backend, "LOCATION": location}
    options = {"WRAPPED_BACKEND": backend}
    return {"BACKEND": kind, "LOCATION": location, "OPTIONS": options}


def run(tool: str, arguments: object, **environment: str):
    """Run a tool's module in a process of its own, and return its answer."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, tool, repr(arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    return ast.literal_eval(done.stdout.splitlines()[-1])


def recording(tool: str, cache: dict, **environment: str) -> Recording:
    """Make all calls with one alias while a tool records them."""
    return Recording(*run(tool, cache, **environment))


def assert_recorded(tool: str, kind: str, cache: dict, expected: dict) -> None:
    """Assert the answers, the recording, and that only ours uses a namespace."""
    seen = recording(tool, cache)
    assert seen.answers == ANSWERS
    assert seen.recorded == expected
    assert seen.neighbour == ("red" if kind == "bare" else None)


def missed(tool: str, backend: str, location: str, expected: dict) -> set[str]:
    """Return the calls that a tool misses if the class itself has no methods.

    Of those the tool must record nothing, and of all others what is expected.
    """
    seen = recording(tool, alias(f"{__name__}.Bystander", backend, location))
    missing = {call for call in expected if seen.recorded[call] != expected[call]}
    assert [seen.recorded[call] for call in missing] == [[]] * len(missing)
    return missing


class Bystander:
    """A proxy that has its methods only through `__getattr__`. Ours must not."""

    def __init__(self, server, params):
        from namespaced_cache import NamespacedCache

        self.namespaced = NamespacedCache(server, params)

    def __getattr__(self, name):
        return getattr(self.namespaced, name)


def make(cache: dict, tool) -> tuple[dict, dict, object]:
    """Make all calls, in the process in which the tool is installed."""
    import django
    from django.conf import settings

    settings.configure(
        CACHES={"default": cache},
        SECRET_KEY="not a secret",
        **getattr(tool, "SETTINGS", {}),
    )
    answers, recorded = {}, {}

    def answer(act, cache):
        try:
            got = act(cache)
            return asyncio.run(got) if asyncio.iscoroutine(got) else got
        except Exception as error:  # noqa: BLE001  # the caller compares any error
            return type(error).__name__

    def work(record):
        from django.core.cache import caches

        cache = caches["default"]
        # This opens a connection and reads the counter.
        answer(lambda cache: cache.get("anything"), cache)
        for call, (act, _) in CALLS.items():

            def keep(call=call, act=act):
                answers[call] = answer(act, cache)

            recorded[call] = record(keep)

    tool.watch(django.setup, work)
    return answers, recorded, neighbours_colour(cache)


def neighbours_colour(cache: dict) -> object:
    """Return what a backend without a namespace finds on the alias's server."""
    from django.core.cache import CacheHandler

    backend = cache.get("OPTIONS", {}).get("WRAPPED_BACKEND", cache["BACKEND"])
    neighbour = {"BACKEND": backend, "LOCATION": cache["LOCATION"]}
    return CacheHandler({"default": neighbour})["default"].get("colour")


def keys_of(given) -> list:
    """Return a method's first argument as a list of keys."""
    return [given] if isinstance(given, str) else list(given)


if __name__ == "__main__":
    watcher = importlib.import_module(sys.argv[1])
    doer = getattr(watcher, "make", make)
    print(repr(doer(ast.literal_eval(sys.argv[2]), watcher)))
