#!/usr/bin/env python
"""Shows on a real Django site and a real memcached what a namespace does.

It has six steps and prints a table at the end. The exit status is 1 if a promise was
not kept. Run it with `make demo`. The README.md beside it explains the output.
"""

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import django

from emptying import (
    DELETE,
    FLUSH,
    INVALIDATE,
    NEIGHBOUR_KEYS,
    REPEATS,
    SIZES,
    Measurement,
    measure,
    median,
)
from memcached_server import NoMemcachedError, location_in_use, private_memcached

if TYPE_CHECKING:
    from running_site import Damage, RunningSite

SHOP = Path(__file__).resolve().parent / "shop"
SUITE_SECONDS = 120
RUNNER = "--testrunner=namespaced_cache.test.NamespacedDiscoverRunner"
WORKERS = 2
EXAMPLES = 4
OUTPUT_LINES = 20
WIDTH = 80
# After so many seconds without a line, the demo says that it goes on.
SILENT_SECONDS = 3
GREEN, RED, BOLD = "32", "31", "1"


@dataclass(frozen=True)
class SuiteRun:
    """One run of the shop's tests: its results, and the site's keys that it changed."""

    name: str
    tests: int
    failed: frozenset[str]
    workers: int
    seconds: float
    green: bool
    output: str
    damage: "Damage"


@dataclass(frozen=True)
class LeakReport:
    """The report of leaks, and the tests that fail because of another test."""

    lines: tuple[str, ...]
    failed: frozenset[str]
    asking: frozenset[str]


@dataclass(frozen=True)
class Expectation:
    """A promise of the demo, and the result."""

    promise: str
    outcome: str
    met: bool

    def __str__(self) -> str:
        """Return the lines for the end of the demo, in colour on a terminal."""
        word = "ok    " if self.met else "FAILED"
        lines = _wrapped(f"{word}  {self.promise}: {self.outcome}", " " * 8)
        return coloured(word, GREEN if self.met else RED) + lines[len(word) :]


def main() -> int:
    """Run the demo and return its exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        with _memcached_of_the_site() as location:
            runs, leaks = compare_suites(location)
            measurements = compare_emptying(location)
    except NoMemcachedError as error:
        say(f"demo: {error}")
        return 2
    except KeyboardInterrupt:
        say("\ndemo: interrupted")
        return 130
    say_step("[6/6] What came out\n")
    say("\n".join([*suite_table(runs), "", *emptying_table(measurements), ""]))
    expectations = [
        *expect_of_suites(*runs),
        expect_of_report(leaks),
        *expect_of_emptying(measurements),
    ]
    say("\n".join(map(str, expectations)))
    return 0 if all(expectation.met for expectation in expectations) else 1


def compare_suites(location: str) -> tuple[tuple[SuiteRun, ...], LeakReport]:
    """Run the tests beside the running site: plain, namespaced, namespaced in parallel.

    Between them, the report of leaks explains why tests fail.

    The running site's keys are restored after each run, so each run starts with all.
    """
    # A random prefix, so that the keys of a developer's site have other names.
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "MEMCACHED_LOCATION": location,
        "SHOP_CACHE_PREFIX": f"demo-shop-{secrets.token_hex(4)}",
        "SHOP_DATABASE": ":memory:",
    }
    sys.path.insert(0, str(SHOP))
    django.setup()
    from running_site import RunningSite  # noqa: PLC0415 - needs Django set up

    say_step("[1/6] The running site fills its cache")
    with going_on("filling"):
        running = RunningSite()
    with contextlib.closing(running) as site:
        say(f"      {len(site.values)} keys: cards, view counters, holds, sessions")

        say_step("[2/6] Its tests run on the plain backend: same server, same prefix")
        plain = run_suite(site, "plain backend")
        tell(plain)

        say_step("[3/6] Which of the tests leak into each other")
        leaks = report_leaks(site)

        say_step("[4/6] The same tests run by NamespacedDiscoverRunner")
        serial = run_suite(site, "NamespacedCache, one after another", RUNNER)
        tell(serial)
        parallel = run_suite(
            site, "NamespacedCache, in parallel", RUNNER, f"--parallel={WORKERS}"
        )
        tell(parallel)
    return (plain, serial, parallel), leaks


def report_leaks(site: "RunningSite") -> LeakReport:
    """Report which tests leak, and run them on the plain backend without the site.

    Without the site's keys, tests fail only because of another test.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "leaks.json"
        report = run_suite(site, "the report", RUNNER, f"--cache-leaks-json={path}")
        leaks = json.loads(path.read_text()) if path.exists() else []
    prefix = os.environ["SHOP_CACHE_PREFIX"]
    os.environ["SHOP_CACHE_PREFIX"] = f"{prefix}-empty"
    alone = run_suite(site, "plain backend without the site's keys")
    os.environ["SHOP_CACHE_PREFIX"] = prefix
    found = LeakReport(
        lines=tuple(_shortened(report.output)),
        failed=alone.failed,
        asking=frozenset(
            asked["test"] for leak in leaks for asked in leak["asked_for_by"]
        ),
    )
    say("      manage.py test --cache-leaks, with short names of tests:")
    say("\n".join(f"      {line}" for line in found.lines))
    say(
        f"      {len(found.failed)} tests fail because of another test. The other "
        f"failures above come from the running site's keys."
    )
    return found


def run_suite(site: "RunningSite", name: str, *options: str) -> SuiteRun:
    """Run the tests, count the keys of `site` that changed, and restore them."""
    command = [sys.executable, "manage.py", "test", "--noinput", *options]
    with subprocess.Popen(  # noqa: S603 - our own interpreter and our own tests
        command,
        cwd=SHOP,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A group of its own, so that parallel workers end together with their parent.
        start_new_session=True,
    ) as process:
        try:
            with going_on(f"{name}: the tests run"):
                output, _ = process.communicate(timeout=SUITE_SECONDS)
        except subprocess.TimeoutExpired:
            _end_group(process.pid)
            output, _ = process.communicate()
        except BaseException:
            _end_group(process.pid)
            raise
    # A test that fails in its body and in its teardown is reported twice.
    failed = re.findall(r"^(?:FAIL|ERROR): \w+ \((.+)\)$", output, re.MULTILINE)
    ran = re.search(r"^Ran (\d+) tests? in ([\d.]+)s$", output, re.MULTILINE)
    damage = site.damage()
    site.restore()
    return SuiteRun(
        name=name,
        tests=int(ran[1]) if ran else 0,
        failed=frozenset(failed),
        workers=max(1, output.count("Cloning test database")),
        seconds=float(ran[2]) if ran else 0.0,
        green=ran is not None and process.returncode == 0,
        output=output,
        damage=damage,
    )


def tell(run: SuiteRun) -> None:
    """Say how a run of the tests went, with failures from different test classes."""
    if not run.tests:
        last_lines = "\n".join(run.output.splitlines()[-OUTPUT_LINES:])
        say(f"      {run.name}: the tests did not run to their end:\n{last_lines}")
        return
    say(f"      {run.name}: {len(run.failed)} of {run.tests} tests failed")
    failures = re.findall(
        r"^(?:FAIL|ERROR): (\w+) \(([\w.]+)\.\w+\)$.*?^([\w.]+: .*?)$",
        run.output,
        re.MULTILINE | re.DOTALL,
    )
    first_of_each_class: dict[str, tuple[str, str]] = {}
    for test, case, reason in failures:
        first_of_each_class.setdefault(case, (test, reason))
    shown = list(first_of_each_class.values())[:EXAMPLES]
    for test, reason in shown:
        say(f"        {test}")
        say(f"          {textwrap.shorten(reason, WIDTH - 10, placeholder=' ...')}")
    if shown:
        say(f"        {len(shown)} of {len(run.failed)} failures shown")
    say(f"      keys of the running site that changed: {run.damage}")


def compare_emptying(site_location: str) -> list[Measurement]:
    """Measure each way and size on a memcached started for it, which may be flushed.

    Without a `memcached` binary, the site's server is used, and `flush_all` is left
    out, because it would delete all keys on that server.
    """
    say_step(
        "[5/6] A cache is filled and emptied, beside a neighbour on the same server"
    )
    measurements = []
    with contextlib.ExitStack() as stack:
        try:
            location = stack.enter_context(private_memcached())
            ways = (INVALIDATE, FLUSH, DELETE)
            say(f"      on a memcached of its own at {location}, safe to flush")
        except NoMemcachedError as error:
            location, ways = site_location, (INVALIDATE, DELETE)
            say(f"      on {location}, without flush_all: {error}")
        for size in SIZES:
            for way in ways:
                with going_on(f"{size:>7,} keys, {way.name}"):
                    found = median(measure(way, size, location) for _ in range(REPEATS))
                measurements.append(found)
                say(f"      {size:>7,} keys, {way.name}: {found.milliseconds:,.2f} ms")
        say(f"      each time is the median of {REPEATS}")
    return measurements


def suite_table(runs: Iterable[SuiteRun]) -> Iterator[str]:
    """Yield the lines of the table of test runs."""
    yield from _heading(
        f"{'The tests on':<35}{'tests':>5}{'failed':>7}{'workers':>8}{'seconds':>8}"
        "  site's changes"
    )
    for run in runs:
        yield (
            f"{run.name:<35}{run.tests:>5}{len(run.failed):>7}{run.workers:>8}"
            f"{run.seconds:>8.2f}  {run.damage.changed} of {run.damage.keys}"
        )


def emptying_table(measurements: Sequence[Measurement]) -> Iterator[str]:
    """Yield the lines of the table of ways to empty a cache."""
    yield from _heading(
        f"{'Keys':>7}  {'emptied by':<22}{'round trips':>12}{'median ms':>12}"
        "   neighbour's keys lost"
    )
    for found in measurements:
        yield (
            f"{found.keys:>7,}  {found.way.name:<22}{found.round_trips:>12,}"
            f"{found.milliseconds:>12,.2f}"
            f"   {found.neighbour_lost:,} of {NEIGHBOUR_KEYS:,}"
        )
    if any(found.way is FLUSH for found in measurements):
        yield "flush_all ran on a memcached started for it: it deletes all keys."
    else:
        yield "flush_all was not run: on a shared server it deletes all keys."


def expect_of_suites(
    plain: SuiteRun, serial: SuiteRun, parallel: SuiteRun
) -> Iterator[Expectation]:
    """Yield the promises about the three runs of the tests."""
    yield Expectation(
        "On the plain backend keys recur and tests fail",
        f"{len(plain.failed)} of {plain.tests} failed",
        met=bool(plain.failed),
    )
    for run in (serial, parallel):
        yield Expectation(
            f"{run.name}, the tests pass",
            f"{len(run.failed)} of {run.tests} failed"
            if run.tests
            else "they did not run",
            met=run.green and not run.failed and run.tests == plain.tests,
        )
    yield Expectation(
        f"In parallel means {WORKERS} workers",
        f"{parallel.workers}",
        met=parallel.workers == WORKERS,
    )
    yield Expectation(
        "NamespacedCache leaves the running site's keys as they are",
        f"{serial.damage} and {parallel.damage} changed",
        met=not serial.damage and not parallel.damage,
    )


def expect_of_report(leaks: LeakReport) -> Expectation:
    """Return the promise about the report of leaks."""
    explained = leaks.failed & leaks.asking
    return Expectation(
        "The report names each test that fails because of another test",
        f"{len(explained)} of {len(leaks.failed)}",
        met=bool(explained) and explained == leaks.failed,
    )


def expect_of_emptying(measurements: Iterable[Measurement]) -> Iterator[Expectation]:
    """Yield the promises about the invalidations."""
    invalidations = [found for found in measurements if found.way is INVALIDATE]
    for found in invalidations:
        yield Expectation(
            f"A namespace of {found.keys:,} keys is invalidated in 1 round trip",
            f"{found.round_trips:,}",
            met=found.round_trips == 1,
        )
        yield Expectation(
            "Nothing of it is readable afterwards",
            f"{found.readable_before:,} keys before, {found.readable_after:,} after",
            met=found.readable_before == found.keys and not found.readable_after,
        )
    lost = sum(found.neighbour_lost for found in invalidations)
    yield Expectation(
        "Invalidating leaves the neighbour's keys alone", f"{lost} lost", met=lost == 0
    )


def say(text: str) -> None:
    """Print `text` at once, also into a pipe. Long lines are wrapped."""
    lines = (_wrapped(line, " " * 10) for line in text.split("\n"))
    print("\n".join(lines), flush=True)  # noqa: T201 - a demo talks


def say_step(title: str) -> None:
    """Print the title of a step, in bold on a terminal."""
    say(f"\n{coloured(title, BOLD)}")


def coloured(text: str, colour: str) -> str:
    """Return `text` in a colour, if standard output is a terminal that shows colours.

    See https://no-color.org about the environment variable NO_COLOR.
    """
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if is_plain or not sys.stdout.isatty():
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


@contextlib.contextmanager
def going_on(what: str) -> Iterator[None]:
    """Say every three seconds that the work in the block goes on."""
    done = threading.Event()
    began = time.monotonic()

    def tell_time() -> None:
        while not done.wait(SILENT_SECONDS):
            say(f"      ... {what.strip()} ({time.monotonic() - began:.0f} s)")

    thread = threading.Thread(target=tell_time, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _shortened(output: str) -> Iterator[str]:
    """Yield the lines of the report of leaks, without modules and classes."""
    yield from re.findall(r"^cache leaks: .*$", output, re.MULTILINE)
    for head, role, tests in re.findall(
        r"^ (.*)  ((?:cached|asked for) by +)(.*)$", output, re.MULTILINE
    ):
        if head.strip():
            yield f"  {' '.join(head.split())}"
        yield f"    {role}{re.sub(r'(?:[a-zA-Z_]+[.])+test_', 'test_', tests)}"


def _wrapped(line: str, indent: str) -> str:
    visible = re.sub(r"\x1b\[\d+m", "", line)
    if len(visible) <= WIDTH:
        return line
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, drop_whitespace=True)


def _heading(titles: str) -> Iterator[str]:
    yield titles
    yield "-" * len(titles)


@contextlib.contextmanager
def _memcached_of_the_site() -> Iterator[str]:
    location = location_in_use()
    if location is not None:
        say(f"Using the memcached at {location}")
        yield location
        return
    with private_memcached() as location:
        say(f"No memcached on the usual port: started one at {location}")
        yield location


def _end_group(pid: int) -> None:
    # If the last process has ended meanwhile, the group no longer exists.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _leave(number: int, _frame: object) -> NoReturn:
    # This ends the `with` blocks, which stop the processes and delete the keys.
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
