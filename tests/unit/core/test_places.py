"""The place of a warning is in the project's code, or there is none."""

from __future__ import annotations

import sysconfig
from functools import partial

import pytest

from namespaced_cache.core import places

STANDARD = sysconfig.get_path("stdlib")
SITE = "/srv/venv/lib/python3.12/site-packages"


def found(frames):
    """Return the file that is found below frames of these modules, outermost first."""
    act, scopes = places.find, []
    for name, filename in reversed(frames):
        scope = {"__name__": name, "act": act, "kept": []}
        code = compile("kept.append(act())", filename, "exec")
        # Not a function, which would be one more frame.
        act = partial(exec, code, scope)
        scopes.append(scope)
    act()
    place = scopes[0]["kept"][0]
    return place and place.f_code.co_filename


PROJECT = ("shop.views", "/srv/shop/views.py")


@pytest.mark.parametrize(
    ("frames", "place"),
    [
        ([PROJECT], "/srv/shop/views.py"),
        ([PROJECT, ("django.core.cache", f"{SITE}/django/core/cache.py")], PROJECT[1]),
        ([("shop.app", f"{SITE}/shop/app.py")], f"{SITE}/shop/app.py"),
        ([PROJECT, ("unittest.mock", f"{STANDARD}/unittest/mock.py")], PROJECT[1]),
        (
            [("shop.app", f"/usr/lib/dist-packages/x{SITE}/shop/app.py")],
            f"/usr/lib/dist-packages/x{SITE}/shop/app.py",
        ),
        ([PROJECT, ("_pytest.runner", f"{SITE}/_pytest/runner.py")], None),
        ([("__main__", "/srv/venv/bin/pytest"), ("_pytest.config", "config.py")], None),
        ([("__main__", "/srv/manage.py"), ("django.core.management", "m.py")], None),
        ([("coverage.execfile", f"{SITE}/coverage/execfile.py")], None),
        ([("execnet.gateway_base", f"{SITE}/execnet/gateway_base.py")], None),
        ([("shop.runner", "r.py"), ("unittest.suite", "suite.py")], None),
    ],
)
def test_the_innermost_frame_of_the_project_is_the_place(frames, place):
    outside = ("_pytest.python", f"{SITE}/_pytest/python.py")
    assert found([outside, *frames]) == place


def test_the_standard_library_is_no_place():
    outside = ("_pytest.python", f"{SITE}/_pytest/python.py")
    assert found([outside, ("threading", f"{STANDARD}/threading.py")]) is None
