"""OpenTelemetry has no spans for Django's caches, but has spans for pymemcache.

It patches the commands of pymemcache's Client, and our clients are subclasses of that.
It shows wire keys, because it sees no others.
"""

from __future__ import annotations

import re

import pytest

from tests.support.caches import BACKENDS
from tests.support.recordings import ANSWERS, OURS, alias, assert_recorded, recording

SPANS = {
    "set": ["set :1:colour"],
    "get": ["get :1:colour"],
    "get, a miss": ["get :1:shape"],
    "add": ["add :1:taste"],
    "set_many": ["set_many :1:one :1:two"],
    "get_many": ["get_many :1:one :1:two"],
    "incr": ["incr :1:one"],
    "decr": ["decr :1:two"],
    "touch": ["touch :1:colour"],
    "get_or_set": ["get :1:smell", "add :1:smell", "get :1:smell"],
    "has_key": ["get :1:colour"],
    "in": ["get :1:colour"],
    "incr_version": ["get :1:taste", "set :2:taste", "delete :1:taste"],
    "delete": ["delete :1:smell"],
    "delete_many": ["delete_many :1:one :1:two"],
    "aset": ["set :1:sound"],
    "aget": ["get :1:sound"],
    "aget_many": ["get :1:sound"],
    "ahas_key": ["get :1:sound"],
    "adelete": ["delete :1:sound"],
}

#: HashClient deletes many keys one by one.
ONE_BY_ONE = {"delete_many": ["delete :1:one", "delete :1:two"]}


def watch(set_up, work) -> None:
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.instrumentation.pymemcache import PymemcacheInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter,
    )

    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    DjangoInstrumentor().instrument(tracer_provider=provider)
    PymemcacheInstrumentor().instrument(tracer_provider=provider)
    set_up()
    from django.conf import settings
    from django.http import HttpResponse
    from django.test import Client
    from django.urls import path

    def record(act):
        kept.clear()
        act()
        return [span.attributes["db.statement"] for span in kept.get_finished_spans()]

    def view(_):
        work(record)
        kept.clear()
        return HttpResponse()

    settings.ROOT_URLCONF = (path("", view),)
    settings.ALLOWED_HOSTS = ["testserver"]
    Client().get("/")
    # The tool was active, and recorded only this span for Django.
    assert [span.name for span in kept.get_finished_spans()] == ["GET"]


@pytest.mark.parametrize("kind", ["bare", OURS])
def test_each_command_of_pymemcache_has_one_span(kind, server):
    """The pipelined counter read has no span."""
    seen = recording(__name__, alias(kind, BACKENDS["pymemcache"], server.location))
    assert seen.answers == ANSWERS
    if kind == "bare":
        assert seen.recorded == {**SPANS, **ONE_BY_ONE}
        assert seen.neighbour == "red"
    else:
        prefix = re.compile(r"(?<= )nsc:[\w-]+:[0-9a-z]+:(?=:\d:)")
        assert seen.neighbour is None
        for call, statements in seen.recorded.items():
            assert [prefix.sub("", each) for each in statements] == SPANS[call]
            for each in statements:
                assert len(prefix.findall(each)) == each.count(" ")


@pytest.mark.parametrize("kind", ["bare", OURS])
def test_opentelemetry_has_no_other_spans_for_a_cache(kind, server):
    """It has none for Django's methods or for pylibmc, with bare or with ours."""
    cache = alias(kind, BACKENDS["pylibmc"], server.location)
    assert_recorded(__name__, kind, cache, {call: [] for call in SPANS})
