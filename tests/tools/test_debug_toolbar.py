"""django-debug-toolbar's cache panel, which patches methods on the instance."""

from __future__ import annotations

import pytest

from tests.support.recordings import OURS, alias, assert_recorded, keys_of, missed

SETTINGS = {
    "DEBUG": True,
    "INSTALLED_APPS": ["django.contrib.staticfiles", "debug_toolbar"],
    "DEBUG_TOOLBAR_CONFIG": {"SHOW_TOOLBAR_CALLBACK": lambda _: True},
    "DEBUG_TOOLBAR_PANELS": ["debug_toolbar.panels.cache.CachePanel"],
    "STATIC_URL": "static/",
    "TEMPLATES": [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
        }
    ],
}

#: The methods that the panel shows for each call, and their keys.
SHOWN = {
    "set": [("set", ["colour"])],
    "get": [("get", ["colour"])],
    "get, a miss": [("get", ["shape"])],
    "add": [("add", ["taste"])],
    "set_many": [("set_many", ["one", "two"])],
    "get_many": [("get_many", ["one", "two"])],
    "incr": [("incr", ["one"])],
    "decr": [("decr", ["two"])],
    "touch": [("touch", ["colour"])],
    "get_or_set": [("get_or_set", ["smell"])],
    "has_key": [("has_key", ["colour"])],
    "in": [("has_key", ["colour"])],
    "incr_version": [("incr_version", ["taste"])],
    "delete": [("delete", ["smell"])],
    "delete_many": [("delete_many", ["one", "two"])],
    "aset": [("set", ["sound"])],
    "aget": [("get", ["sound"])],
    "aget_many": [("get", ["sound"])],
    "ahas_key": [("get", ["sound"])],
    "adelete": [("delete", ["sound"])],
}


def watch(set_up, work) -> None:
    set_up()
    from debug_toolbar.middleware import DebugToolbarMiddleware
    from debug_toolbar.panels.cache import CachePanel
    from debug_toolbar.toolbar import debug_toolbar_urls
    from django.conf import settings
    from django.http import HttpResponse
    from django.test import RequestFactory

    def view(_):
        panel = CachePanel.current_instance()

        def record(act):
            before = len(panel.calls)
            act()
            return [
                (call["name"], keys_of(call["args"][0]))
                for call in panel.calls[before:]
            ]

        work(record)
        return HttpResponse("<html><body></body></html>")

    settings.ROOT_URLCONF = tuple(debug_toolbar_urls())
    response = DebugToolbarMiddleware(view)(RequestFactory().get("/"))
    assert b"Cache calls from" in response.content  # the toolbar was active


@pytest.mark.parametrize("kind", ["bare", OURS])
def test_the_panel_shows_each_call_once_with_its_keys(kind, backend, server):
    assert_recorded(__name__, kind, alias(kind, backend, server.location), SHOWN)


def test_the_panel_misses_methods_that_are_not_on_the_class(backend, server):
    """It misses methods that call other methods, because those are not patched."""
    missing = missed(__name__, backend, server.location, SHOWN)
    assert missing == {"in", "aset", "aget", "aget_many", "ahas_key", "adelete"}
