"""Backends that make or keep their client differently from Django's own backends."""

import threading

from django.core.cache.backends.memcached import PyLibMCCache, PyMemcacheCache


class ReconnectingCache(PyMemcacheCache):
    """Makes a new client at every second use, in a property of its own."""

    _held = None
    made = 0

    @property
    def _cache(self):
        if self._held is None or self.made % 2:
            if self._held is not None:
                self._held.close()
            self._held = self._class(self.client_servers, **self._options)
        self.made += 1
        return self._held

    def get_twice(self, key):
        """Read a key twice from the raw client. Only this backend has such a method."""
        key = self.make_and_validate_key(key)
        return self._cache.get(key), self._cache.get(key)


class AssigningCache(PyLibMCCache):
    """Makes its client in `__init__`, like many before Django had a property."""

    def __init__(self, server, params):
        super().__init__(server, params)
        self._cache = self._class(self.client_servers)


class SettingCache(PyMemcacheCache):
    """Keeps its client behind a property that has a setter."""

    _held = None

    @property
    def _cache(self):
        if self._held is None:
            self._held = self._class(self.client_servers, **self._options)
        return self._held

    @_cache.setter
    def _cache(self, client):
        self._held = client


class DiscoveringCache(PyMemcacheCache):
    """Finds its servers itself, like some backends for clouds."""

    nodes = ()

    @property
    def client_servers(self):
        return list(self.nodes)


class HoldingCache(PyLibMCCache):
    """Makes its client in `__init__`, in an attribute with another name."""

    def __init__(self, server, params):
        super().__init__(server, params)
        self._held = self._class(self.client_servers)

    _cache = property(lambda self: self._held)


class LocalCache:
    """Keeps a client for each thread in a `threading.local`."""

    def __init__(self, server, params):
        super().__init__(server, params)
        self._local = threading.local()

    @property
    def _cache(self):
        if not hasattr(self._local, "client"):
            self._local.client = self._class(self.client_servers, **self._options)
        return self._local.client


class LocalPyMemcacheCache(LocalCache, PyMemcacheCache):
    pass


class LocalPyLibMCCache(LocalCache, PyLibMCCache):
    pass
