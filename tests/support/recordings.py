"""What a tool records of a cache, call by call.

Each recording is made in a process of its own, because tools patch Django and client
libraries for good. In it a tool's module is asked to `watch(set_up, work)`: it puts the
tool in place, calls `set_up()` where Django is to be set up, and then
`work(record)`, where `record(act)` acts and gives back what the tool recorded of that.
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

#: No tool takes as long to start.
SECONDS = 60

#: Each call and its answer. Its keys are the user's, and no tool is to show others.
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
    """What the calls answered, and what a tool recorded of each.

    And what a neighbour in no namespace finds under one of their keys.
    """

    answers: dict
    recorded: dict
    neighbour: object


def alias(kind: str, backend: str, location: str) -> dict:
    """Describe an alias: of the "bare" backend, or of a class that wraps it."""
    if kind == "bare":
        return {"BACKEND": backend, "LOCATION": location}
    options = {"WRAPPED_BACKEND": backend}
    return {"BACKEND": kind, "LOCATION": location, "OPTIONS": options}


def run(tool: str, arguments: object, **environment: str):
    """Have a tool's module do its work in a process of its own; return its answer."""
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
    """Make all calls of an alias while a tool watches."""
    return Recording(*run(tool, cache, **environment))


def assert_recorded(tool: str, kind: str, cache: dict, expected: dict) -> None:
    """See that all calls are answered and recorded so, and in a namespace if ours."""
    seen = recording(tool, cache)
    assert seen.answers == ANSWERS
    assert seen.recorded == expected
    assert seen.neighbour == ("red" if kind == "bare" else None)


def missed(tool: str, backend: str, location: str, expected: dict) -> set[str]:
    """Return the calls that a tool does not record where no method is on the class.

    Of those it records nothing, and of the others what is expected.
    """
    seen = recording(tool, alias(f"{__name__}.Bystander", backend, location))
    missing = {call for call in expected if seen.recorded[call] != expected[call]}
    assert [seen.recorded[call] for call in missing] == [[]] * len(missing)
    return missing


class Bystander:
    """A proxy whose methods come by `__getattr__` alone, as ours must not."""

    def __init__(self, server, params):
        from namespaced_cache import NamespacedCache

        self.namespaced = NamespacedCache(server, params)

    def __getattr__(self, name):
        return getattr(self.namespaced, name)


def make(cache: dict, tool) -> tuple[dict, dict, object]:
    """Make all calls, in the process that the tool is in."""
    import django
    from django.conf import settings

    settings.configure(
        CACHES={"default": cache},
        SECRET_KEY="of nobody",
        **getattr(tool, "SETTINGS", {}),
    )
    answers, recorded = {}, {}

    def answer(act, cache):
        try:
            got = act(cache)
            return asyncio.run(got) if asyncio.iscoroutine(got) else got
        except Exception as error:  # noqa: BLE001  # to be told, whatever it is
            return type(error).__name__

    def work(record):
        from django.core.cache import caches

        cache = caches["default"]
        # So that there is a connection, and a counter known.
        answer(lambda cache: cache.get("anything"), cache)
        for call, (act, _) in CALLS.items():

            def keep(call=call, act=act):
                answers[call] = answer(act, cache)

            recorded[call] = record(keep)

    tool.watch(django.setup, work)
    return answers, recorded, neighbours_colour(cache)


def neighbours_colour(cache: dict) -> object:
    """Return what is found beside an alias, in no namespace."""
    from django.core.cache import CacheHandler

    backend = cache.get("OPTIONS", {}).get("WRAPPED_BACKEND", cache["BACKEND"])
    neighbour = {"BACKEND": backend, "LOCATION": cache["LOCATION"]}
    return CacheHandler({"default": neighbour})["default"].get("colour")


def keys_of(given) -> list:
    """Return the keys that a method was given first: one, or many."""
    return [given] if isinstance(given, str) else list(given)


if __name__ == "__main__":
    watcher = importlib.import_module(sys.argv[1])
    doer = getattr(watcher, "make", make)
    print(repr(doer(ast.literal_eval(sys.argv[2]), watcher)))
