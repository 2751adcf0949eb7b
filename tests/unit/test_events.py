"""Each event of a counter is counted and logged, once and with its name."""

from __future__ import annotations

import logging
from collections import Counter as Tally

import pytest

from namespaced_cache import events
from tests.support.caches import bare_cache, our_cache


@pytest.fixture
def happened(caplog):
    """Return the events that were counted and logged since the last call."""
    caplog.set_level(logging.DEBUG, "namespaced_cache")
    last = events.counts()

    def since():
        nonlocal last
        before, last = last, events.counts()
        logged = [(record.levelname, record.getMessage()) for record in caplog.records]
        caplog.clear()
        return dict(Tally(last) - Tally(before)), logged

    return since


def test_each_event_is_counted_and_logged(backend, start, happened):
    server = start()
    cache = our_cache(backend, server.location, OPTIONS={"NAMESPACE": "shop"})
    bare = bare_cache(backend, server.location)
    cache.set("k", 1)
    assert happened() == ({"seeded": 1}, [("INFO", "Namespace 'shop': counter seeded")])
    generation = cache.invalidate_namespace()
    said = f"Namespace 'shop': now {generation}"
    assert happened() == ({"invalidated": 1}, [("DEBUG", said)])
    bare._cache.delete("nsc:shop")
    assert cache.get("k") is None
    assert happened() == (
        {},
        [],
    )  # there are no items, so a read seeds nothing
    cache.set("k", 2)
    said = "Namespace 'shop': the counter was lost"
    assert happened() == ({"lost": 1}, [("WARNING", said)])
    newest = cache.generation
    bare._cache.set("nsc:shop", generation)
    assert cache.get("k") is None
    said = f"Namespace 'shop': the counter went back from {newest} to {generation}"
    assert happened() == ({"repaired": 1}, [("WARNING", f"{said}: repaired")])
    cache.close()
    bare.close()


def test_an_invalidation_without_a_counter_counts_as_both_events(cache, bare, happened):
    cache.set("k", 1)
    happened()
    bare._cache.delete(cache._cache.counter.key)
    cache.invalidate_namespace()
    assert happened()[0] == {"invalidated": 1, "lost": 1}


def test_each_event_has_a_count_from_the_beginning():
    assert list(events.counts()) == ["invalidated", "seeded", "lost", "repaired"]
