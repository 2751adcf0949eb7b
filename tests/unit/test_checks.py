"""The checks of `manage.py check` find errors in CACHES, and open no socket."""

from __future__ import annotations

import re
import socket

import pytest
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.checks import Tags, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from namespaced_cache import checks
from namespaced_cache.core import identity
from tests.support.caches import BACKENDS

OURS = "namespaced_cache.NamespacedCache"


def found(caches, *, deploy=False, **settings):
    """Return the ids and messages of the checks for these aliases of ours."""
    every = {
        alias: {"BACKEND": OURS, "LOCATION": "127.0.0.1:1", **setting}
        for alias, setting in caches.items()
    }
    with override_settings(CACHES=every, **settings):
        reported = run_checks(tags=[Tags.caches], include_deployment_checks=deploy)
    return {
        message.id.removeprefix("namespaced_cache."): f"{message.msg} {message.hint}"
        for message in reported
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
def test_valid_settings_pass(client):
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
def test_invalid_settings_raise(options, said, checked):
    """Django's own check builds each backend, and raises the same error."""
    setting = {"BACKEND": OURS, "OPTIONS": options}
    with (
        override_settings(CACHES={"default": setting}),
        pytest.raises(
            (ImproperlyConfigured, InvalidCacheBackendError), match=re.escape(said)
        ),
    ):
        checked()


@pytest.mark.parametrize(("timeout", "longest"), [(300, 299), (None, 10**9)])
def test_a_timeout_above_max_timeout_is_reported(timeout, longest):
    setting = named(TIMEOUT=timeout, OPTIONS={"MAX_TIMEOUT": longest})
    (message,) = found({"default": setting}).items()
    assert message[0] == "W001"
    assert f"a TIMEOUT of {timeout}, " in message[1]
    assert f"MAX_TIMEOUT is {longest}" in message[1]


@pytest.mark.parametrize(
    ("one", "other", "is_reported"),
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
        # These share the run's namespace. Without a common server they cannot conflict.
        ({}, {"LOCATION": "127.0.0.1:2"}, False),
        ({}, {"LOCATION": ["127.0.0.1:1", "127.0.0.1:2"]}, True),
    ],
)
def test_one_namespace_on_different_servers_is_reported(one, other, is_reported):
    reported = found({"default": one, "other": other})
    assert list(reported) == ["W002"] * is_reported
    if is_reported:
        assert (
            "CACHES['default'] and CACHES['other'] have the namespace"
            in reported["W002"]
        )


def test_outside_a_test_run_a_namespace_for_each_run_is_reported(monkeypatch):
    assert found({"default": {}}) == {}
    monkeypatch.setattr(identity, "is_test_run", lambda: False)
    reported = found({"default": {}, "shop": named()})
    assert list(reported) == ["W003"]
    assert "CACHES['default']" in reported["W003"]
    assert "OPTIONS['NAMESPACE']" in reported["W003"]


@pytest.mark.parametrize("engine", ["cache", "cached_db", "db", "signed_cookies"])
@pytest.mark.parametrize("alias", ["default", "other"])
def test_in_production_sessions_in_a_namespace_are_reported(engine, alias):
    caches = {
        "default": named(),
        "other": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    }
    settings = {
        "SESSION_ENGINE": f"django.contrib.sessions.backends.{engine}",
        "SESSION_CACHE_ALIAS": alias,
    }
    assert found(caches, **settings) == {}
    reported = found(caches, deploy=True, **settings)
    is_reported = engine in ("cache", "cached_db") and alias == "default"
    assert list(reported) == ["W004"] * is_reported
