"""ddtrace's cache spans. It patches the methods of the class that BACKEND names.

It also makes spans for the clients' commands, which `ddtrace-run` turns on as well.
"""

from __future__ import annotations

import os

import pytest

from tests.support.recordings import ANSWERS, OURS, alias, recording

#: The calls for which ddtrace makes spans, including calls by other methods, and the
#: keys. It has no spans for `touch`.
SPANS = {
    "set": [("set", "colour")],
    "get": [("get", "colour")],
    "get, a miss": [("get", "shape")],
    "add": [("add", "taste")],
    "set_many": [("set_many", "one two")],
    "get_many": [("get_many", "one two")],
    "incr": [("incr", "one")],
    "decr": [("decr", "two"), ("incr", "two")],  # Django's `decr` calls `incr`
    "touch": [],
    "get_or_set": [("get", "smell"), ("add", "smell"), ("get", "smell")],
    "has_key": [("get", "colour")],
    "in": [("get", "colour")],
    "incr_version": [("get", "taste"), ("set", "taste"), ("delete", "taste")],
    "delete": [("delete", "smell")],
    "delete_many": [("delete_many", "one two")],
    "aset": [("set", "sound")],
    "aget": [("get", "sound")],
    "aget_many": [("get", "sound")],
    "ahas_key": [("get", "sound")],
    "adelete": [("delete", "sound")],
}

#: The hits that ddtrace counts.
HITS = {"get": 1, "get, a miss": 0, "get_many": 2, "aget": 1}

#: ddtrace must send nothing. Its spans for caches are off by default.
ENVIRONMENT = {
    "DD_DJANGO_INSTRUMENT_CACHES": "true",
    "DD_CRASHTRACKING_ENABLED": "false",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_TRACE_AGENT_URL": "http://127.0.0.1:1",
    "DD_TRACE_MEMCACHED_COMMAND_ENABLED": "true",
}


def watch(set_up, work) -> None:
    import ddtrace
    from ddtrace.trace import TraceFilter, tracer

    spans = []

    class Kept(TraceFilter):
        def process_trace(self, trace):
            spans.extend(trace)

    tracer.configure(trace_processors=[Kept()])
    ddtrace.patch(django=True)
    clients = {"pymemcache": True, "pylibmc": True}
    if os.environ["PATCHED_CLIENTS"] == "early":
        ddtrace.patch(**clients)
    set_up()
    if os.environ["PATCHED_CLIENTS"] == "late":
        # At this time the namespaced backend has already imported the client library.

        ddtrace.patch(**clients)

    def record(act):
        spans.clear()
        act()
        return [
            (
                span.resource.rpartition(".")[2],
                span.get_tag("django.cache.key"),
                int(span.get_metric("db.row_count")),
            )
            if span.name == "django.cache"
            else (span.name, span.resource, span.get_tag("memcached.query"))
            for span in spans
        ]

    work(record)


def recorded(kind, backend, server, clients="never"):
    """Return the recording, with Django's spans and the clients' spans separate."""
    seen = recording(
        __name__,
        alias(kind, backend, server.location),
        PATCHED_CLIENTS=clients,
        **ENVIRONMENT,
    )
    djangos, theirs = {}, {}
    for call, spans in seen.recorded.items():
        theirs[call] = [span for span in spans if span[0].startswith("memcached.")]
        djangos[call] = [span for span in spans if span not in theirs[call]]
    return seen, djangos, theirs


def without_hits(djangos: dict) -> dict:
    return {call: [span[:2] for span in spans] for call, spans in djangos.items()}


@pytest.mark.parametrize("kind", ["bare", OURS])
def test_ddtrace_makes_one_span_of_each_call_with_its_keys(kind, backend, server):
    seen, djangos, theirs = recorded(kind, backend, server)
    assert seen.answers == ANSWERS
    assert without_hits(djangos) == SPANS
    assert {call: djangos[call][0][2] for call in HITS} == HITS
    assert not any(theirs.values())
    assert seen.neighbour == ("red" if kind == "bare" else None)


def test_ddtrace_misses_methods_that_are_not_on_the_class(backend, server):
    seen, djangos, _ = recorded("tests.support.recordings.Bystander", backend, server)
    assert seen.answers == {**ANSWERS, "in": "TypeError"}
    assert djangos == {call: [] for call in SPANS}


@pytest.mark.parametrize("clients", ["early", "late"])
@pytest.mark.parametrize("kind", ["bare", OURS])
def test_ddtrace_can_trace_the_clients_as_well(kind, clients, backend, server):
    """Its proxies then wrap the clients. They see wire keys."""
    seen, djangos, theirs = recorded(kind, backend, server, clients)
    assert seen.answers == ANSWERS
    assert without_hits(djangos) == SPANS
    assert seen.neighbour == ("red" if kind == "bare" else None)
    for call in ("set", "add", "incr", "delete"):
        ((_, key),) = SPANS[call]
        (span,) = (query for _, method, query in theirs[call] if method == call)
        name, _, wire_key = span.partition(" ")
        assert name == call
        assert wire_key.endswith(f":1:{key}")
        assert wire_key.startswith("nsc:") == (kind != "bare")
    if kind == OURS:  # the bare pymemcache deletes keys one by one
        deleted = [method for _, method, _ in theirs["delete_many"]]
        assert deleted[0].startswith("delete_m")
        assert (
            deleted[1:] == []
        )  # the parallel counter read is no command of the client
