"""What a client answers, if it keeps its items in a dictionary."""

from __future__ import annotations

import asyncio

import pylibmc
import pymemcache

#: The error of a client for `incr` of a text.
NO_NUMBER = {
    "pymemcache": pymemcache.MemcacheClientError,
    "pylibmc": pylibmc.ClientError,
}


class Dictionary:
    """A client's commands on a dictionary, with their effects and answers.

    Nothing expires during a test, except at once.
    """

    def __init__(self, client: str) -> None:
        self.client = client
        self.items: dict[str, object] = {}
        self._tokens: dict[str, int] = {}
        self._writes = 0

    def get(self, key, default=None):
        return self.items.get(text_of(key), default)

    def gets(self, key):
        return self.get(key), self._tokens.get(text_of(key))

    def set(self, key, value, time=0):
        self._writes += 1
        self.items[text_of(key)] = value
        self._tokens[text_of(key)] = self._writes
        if time < 0:
            self.delete(key)
        return True

    def add(self, key, value, time=0):
        return text_of(key) not in self.items and self.set(key, value, time)

    def replace(self, key, value):
        return text_of(key) in self.items and self.set(key, value)

    def append(self, key, value):
        return self.replace(key, self.get(key, b"") + value)

    def prepend(self, key, value):
        return self.replace(key, value + self.get(key, b""))

    def cas(self, key, value, token):
        if text_of(key) not in self.items:
            return self._missing()
        return self.gets(key)[1] == token and self.set(key, value)

    def delete(self, key):
        self._tokens.pop(text_of(key), None)
        return self.items.pop(text_of(key), None) is not None

    def touch(self, key, time=0):
        return self.delete(key) if time < 0 else text_of(key) in self.items

    def incr(self, key, delta):
        if text_of(key) not in self.items:
            return self._missing()
        if not isinstance(self.get(key), int):
            raise NO_NUMBER[self.client]
        self.set(key, max(0, self.get(key) + delta))
        return self.get(key)

    def decr(self, key, delta):
        return self.incr(key, -delta)

    def get_multi(self, keys):
        return {key: self.get(key) for key in keys if text_of(key) in self.items}

    def set_multi(self, values, time=0):
        for key, value in values.items():
            self.set(key, value, time)
        return []

    def add_multi(self, values):
        return [key for key, value in values.items() if not self.add(key, value)]

    def delete_multi(self, keys):
        deleted = [self.delete(key) for key in keys]
        return self.client == "pymemcache" or all(deleted)

    def incr_multi(self, keys, _, delta):
        for key in keys:
            self.incr(key, delta)

    get_many, set_many, delete_many = get_multi, set_multi, delete_multi

    def __contains__(self, key):
        return text_of(key) in self.items

    def __getitem__(self, key):
        return self.items[text_of(key)]

    def __setitem__(self, key, value):
        self.set(key, value)

    def __delitem__(self, key):
        if not self.delete(key):
            raise KeyError(key)

    def _missing(self):
        if self.client == "pylibmc":
            raise pylibmc.NotFound


def text_of(key: str | bytes) -> str:
    return key.decode() if isinstance(key, bytes) else key


def asynchronous(cache, method):
    """Return a method's asynchronous twin, which is called like the method itself."""
    return lambda *args, **how: asyncio.run(getattr(cache, f"a{method}")(*args, **how))


def outcome(call, *args) -> tuple[str, object]:
    try:
        return "answers", call(*args)
    except Exception as error:  # noqa: BLE001
        return "raises", type(error)
