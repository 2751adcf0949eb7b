"""Tests of every kind. Each must find an empty cache, and leaves a full one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unittest
from urllib.request import urlopen

from django.conf import settings
from django.contrib.auth.models import User
from django.core.cache import cache, caches
from django.test import (
    LiveServerTestCase,
    SimpleTestCase,
    TestCase,
    TransactionTestCase,
    override_settings,
    tag,
)
from rest_framework.test import APITestCase
from site_app import held

PYMEMCACHE = "django.core.cache.backends.memcached.PyMemcacheCache"


def leave_all_full():
    """Fill every cache. Return the names of those that were not empty."""
    ways = {
        "default": cache,
        "pylibmc": caches["pylibmc"],
        "held": held,
        "raw": cache._cache,
    }
    full = [name for name, way in ways.items() if way.get(f"left-{name}")]
    for name, way in ways.items():
        way.set(f"left-{name}", "something")
    return full


class Twice:
    """Two equal tests, so that one comes after the other in any order."""

    def test_first(self):
        self.assertEqual(leave_all_full(), [])

    def test_second(self):
        self.assertEqual(leave_all_full(), [])


class PlainUnittest(Twice, unittest.TestCase):
    pass


class Simple(Twice, SimpleTestCase):
    pass


class WithDatabase(Twice, TestCase):
    pass


class WithTransactions(Twice, TransactionTestCase):
    pass


class WithRestFramework(Twice, APITestCase):
    pass


@tag("cannot be pickled")
class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_first(self):
        self.assertTrue(await cache.aadd("left", 1))

    async def test_second(self):
        self.assertTrue(await cache.aadd("left", 1))


class AsynchronousInDjango(TestCase):
    async def test_first(self):
        response = await self.async_client.get("/show/left")
        self.assertIsNone(response.json()["value"])
        await cache.aset("left", 1)
        response = await self.async_client.get("/show/left")
        self.assertEqual(response.json()["value"], 1)

    test_second = test_first


class LiveServer(LiveServerTestCase):
    """The server's thread also has an empty cache in each test."""

    def get(self):
        with urlopen(f"{self.live_server_url}/show/left") as response:
            return json.load(response)["value"]

    def test_first(self):
        self.assertIsNone(self.get())
        cache.set("left", 1)
        self.assertEqual(self.get(), 1)

    test_second = test_first


class FilledByItsClass(TestCase):
    """All tests of a class start equally, including the first."""

    @classmethod
    def setUpTestData(cls):
        assert leave_all_full() == []
        cls.user = User.objects.create_user("user of the class")

    def test_first(self):
        self.assertEqual(len(leave_all_full()), 4)
        self.assertTrue(cache.add("left", "by a test"))

    test_second = test_first


class IsEmptiedForEachTest(FilledByItsClass):
    cache_isolation = "empty"

    def test_first(self):
        self.assertEqual(leave_all_full(), [])

    test_second = test_first


class KeepsForItsClass(TestCase):
    cache_isolation = "class"

    @classmethod
    def setUpTestData(cls):
        assert leave_all_full() == []
        cls.user = User.objects.create_user("user of the class")

    def test_first(self):
        self.assertEqual(len(leave_all_full()), 4)

    test_second = test_first


class StaysLoggedIn(TestCase):
    """A session of the class. Sessions are stored in the cache."""

    cache_isolation = "class"

    @classmethod
    def setUpTestData(cls):
        cls.session = cls.client_class()
        cls.session.force_login(User.objects.create_user("visitor"))

    def test_first(self):
        self.assertEqual(self.session.get("/who").content, b"visitor")

    test_second = test_first


@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cached_db")
class StaysLoggedInByTheDatabase(StaysLoggedIn):
    cache_isolation = "function"


class ChangesItsSettings(SimpleTestCase):
    def test_first(self):
        leave_all_full()
        local = settings.CACHES["local"]
        with override_settings(CACHES={"default": local}):
            self.assertIsNone(cache.get("left-default"))
        self.assertTrue(cache.get("left-default"))
        prefixed = {**settings.CACHES["default"], "KEY_PREFIX": "other"}
        with override_settings(CACHES={"default": prefixed}):
            self.assertTrue(cache.add("left-default", 1))
        self.assertTrue(cache.get("left-default"))

    test_second = test_first


class SettingsAreProductions(SimpleTestCase):
    """Applications read settings, so the settings stay.

    Only the backends are replaced.
    """

    def test_first(self):
        self.assertEqual(settings.CACHES["default"]["BACKEND"], PYMEMCACHE)
        self.assertEqual(
            set(settings.CACHES["default"]), {"BACKEND", "LOCATION", "TIMEOUT"}
        )
        cache.invalidate_namespace()

    def test_connections_may_be_closed(self):
        leave_all_full()
        caches.close_all()
        self.assertEqual(len(leave_all_full()), 4)


class WhatATestStarts(SimpleTestCase):
    """A command in another process uses this worker's namespace."""

    def test_first(self):
        cache.set("left", "for the child")
        code = "from django.core.cache import cache; print(cache.get('left'))"
        child = [sys.executable, "-m", "django", "shell", "-c", code]
        # The child inherits our variables as the README says, without pytest-xdist's.
        passed_on = {k: v for k, v in os.environ.items() if k != "PYTEST_XDIST_WORKER"}
        output = subprocess.check_output(
            child, text=True, stderr=subprocess.STDOUT, env=passed_on
        )
        self.assertIn("for the child", output)

    test_second = test_first
