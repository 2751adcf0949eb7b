"""The benchmarks run, as small as possible. The tests ignore what they measure."""

from __future__ import annotations

import fcntl
import json
import math
import subprocess
import sys
from itertools import chain, product
from xml.etree import ElementTree as ET

import pytest

from tests.support import ROOT, unmeasured

BENCHMARKS = ROOT / "benchmarks"

CLIENTS = "pymemcache", "pylibmc"
THREADS = "default", "1"
MODES = "bare", "strict", "bounded", "pinned"
SUBJECTS = *MODES, "naive", "prefix"
FAR_COMMANDS = (
    "get, hit",
    "get, miss",
    "has_key",
    "set",
    "add, of a key that exists",
    "add, of a new key",
    "delete",
    "touch",
    "incr",
    "get_many of 10",
    "set_many of 10",
    "delete_many of 10",
)
COMMANDS = (
    *FAR_COMMANDS,
    "get_many of 1",
    "get_many of 100",
    "set_many of 1",
    "set_many of 100",
)
SIZED_COMMANDS = (
    "get, hit",
    "set",
    "get_many of 10",
    "get_many of 100",
    "set_many of 10",
    "set_many of 100",
)
WATCHED_COMMANDS = ("get, hit", "set", "incr", "get_many of 100", "set_many of 100")
WRITERS = (
    "invalidations, each with an item",
    "invalidations alone",
    "items under random prefixes",
)

#: The labels of each section's rows. The rows are the products of these lists.
ROWS = {
    "commands": [
        {
            "client": CLIENTS,
            "transport": ("TCP", "unix socket"),
            "threads": THREADS,
            "bytes": (100,),
            "command": COMMANDS,
            "subject": SUBJECTS,
        },
        {
            "client": CLIENTS,
            "transport": ("TCP",),
            "threads": THREADS,
            "bytes": (10_000,),
            "command": SIZED_COMMANDS,
            "subject": SUBJECTS,
        },
    ],
    "invalidation": [
        {
            "way": ("invalidate_namespace", "flush_all"),
            "client": CLIENTS,
            "threads": ("1",),
            "keys": (100, 1_000),
        },
        {
            "way": ("delete_many",),
            "client": CLIENTS,
            "threads": ("1",),
            "keys": (100,),
        },
    ],
    "concurrency": [
        {
            "kind": ("threads", "processes"),
            "client": CLIENTS,
            "threads": THREADS,
            "subject": MODES,
        }
    ],
    "suite": [
        {
            "test": ("nothing", "set and get"),
            "runner": ("Django's", "isolated"),
            "threads": ("default",),
        }
    ],
    "start-up": [
        {"client": CLIENTS, "threads": ("default",), "subject": ("bare", "strict")}
    ],
    "set-up": [
        {
            "client": CLIENTS,
            "threads": ("1",),
            "items": (10, 20),
            "way": ("hand-written", "restored"),
        }
    ],
    "leaks": [
        {
            "client": CLIENTS,
            "threads": ("1",),
            "command": WATCHED_COMMANDS,
            "way": ("off", "on"),
        }
    ],
    "delayed-link": [
        {
            "client": CLIENTS,
            "servers": (1, 3),
            "threads": ("1",),
            "command": FAR_COMMANDS,
            "subject": ("bare", "strict", "naive"),
        }
    ],
    "neighbour": [
        {"neighbour": ("in use", "idle"), "beside": WRITERS, "threads": ("default",)}
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, testrun_uid):
    """The folder of one tiny run of all sections, for all workers of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp().parent / f"benchmark-{testrun_uid}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "results.json").exists():
            measure_into(folder)
    return folder


def measure_into(folder):
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            BENCHMARKS / "run.py",
            "--tiny",
            "--into",
            folder,
        ],
        check=False,
        env=unmeasured(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,  # for a busy machine
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def sections(folder):
    return json.loads((folder / "results.json").read_text())["sections"]


def is_sound(number):
    return math.isfinite(number) and number > 0


@pytest.mark.parametrize("section", ROWS)
def test_everything_is_measured_once(sections, section):
    found = [
        tuple(row[label] for label in ROWS[section][0]) for row in sections[section]
    ]
    expected = chain.from_iterable(product(*part.values()) for part in ROWS[section])
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("section", ["commands", "concurrency"])
def test_figures_are_taken_over_several_placements(sections, section):
    assert {row["placements"] for row in sections[section]} == {2}
    published = json.loads((BENCHMARKS / "results.json").read_text())["sections"]
    assert all(row["placements"] >= 8 for row in published[section])


def test_the_spread_over_placements_is_that_of_their_medians(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import measure

    def placement(median):
        # The quartiles of a single placement are far from its median.
        spread = measure.Spread(median, median / 10, median * 10)
        return {"strict": measure.Measured(5, spread, spread)}

    combined = measure.over_placements([placement(median) for median in (3, 1, 2)])
    spread = measure.Spread(2, 1.5, 2.5)
    assert combined == {"strict": measure.Measured(15, spread, spread, placements=3)}


def test_every_figure_is_a_positive_number(sections):
    for name, rows in sections.items():
        for row in rows:
            if name == "neighbour":
                numbers = [row["hit_rate_before"], row["hit_rate_after"]]
            else:
                numbers = [*row["value"].values(), *row["ratio"].values()]
            assert all(map(is_sound, numbers)), (name, row)


def test_the_ratio_of_bare_to_itself_is_1(sections):
    for rows in sections.values():
        for row in rows:
            if row.get("subject") == "bare":
                assert set(row["ratio"].values()) == {1}


def test_an_isolated_test_takes_one_round_trip_more(sections):
    trips = {(row["test"], row["runner"]): row["trips"] for row in sections["suite"]}
    assert trips["nothing", "Django's"] == 0
    assert trips["set and get", "Django's"] == 2
    # The suite takes a few more at its start.
    assert 1 <= trips["nothing", "isolated"] < 1.5


def test_the_report_has_the_tables(folder):
    report = (folder / "results.md").read_text()
    lines = report.splitlines()
    heads = {
        f"| command | threads | {' | '.join(SUBJECTS)} |": 6,
        "| command | bare | strict | naive |": 4,
        f"| workers | kind | client | threads | {' | '.join(MODES)} |": 1,
        "|  | client | 100 keys | 1,000 keys |": 1,
        "| each test does | runner | time a test | ratio | round trips a test |": 1,
        "| client | bare | strict |": 1,
        "| items | client | written by hand | stored again | ratio |": 1,
        "| command | client | off | on | ratio |": 1,
        "| neighbour | beside it | its hit rate | evictions | seconds |": 1,
    }
    assert {head: lines.count(head) for head in heads} == heads
    for command in COMMANDS:
        rows = sum(line.startswith(f"| {command} | ") for line in lines)
        large = 4 if command in SIZED_COMMANDS else 0
        far = 4 if command in FAR_COMMANDS else 0
        leaks = 2 if command in WATCHED_COMMANDS else 0
        assert rows == 8 + large + far + leaks, command
    for what in "processor", "kernel", "Python", "Django", "memcached", *CLIENTS:
        assert any(line.startswith(f"| {what} | ") for line in lines)


@pytest.mark.parametrize(
    ("name", "word"),
    {"commands": "prefix", "invalidation": "keys", "delayed-link": "naive"}.items(),
)
def test_the_report_shows_a_plot_that_is_an_image(folder, name, word):
    assert f"]({name}.svg)" in (folder / "results.md").read_text()
    root = ET.parse(folder / f"{name}.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert word in {text.strip() for text in root.itertext()}


def compared(folder, before, after):
    """Run compare.py on results with these sections."""
    paths = folder / "before.json", folder / "after.json"
    for path, sections in zip(paths, (before, after), strict=True):
        path.write_text(json.dumps({"sections": sections}))
    return subprocess.run(
        [sys.executable, BENCHMARKS / "compare.py", *paths],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def timed(command, subject="strict", *, median, q1, q3):
    return {
        "client": "pylibmc",
        "transport": "TCP",
        "threads": "1",
        "bytes": 100,
        "command": command,
        "subject": subject,
        "ratio": {"median": median, "q1": q1, "q3": q3},
    }


def test_a_comparison_marks_what_is_worse_by_more_than_the_spread(tmp_path):
    bare = timed("get", "bare", median=1, q1=1, q3=1)
    before = [
        bare,
        timed("get", median=1, q1=1, q3=1.1),
        timed("set", median=1, q1=1, q3=1.1),
        timed("add", median=1.5, q1=1.5, q3=1.6),
        timed("incr", median=2, q1=2, q3=2),
    ]
    after = [
        bare,
        timed("get", median=1.25, q1=1.1, q3=1.4),
        timed("set", median=1.25, q1=1.2, q3=1.3),
        timed("add", median=1, q1=1, q3=1),
    ]
    far = {**timed("get", median=1, q1=1, q3=1), "servers": 3}
    done = compared(
        tmp_path, {"commands": before}, {"commands": after, "delayed-link": [far]}
    )
    head, *lines = (line.split("\t") for line in done.stdout.splitlines())
    assert head == [
        *("section", "client", "transport", "servers", "threads", "bytes"),
        *("command", "subject", "before", "after", ""),
    ]
    labels = ["commands", "pylibmc", "TCP", "", "1", "100"]
    assert lines == [
        [*labels, "get", "strict", "1.00 (1.00-1.10)", "1.25 (1.10-1.40)", "same"],
        [*labels, "set", "strict", "1.00 (1.00-1.10)", "1.25 (1.20-1.30)", "worse"],
        [*labels, "add", "strict", "1.50 (1.50-1.60)", "1.00 (1.00-1.00)", "better"],
        [*labels, "incr", "strict", "2.00 (2.00-2.00)", "-", "no after"],
        [
            *("delayed-link", "pylibmc", "TCP", "3", "1", "100", "get", "strict"),
            *("-", "1.00 (1.00-1.00)", "no before"),
        ],
    ]
    assert (done.returncode, done.stderr) == (1, "")


def test_a_comparison_of_a_file_with_itself_reports_no_change(folder):
    path = folder / "results.json"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "compare.py", path, path],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()[1:]
    sections = json.loads(path.read_text())["sections"]
    assert len(lines) == sum(
        row["subject"] != "bare"
        for section in ("commands", "delayed-link")
        for row in sections[section]
    )
    assert all(line.endswith("\tsame") for line in lines)
    assert (done.returncode, done.stderr) == (0, "")
