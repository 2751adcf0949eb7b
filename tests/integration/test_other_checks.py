"""Checks of other apps that read the BACKEND of an alias."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.test import override_settings

from namespaced_cache import namespaced
from namespaced_cache.test.isolation import Isolation
from tests.support.caches import BACKENDS


def unsupported():
    """Check what django-ratelimit and django-cachalot check."""
    backend = settings.CACHES["default"]["BACKEND"]
    return [] if backend in BACKENDS.values() else [backend]


@pytest.mark.parametrize("client", BACKENDS)
def test_a_run_that_wraps_the_aliases_leaves_the_setting_alone(client):
    setting = {"default": {"BACKEND": BACKENDS[client], "LOCATION": "127.0.0.1:1"}}
    with override_settings(CACHES=setting):
        isolation = Isolation(wrap=True)
        isolation.start()
        try:
            assert unsupported() == []
        finally:
            isolation.stop()
    # So they need to be silenced only in settings that are wrapped.
    with override_settings(CACHES=namespaced(setting)):
        assert unsupported() == ["namespaced_cache.NamespacedCache"]
