"""kgb: a spy records the same calls as on Django's own backend."""

from __future__ import annotations

import asyncio

import kgb
import pytest

#: The calls of each method that is spied on. One of them is called by another method.
CALLS = {
    "set": lambda cache: cache.set("k", "v", timeout=60),
    "get": lambda cache: cache.get("k", "default", version=2),
    "add": lambda cache: cache.add("k", "v", 60),
    "touch": lambda cache: cache.touch("k", 60),
    "delete": lambda cache: cache.delete(key="k"),
    "incr": lambda cache: cache.set("n", 1) or cache.incr("n", delta=2),
    "get_many": lambda cache: cache.get_many(["k", "l"]),
    "set_many": lambda cache: cache.set_many({"k": 1}, timeout=None),
    "delete_many": lambda cache: cache.delete_many(["k"]),
    "get_or_set": lambda cache: cache.get_or_set("k", "v"),
    "has_key": lambda cache: "k" in cache,
    "clear": lambda cache: cache.clear(),
    "aget": lambda cache: asyncio.run(cache.aget("k")),
}


def recorded(cache, method, act) -> tuple:
    """Return an answer, and the calls that a spy recorded."""
    with kgb.spy_on(getattr(cache, method)) as spy:
        answer = act(cache)
        calls = [(call.args, call.kwargs) for call in spy.calls]
    act(cache)  # it works without the spy, too
    assert not hasattr(getattr(cache, method), "calls")
    return answer, calls


@pytest.mark.parametrize("method", CALLS)
def test_a_spy_records_the_calls_that_it_records_of_djangos_backend(
    cache, bare, method
):
    act = CALLS[method]
    djangos = recorded(bare, method, act)
    assert recorded(cache, method, act) == djangos
    assert len(djangos[1]) == 1


def test_a_method_can_be_replaced_for_methods_that_call_it(cache, bare):
    """As they call it on Django's backend."""
    found = []
    for each in (cache, bare):
        with kgb.spy_on(each.add, op=kgb.SpyOpReturn(return_value=False)):
            found.append(each.get_or_set("k", "v"))
        assert each.add("k", "v")
    assert found[0] == found[1]
