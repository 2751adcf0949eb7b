"""Sentry's cache spans. It patches methods on the instance."""

from __future__ import annotations

import pytest

from tests.support.recordings import OURS, alias, assert_recorded, missed

#: The calls for which Sentry makes spans: `get`, `set` and their `_many`, including
#: calls by other methods. With the keys.
SPANS = {
    "set": [("cache.put", "colour", ["colour"])],
    "get": [("cache.get", "colour", ["colour"])],
    "get, a miss": [("cache.get", "shape", ["shape"])],
    "add": [],
    "set_many": [("cache.put", "one, two", ["one", "two"])],
    "get_many": [("cache.get", "one, two", ["one", "two"])],
    "incr": [],
    "decr": [],
    "touch": [],
    "get_or_set": [("cache.get", "smell", ["smell"])] * 2,  # before and after its `add`
    "has_key": [("cache.get", "colour", ["colour"])],
    "in": [("cache.get", "colour", ["colour"])],
    "incr_version": [
        ("cache.get", "taste", ["taste"]),
        ("cache.put", "taste", ["taste"]),
    ],
    "delete": [],
    "delete_many": [],
    "aset": [("cache.put", "sound", ["sound"])],
    "aget": [("cache.get", "sound", ["sound"])],
    "aget_many": [("cache.get", "sound", ["sound"])],
    "ahas_key": [("cache.get", "sound", ["sound"])],
    "adelete": [],
}


def watch(set_up, work) -> None:
    import sentry_sdk
    from sentry_sdk.integrations.django import DjangoIntegration
    from sentry_sdk.transport import Transport

    sent = []

    class Kept(Transport):
        """Sends nothing."""

        def capture_envelope(self, envelope):
            sent.append(envelope.get_transaction_event())

    sentry_sdk.init(
        dsn="http://key@127.0.0.1:1/1",
        transport=Kept,
        traces_sample_rate=1.0,
        auto_enabling_integrations=False,
        integrations=[DjangoIntegration(cache_spans=True)],
    )
    set_up()

    def record(act):
        sent.clear()
        with sentry_sdk.start_transaction(name="calls", op="test"):
            act()
        (transaction,) = sent
        return [
            (span["op"], span["description"], list(span["data"]["cache.key"]))
            for span in transaction["spans"]
        ]

    work(record)


@pytest.mark.parametrize("kind", ["bare", OURS])
def test_sentry_makes_one_span_of_each_call_with_its_keys(kind, backend, server):
    assert_recorded(__name__, kind, alias(kind, backend, server.location), SPANS)


def test_sentry_misses_methods_that_are_not_on_the_class(backend, server):
    """It misses methods that call other methods, because those are not patched."""
    of_others = {"get_or_set", "has_key", "in", "incr_version"}
    missing = missed(__name__, backend, server.location, SPANS)
    assert missing == {*of_others, "aset", "aget", "aget_many", "ahas_key"}
