"""behave-django: each scenario begins with an empty cache."""

from __future__ import annotations

import pytest

SETTINGS = """
from settings import *
from namespaced_cache import namespaced

CACHES = namespaced(CACHES)
INSTALLED_APPS = ["django.contrib.staticfiles", "behave_django"]
MIDDLEWARE = []
ROOT_URLCONF = "scenario_urls"
del SESSION_ENGINE
"""

URLS = """
from django.core.cache import cache, caches
from django.http import HttpResponse
from django.urls import path

def visit(request):
    cache.add("visits", 0)
    return HttpResponse(str(cache.incr("visits")))

urlpatterns = [path("", visit)]
"""

ENVIRONMENT = """
from namespaced_cache import invalidate_namespaces

def before_scenario(context, scenario):
    invalidate_namespaces()
"""

FEATURE = """
Feature: A page that counts its visits
  Scenario: The first visitor
    Then visit 1 is counted
     And visit 2 is counted

  Scenario: The next first visitor
    Then visit 1 is counted
     And visit 2 is counted
"""

STEPS = """
from urllib.request import urlopen

from behave import then
from django.core.cache import cache

@then("visit {number} is counted")
def visit(context, number):
    if hasattr(context.test, "live_server_url"):
        with urlopen(context.get_url("/")) as answer:
            shown = answer.read().decode()
    else:
        shown = context.test.client.get("/").content.decode()
    assert shown == number, shown
    assert cache.get("visits") == int(number)
"""


@pytest.fixture(params=[[], ["--simple"]], ids=["live server", "client"])
def behave(project, request):
    """Run the scenarios, against a live server or by Django's test client."""
    (project.folder / "features").mkdir()
    project.write("scenario_settings.py", SETTINGS)
    project.write("scenario_urls.py", URLS)
    project.write("features/visits.feature", FEATURE)
    project.write("features/steps/visits.py", STEPS)
    return lambda: project.manage(
        "behave", *request.param, DJANGO_SETTINGS_MODULE="scenario_settings"
    )


def test_each_scenario_begins_with_an_empty_cache(project, behave):
    project.write("features/environment.py", ENVIRONMENT)
    run = behave()
    assert run.code == 0, run.output
    assert "2 scenarios passed, 0 failed" in run.output


def test_without_the_hook_a_scenario_finds_items_of_another(behave):
    run = behave()
    assert run.code == 1, run.output
    assert "1 scenario passed, 1 failed" in run.output
