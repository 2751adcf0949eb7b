"""`manage.py cache_namespace`: Django's own options, and what `list` shows of runs."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import time
from contextlib import closing

import pytest

from namespaced_cache.keys import GenerationKeys
from namespaced_cache.management.commands import cache_namespace
from tests.integration.test_cache_namespace import (
    NEWEST,
    Wire,
    listed,
    run,
    setting,
)
from tests.support.wires import answering

WAYS = ("list", "invalidate", "purge")
RUN = "run-0123456789abcdef"

#: Django's options, with the names and the values that the command gets.
OPTIONS = [
    (["-v", "0"], "verbosity", 0),
    (["-v2"], "verbosity", 2),
    (["--verbosity", "3"], "verbosity", 3),
    (["--settings", "config.tests"], "settings", "config.tests"),
    (["--pythonpath=/srv"], "pythonpath", "/srv"),
    (["--traceback"], "traceback", True),
    (["--no-color"], "no_color", True),
    (["--force-color"], "force_color", True),
    (["--skip-checks"], "skip_checks", True),
]


def parsed(*arguments):
    parser = cache_namespace.Command().create_parser("manage.py", "cache_namespace")
    return vars(parser.parse_args(arguments))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("given", "name", "value"), OPTIONS, ids=str)
def test_an_option_of_djangos_means_the_same_in_both_positions(way, given, name, value):
    expected = parsed(way) | {name: value}
    assert parsed(way, *given) == parsed(*given, way) == expected


@pytest.mark.parametrize("way", WAYS)
def test_options_in_both_positions_are_combined(way):
    found = parsed("-v", "0", "--no-color", way, "--settings", "s", "-v", "2")
    assert found["verbosity"] == 2  # the later one
    assert (found["no_color"], found["settings"]) == (True, "s")
    found = parsed("-v", "0", "--settings", "s", way, "--no-color")
    assert found["verbosity"] == 0
    assert (found["no_color"], found["settings"]) == (True, "s")


@pytest.mark.parametrize("way", WAYS)
def test_the_help_of_a_subcommand_shows_djangos_options(way, capsys):
    with pytest.raises(SystemExit) as left:
        parsed(way, "--help")
    assert left.value.code == 0
    said = capsys.readouterr().out
    for given, _, _ in OPTIONS:
        assert given[0][:2] in said
        assert given[0].partition("=")[0] in said or given[0].startswith("-v")
    # As in Django's commands, the command's own options come first.
    assert said.index("\n  --alias") < said.index("\n  --version")


def test_a_settings_module_may_be_named_after_the_subcommand(server, tmp_path):
    (tmp_path / "site_settings.py").write_text(
        f"CACHES = {{'default': {setting('pymemcache', server.location)!r}}}\n"
        f"INSTALLED_APPS = ['namespaced_cache']\n"
    )
    environment = {**os.environ}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    options = ["--pythonpath", str(tmp_path), "--settings", "site_settings"]
    call = [sys.executable, "-m", "django", "cache_namespace", "list"]
    done = subprocess.run(
        [*call, "--no-color", *options, "-v", "0", "--json"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert (json.loads(done.stdout), done.stderr) == ([], "")


@pytest.fixture
def site(server):
    return {"default": setting("pymemcache", server.location)}


@pytest.fixture
def wire(server):
    with closing(Wire(server)) as wire:
        yield wire


def counters(*names):
    return [(f"nsc:{name}".encode(), b"%d" % NEWEST) for name in names]


def item(name, key, back=0):
    return (GenerationKeys(name, NEWEST - back).wire_key(key).encode(), b"v")


def test_with_verbosity_0_only_what_was_asked_for_is_printed(site, wire):
    wire.fill([*counters("shop"), item("shop", "k", back=1)])
    assert run(site, "purge", "--dry-run", "-v", "0") == ("", "")
    assert run(site, "invalidate", "shop", "-v", "0") == ("", "")
    out, err = run(site, "list", "--json", "-v", "0")
    assert json.loads(out)[0]["generation"] == NEWEST + 1
    assert err == ""
    assert "shop" in run(site, "list", "-v", "0")[0]


@pytest.mark.parametrize("verbosity", [0, 1])
def test_only_verbosity_0_is_silent_about_a_busy_server(verbosity, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    answers = [
        b"STAT curr_items 0\r\nEND\r\n",
        b"STAT time 100\r\nEND\r\n",
        b"BUSY currently processing crawler request\r\n",
        b"END\r\n",
    ]
    with answering(*answers) as (host, port):
        caches = {"default": setting("pymemcache", f"{host}:{port}")}
        _, err = run(caches, "list", "-v", str(verbosity))
    assert err.count("busy") == verbosity


# What is shown of runs.


def wait_until_seen(site, seconds, *names):
    """Wait until none of these was used for so long, by what `list` shows."""
    deadline = time.monotonic() + 30
    while True:
        found = listed(site)
        if min(found[name]["last_seen"] for name in names) >= seconds:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_listing_does_not_count_as_a_use(site, wire):
    """Neither for a run, nor for its worker, nor for a fixed name, in no subcommand."""
    names = [RUN, f"{RUN}.gw0", "shop"]
    wire.fill([*counters(*names), *(item(name, "k") for name in names)])
    # In this loop, the command lists the namespaces many times.
    before = wait_until_seen(site, 2, *names)
    run(site, "list")
    run(site, "list", "-v", "2")
    run(site, "purge", "--dry-run")
    after = listed(site)
    for name in names:
        assert after[name]["generation"] == NEWEST
        assert after[name]["last_seen"] >= before[name]["last_seen"]
        assert after[name]["first_seen"] >= before[name]["first_seen"]


def test_first_and_last_seen_are_the_oldest_and_the_newest_use(site, wire):
    """Of the counter and of all items: each may have the oldest or the newest use."""
    late = "run-fedcba9876543210"
    wire.fill([*counters(RUN), item(late, "old"), item(f"{RUN}.gw0", "k")])
    wait_until_seen(site, 2, RUN, late, f"{RUN}.gw0")
    wire.fill([item(RUN, "new"), *counters(late)])
    found = listed(site)
    for name in RUN, late:
        assert found[name]["last_seen"] < 2 <= found[name]["first_seen"]
    worker = found[f"{RUN}.gw0"]
    assert 2 <= worker["last_seen"] == worker["first_seen"]
    head, *lines = run(site, "list")[0].splitlines()
    assert "first seen  last seen" in head
    assert all(line.count(" ago") == 2 for line in lines)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s ago"), (59, "59 s ago"), (60, "1 m ago"), (7199, "1 h ago")],
)
def test_a_time_is_written_in_its_largest_unit(seconds, said):
    assert cache_namespace._ago(seconds) == said


def empty_run(number):
    return f"run-{number:016x}"


def rows(site, *arguments):
    """Return the first word of each row of the table, and the line below it."""
    lines = run(site, "list", *arguments)[0].splitlines()[1:]
    below = [line for line in lines if "finished" in line]
    return [line.split()[0] for line in lines if "finished" not in line], below


def test_finished_runs_that_hold_nothing_are_one_row(site, wire, monkeypatch):
    monkeypatch.setattr(cache_namespace, "IDLE_AFTER", 0)
    empty = [empty_run(1), empty_run(2), f"{empty_run(2)}.gw0", empty_run(3)]
    kept = [
        *(RUN, f"{RUN}.gw0"),  # its worker holds an item
        *(f"{RUN}0", "shop"),  # no runs
        *map(empty_run, (4, 5)),  # hold a dead item, and one without a counter
    ]
    items = [
        item(f"{RUN}.gw0", "k"),
        item(empty_run(4), "k", back=1),
        item(empty_run(5), "k"),
    ]
    wire.fill([*counters(*empty, *kept[:-1]), *items])
    names, below = rows(site)
    assert names == sorted(kept)
    assert below == ["3 finished runs that hold nothing, last seen 0 s ago"]
    assert rows(site, "-v", "2") == (sorted([*empty, *kept]), [])
    assert listed(site).keys() == {*empty, *kept}


def test_a_single_finished_run_that_holds_nothing(site, wire, monkeypatch):
    monkeypatch.setattr(cache_namespace, "IDLE_AFTER", 0)
    wire.fill(counters(RUN))
    said = ["1 finished run that holds nothing, last seen 0 s ago"]
    assert rows(site) == ([], said)


def test_a_run_in_use_that_holds_nothing_has_its_own_row(site, wire):
    wire.fill(counters(RUN, f"{RUN}.gw0"))
    assert rows(site) == ([RUN, f"{RUN}.gw0"], [])


class Terminal(io.StringIO):
    def isatty(self):
        return True


ITEMS = 300


@pytest.mark.parametrize("out", [io.StringIO, Terminal])
@pytest.mark.parametrize("way", ["list", "purge"])
def test_no_progress_is_shown_in_the_first_two_seconds(
    site, wire, monkeypatch, out, way
):
    wire.fill([*counters("shop"), *(item("shop", f"k{n}") for n in range(ITEMS))])
    for seconds, is_shown in (1.9 / ITEMS, False), (2.5 / ITEMS, True):
        ticks = itertools.count()
        # One more item is walked over with each tick.
        monkeypatch.setattr(
            cache_namespace.clock, "monotonic", lambda s=seconds, t=ticks: s * next(t)
        )
        err = out()
        run(site, way, err=err)
        assert ("items" in err.getvalue()) is is_shown
        err = out()
        run(site, way, "-v", "0", err=err)
        assert err.getvalue() == ""
