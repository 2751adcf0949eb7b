"""All blocks of the README and of every page work, and all links have a target."""

import argparse
import logging
import re
from itertools import chain
from unittest.mock import Mock

import pytest
from django.core.management import BaseCommand, load_command_class

from namespaced_cache import checks, events, pytest_plugin, signals
from namespaced_cache.core import identity, options
from namespaced_cache.test import isolation
from tests.support import ROOT
from tests.support.pages import PAGES, Bench, headings, prose, sections

SECTIONS = [each for page in PAGES for each in sections(page) if each.blocks]

#: Stores the items that a release of the shop has cached.
RELEASE = """
import os
os.environ["SHOP_RELEASE"] = "{}"
import django
django.setup()
from django.core.cache import cache
cache.set_many({{f"product:{{pk}}": pk for pk in range({})}})
"""
BEFORE = {
    "A namespace for each release": [
        RELEASE.format("2026-11-02", 250),
        RELEASE.format("2026-11-09", 40),
    ]
}


@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_the_blocks_of_a_section_work(section, tmp_path, server, start):
    bench = Bench(tmp_path, server, start, BEFORE.get(section.title, []))
    try:
        for block in section.blocks:
            bench.take(block)
        bench.finish()
    finally:
        bench.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_all_code_is_in_fenced_blocks(page):
    """Not in a fence of tildes or one that is left open, an indented block, or HTML."""
    text = page.read_text()
    taken = sum(len(section.blocks) for section in sections(page))
    assert text.count("```") == 2 * taken
    for line in prose(page).splitlines():
        assert not re.match(r"\t| {4}|\s*~~~|.*<(pre|code)\b", line), line


def test_each_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", PAGES[0].read_text()))
    assert linked == {f"docs/{page.name}" for page in PAGES[1:]}


def anchor(heading: str) -> str:
    """Return the anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_has_a_target(page):
    links = re.findall(r"\]\(([^)]*)\)", prose(page))
    assert links
    for link in links:
        name, _, part = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if part:
            assert part in map(anchor, headings(target)), link


def test_a_page_is_not_long():
    for page in PAGES[1:]:
        assert len(page.read_text().splitlines()) <= 160, page.name


# The reference.


@pytest.fixture(scope="module")
def reference():
    """The sections of the reference, by their titles."""
    text = (ROOT / "docs" / "settings.md").read_text()
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(section: str) -> list[str]:
    """Return the name in each row of a section's table."""
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def test_the_reference_has_every_option(reference):
    assert tuple(rows(reference["Options"])) == options.NAMES


def test_the_reference_has_every_environment_variable(reference):
    assert rows(reference["Environment variables"]) == [
        identity.RUN_VARIABLE,
        identity.WORKER_VARIABLE,
        identity.TESTS_VARIABLE,
        isolation.WRAP_VARIABLE,
        identity.XDIST_VARIABLE,
    ]


def test_the_reference_has_every_check(reference):
    ids = re.findall(
        r'"namespaced_cache\.([EW]\d+)"', (ROOT / checks.__file__).read_text()
    )
    assert rows(reference["Checks"]) == sorted(ids)


def test_the_reference_has_every_event(reference):
    section = reference["Events and logs"]
    said = re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE)
    assert list(dict(said)) == list(events.counts())
    for event, level in said:
        assert events._LEVELS[event] == getattr(logging, level.upper())
    assert f"by the logger `{events.logger.name}`" in section


def test_the_reference_has_every_argument_of_the_signal(reference, cache):
    receiver = Mock()
    signals.namespace_invalidated.connect(receiver)
    cache.invalidate_namespace()
    signals.namespace_invalidated.disconnect(receiver)
    given = receiver.call_args.kwargs.keys() - {"signal"}  # Django adds this one
    assert set(rows(reference["The signal"])) == given


def test_the_reference_has_every_ini_option(reference):
    parser = Mock()
    pytest_plugin.pytest_addoption(parser)
    said = re.findall(r"ini option `(\w+)`, default `([^`]+)`", reference["Test runs"])
    added = parser.addini.call_args_list
    assert sorted(said) == sorted(
        (each.args[0], str(each.kwargs["default"]).lower()) for each in added
    )


def test_the_page_of_the_command_has_every_argument():
    command = load_command_class("namespaced_cache", "cache_namespace")
    parser = command.create_parser("manage.py", "cache_namespace")
    (ways,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    djangos = {action.dest for action in BaseCommand().create_parser("", "")._actions}
    expected = set()
    for way, arguments in ways.choices.items():
        actions = (a for a in arguments._actions if a.dest not in {"help", *djangos})
        names = chain(*(a.option_strings or [a.dest.upper()] for a in actions))
        expected |= {way, *(f"{way} {name}" for name in names)}
        assert djangos <= {action.dest for action in arguments._actions}
    page = (ROOT / "docs" / "command.md").read_text()
    for name in djangos - {"help"}:
        assert f"`--{name.replace('_', '-')}`" in page
    assert {" ".join(row.split()[:2]) for row in rows(page)} == expected
