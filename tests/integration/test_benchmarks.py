"""The benchmarks run, as small as can be: what they measure is not looked at here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import product
from xml.etree import ElementTree as ET

import pytest

from tests.support import ROOT

PROGRAM = ROOT / "benchmarks" / "run.py"

CLIENTS = "pymemcache", "pylibmc"
MODES = "bare", "strict", "bounded", "pinned"
SUBJECTS = *MODES, "naive", "prefix"
VERBS = (
    "get, hit",
    "get, miss",
    "set",
    "add, of a key that exists",
    "add, of a new key",
    "delete",
    "touch",
    "incr",
    "get_many of 1",
    "get_many of 10",
    "get_many of 100",
    "set_many of 1",
    "set_many of 10",
    "set_many of 100",
    "delete_many of 10",
)
WRITERS = (
    "bumps, each with an item",
    "bumps alone",
    "items under random prefixes",
)

#: What tells the rows of each section apart, and all that must be there.
ROWS = {
    "verbs": {
        "client": CLIENTS,
        "transport": ("TCP", "unix socket"),
        "bytes": (100, 10_000),
        "verb": VERBS,
        "subject": SUBJECTS,
    },
    "concurrency": {
        "kind": ("threads", "processes"),
        "client": CLIENTS,
        "subject": MODES,
    },
    "suite": {
        "test": ("nothing", "set and get"),
        "runner": ("Django's", "isolated"),
    },
    "start-up": {"client": CLIENTS, "subject": ("bare", "strict")},
    "delayed-link": {
        "client": CLIENTS,
        "verb": VERBS,
        "subject": ("bare", "strict", "naive"),
    },
    "neighbour": {"neighbour": ("in use", "idle"), "beside": WRITERS},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of one tiny run of all sections."""
    folder = tmp_path_factory.mktemp("results")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", PROGRAM, "--tiny", "--into", folder],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,  # where others use the machine as well
    )
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture(scope="module")
def sections(folder):
    return json.loads((folder / "results.json").read_text())["sections"]


def is_sound(number):
    return math.isfinite(number) and number > 0


@pytest.mark.parametrize("section", ROWS)
def test_everything_is_measured_once(sections, section):
    labels = ROWS[section]
    found = [tuple(row[label] for label in labels) for row in sections[section]]
    assert sorted(found) == sorted(product(*labels.values()))


def test_each_way_to_forget_is_measured_and_one_is_cut(sections):
    found = {
        (row["way"], row["client"], row["keys"]) for row in sections["invalidation"]
    }
    everywhere = product(("invalidate_namespace", "flush_all"), CLIENTS, (100, 1_000))
    assert found == {*everywhere, *product(["delete_many"], CLIENTS, [100])}


def test_every_figure_is_a_positive_number(sections):
    for name, rows in sections.items():
        for row in rows:
            if name == "neighbour":
                numbers = [row["hit_rate_before"], row["hit_rate_after"]]
            else:
                numbers = [*row["value"].values(), *row["ratio"].values()]
            assert all(map(is_sound, numbers)), (name, row)


def test_what_is_compared_with_itself_is_the_same(sections):
    for rows in sections.values():
        for row in rows:
            if row.get("subject") == "bare":
                assert set(row["ratio"].values()) == {1}


def test_a_test_that_is_isolated_takes_one_round_trip_more(sections):
    trips = {(row["test"], row["runner"]): row["trips"] for row in sections["suite"]}
    assert trips["nothing", "Django's"] == 0
    assert trips["set and get", "Django's"] == 2
    # And a few in all, to begin with.
    assert 1 <= trips["nothing", "isolated"] < 1.5


def test_the_report_has_the_tables(folder):
    report = (folder / "results.md").read_text()
    lines = report.splitlines()
    heads = {
        f"| verb | {' | '.join(SUBJECTS)} |": 8,
        "| verb | bare | strict | naive |": 2,
        "| workers | kind | client | bare | strict | bounded | pinned |": 1,
        "|  | client | 100 keys | 1,000 keys |": 1,
        "| each test does | runner | time a test | ratio | round trips a test |": 1,
        "| client | bare | strict |": 1,
        "| neighbour | beside it | its hit rate | evictions | seconds |": 1,
    }
    assert {head: lines.count(head) for head in heads} == heads
    for verb in VERBS:
        assert sum(line.startswith(f"| {verb} | ") for line in lines) == 8 + 2
    for what in "processor", "kernel", "Python", "Django", "memcached", *CLIENTS:
        assert any(line.startswith(f"| {what} | ") for line in lines)


@pytest.mark.parametrize(
    ("name", "word"),
    {"verbs": "prefix", "invalidation": "keys", "delayed-link": "naive"}.items(),
)
def test_the_report_shows_a_plot_that_is_an_image(folder, name, word):
    assert f"]({name}.svg)" in (folder / "results.md").read_text()
    root = ET.parse(folder / f"{name}.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert word in {text.strip() for text in root.itertext()}
