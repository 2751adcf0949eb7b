"""The isolation of a run, where a test of a whole run would say too little."""

from __future__ import annotations

import pytest
from django.core.cache.backends.memcached import PyMemcacheCache
from django.test import override_settings

from namespaced_cache.test.isolation import Isolation


class UndiscoveredCache(PyMemcacheCache):
    """Cannot make its client, because its service for discovery does not answer."""

    @property
    def _cache(self):
        raise LookupError("no answer from the service")


def test_an_alias_that_cannot_make_a_client_fails_with_its_own_error():
    setting = {"BACKEND": f"{__name__}.UndiscoveredCache", "LOCATION": "127.0.0.1:1"}
    with override_settings(CACHES={"default": setting}):
        isolation = Isolation(wrap=True)
        isolation.start()
        try:
            for _ in range(2):
                with pytest.raises(LookupError, match="no answer from the service"):
                    isolation.invalidate()
        finally:
            isolation.stop()
    assert isolation.notices == []
