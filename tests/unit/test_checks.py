"""What is wrong in CACHES is found, by `manage.py check`, and without a socket."""

from __future__ import annotations

import re
import socket

import pytest
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.checks import Tags, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from namespaced_cache import checks
from tests.support.caches import BACKENDS

OURS = "namespaced_cache.NamespacedCache"


def found(caches, *, deploy=False, **settings):
    """What the checks tell of these aliases of ours: ids and messages."""
    every = {
        alias: {"BACKEND": OURS, "LOCATION": "127.0.0.1:1", **setting}
        for alias, setting in caches.items()
    }
    with override_settings(CACHES=every, **settings):
        told = run_checks(tags=[Tags.caches], include_deployment_checks=deploy)
    return {
        message.id.removeprefix("namespaced_cache."): f"{message.msg} {message.hint}"
        for message in told
        if message.id.startswith("namespaced_cache.")
    }


@pytest.fixture(autouse=True)
def _no_socket(monkeypatch):
    def refuse(*_):
        raise AssertionError("a check has opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)


def named(name="shop", **setting):
    options = {"NAMESPACE": name, **setting.pop("OPTIONS", {})}
    return {"OPTIONS": options, **setting}


@pytest.mark.parametrize("client", BACKENDS)
def test_settings_that_are_right_pass(client):
    options = {"WRAPPED_BACKEND": BACKENDS[client], "MAX_TIMEOUT": 300}
    caches = {
        "default": named(OPTIONS=options),
        "same": named(OPTIONS=options),
        "other": named("other", LOCATION="127.0.0.1:2"),
        "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    }
    assert found(caches, deploy=True) == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"WRAPPED_BACKEND": OURS}, "the wrapper itself"),
        ({"WRAPPED_BACKEND": "no.such.Backend"}, "cannot be imported"),
        ({"WRAPPED_BACKEND": None}, "OPTIONS['WRAPPED_BACKEND'] is None"),
        ({"NAMESPCE": "shop"}, "OPTIONS has 'NAMESPCE'"),
        ({"NAMESPACE": "a b"}, "OPTIONS['NAMESPACE'] is 'a b'"),
        ({"MAX_STALENESS": -1}, "OPTIONS['MAX_STALENESS'] is -1"),
    ],
)
@pytest.mark.parametrize("checked", [run_checks, checks.check_caches])
def test_settings_that_cannot_be_right_end_the_check(options, said, checked):
    """For Django's own, which comes first or last, makes each backend too."""
    setting = {"BACKEND": OURS, "OPTIONS": options}
    with (
        override_settings(CACHES={"default": setting}),
        pytest.raises(
            (ImproperlyConfigured, InvalidCacheBackendError), match=re.escape(said)
        ),
    ):
        checked()


@pytest.mark.parametrize(("timeout", "longest"), [(300, 299), (None, 10**9)])
def test_a_timeout_that_is_never_reached_is_told(timeout, longest):
    setting = named(TIMEOUT=timeout, OPTIONS={"MAX_TIMEOUT": longest})
    (message,) = found({"default": setting}).items()
    assert message[0] == "W001"
    assert f"a TIMEOUT of {timeout}, " in message[1]
    assert f"MAX_TIMEOUT is {longest}" in message[1]


@pytest.mark.parametrize(
    ("one", "other", "is_told"),
    [
        (named(), named(LOCATION="127.0.0.1:2"), True),
        (named(), named(LOCATION=["127.0.0.1:1", "127.0.0.1:2"]), True),
        (named(), named("api", LOCATION="127.0.0.1:2"), False),
        (named(), named(), False),
        (
            {"LOCATION": ["127.0.0.1:2", "127.0.0.1:1"]},
            {"LOCATION": ["127.0.0.1:1", "127.0.0.1:2"]},
            False,
        ),
        # Of one run: what has nothing in common cannot meet.
        ({}, {"LOCATION": "127.0.0.1:2"}, False),
        ({}, {"LOCATION": ["127.0.0.1:1", "127.0.0.1:2"]}, True),
    ],
)
def test_one_namespace_on_different_servers_is_told(one, other, is_told):
    told = found({"default": one, "other": other})
    assert list(told) == ["W002"] * is_told
    if is_told:
        assert (
            "CACHES['default'] and CACHES['other'] have the namespace" in told["W002"]
        )


def test_in_production_a_namespace_for_each_run_is_told():
    assert found({"default": {}}) == {}
    told = found({"default": {}, "shop": named()}, deploy=True)
    assert list(told) == ["W003"]
    assert "CACHES['default']" in told["W003"]
    assert "OPTIONS['NAMESPACE']" in told["W003"]


@pytest.mark.parametrize("engine", ["cache", "cached_db", "db", "signed_cookies"])
@pytest.mark.parametrize("alias", ["default", "other"])
def test_in_production_sessions_in_a_namespace_are_told(engine, alias):
    caches = {
        "default": named(),
        "other": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    }
    settings = {
        "SESSION_ENGINE": f"django.contrib.sessions.backends.{engine}",
        "SESSION_CACHE_ALIAS": alias,
    }
    assert found(caches, **settings) == {}
    told = found(caches, deploy=True, **settings)
    is_told = engine in ("cache", "cached_db") and alias == "default"
    assert list(told) == ["W004"] * is_told
