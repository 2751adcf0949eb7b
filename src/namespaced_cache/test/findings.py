"""Findings: the leaks of a run, merged from all its processes, and their report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

#: The arguments that both runners take.
LEAK_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "--cache-leaks": {
        "action": "store_true",
        "help": "report keys of caches that one test caches and another test asks for",
    },
    "--cache-leaks-json": {
        "metavar": "PATH",
        "help": "report such keys, and write all of them into this file, as JSON",
    },
}

#: Why findings are missing.
ENDED_EARLY = "a process ended early, or could not hand over what it found"

#: How many keys the report shows, unless all are asked for.
SHOWN = 20

#: How many findings are kept. A suite with more has one cause for most of them.
MAX_FINDINGS = 100_000

#: The widest column for keys. A longer key moves only what follows it.
_WIDEST = 40


class _Leak(NamedTuple):
    alias: str
    key: str
    cached_by: str


#: The tests that asked for a key, each with the commands that it used.
_Askers = dict[str, dict[str, None]]


class Findings:
    """Keys that one test cached and another test asked for.

    `tests` are the names of the tests that were watched, and `keys` is the number of
    keys. `runs` counts tests that ran twice twice. `incomplete` has the reasons why
    something is missing.
    """

    def __init__(self) -> None:
        self.tests: set[str] = set()
        self.keys = 0
        self.runs = 0
        self.incomplete: set[str] = set()
        self._leaks: dict[_Leak, _Askers] = {}
        self._count = 0

    def add(
        self, alias: str, key: str | bytes, cached_by: str, test: str, command: str
    ) -> None:
        """Add one command of a test."""
        if isinstance(key, bytes):
            key = key.decode(errors="backslashreplace")
        leak = _Leak(alias, key, cached_by)
        if command in self._leaks.get(leak, {}).get(test, {}):
            return
        if self._count == MAX_FINDINGS:
            self.incomplete.add(f"there were more than {MAX_FINDINGS:,} findings")
            return
        self._count += 1
        self._leaks.setdefault(leak, {}).setdefault(test, {})[command] = None

    # From one process to another.

    def as_plain(self) -> dict[str, Any]:
        """Return everything, made of types that JSON has."""
        return {
            "tests": sorted(self.tests),
            "keys": self.keys,
            "runs": self.runs,
            "incomplete": sorted(self.incomplete),
            "leaks": self._as_list(),
        }

    def merge(self, plain: Mapping[str, Any]) -> None:
        """Add what another process has found, as `as_plain` returned it."""
        self.tests |= set(plain["tests"])
        self.keys += plain["keys"]
        self.runs += plain["runs"]
        self.incomplete |= set(plain["incomplete"])
        for leak in plain["leaks"]:
            for asked in leak["asked_for_by"]:
                self.add(
                    leak["alias"],
                    leak["key"],
                    leak["cached_by"],
                    asked["test"],
                    asked["command"],
                )

    def add_to(self, folder: Path) -> None:
        """Add everything to this process's file in a folder."""
        with (folder / f"{os.getpid()}").open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(self.as_plain())}\n")

    def merge_folder(self, folder: Path) -> None:
        """Add what processes have added to their files, and delete the folder."""
        try:
            files = [path.read_text(encoding="utf-8") for path in folder.iterdir()]
        except OSError:  # a test may have deleted the folder
            self.incomplete.add(ENDED_EARLY)
            return
        for line in "".join(files).splitlines():
            try:
                self.merge(json.loads(line))
            except ValueError:  # the process was stopped while it wrote
                self.incomplete.add(ENDED_EARLY)
        rmtree(folder, ignore_errors=True)  # a process may still run

    # The report.

    def report(
        self, path: Path | None, *, show_all: bool, option: str = "-v"
    ) -> list[str]:
        """Return the lines of the report. If there is a path, write the file, too.

        A file that cannot be written has its own line. The runner's `option` is the one
        that shows all.
        """
        lines = self.lines(show_all=show_all, option=option)
        if path is not None:
            try:
                self.write(path)
            except OSError as error:
                lines.append(f"cache leaks: {path} cannot be written: {error}")
        return lines

    def lines(self, *, show_all: bool, option: str = "-v") -> list[str]:
        """Return the lines of the report: the keys that most tests ask for come first.

        Without `show_all`, it has at most SHOWN keys.
        """
        by_key: dict[tuple[str, str], dict[_Leak, _Askers]] = {}
        for leak, askers in self._sorted():
            by_key.setdefault((leak.alias, leak.key), {})[leak] = askers
        found = sorted(by_key.items(), key=lambda each: -_number_of_tests(each[1]))
        shown = found if show_all else found[:SHOWN]
        lines = [f"cache leaks: {self._summary(len(found))}"]
        alias_width = max((len(alias) for (alias, _), _ in shown), default=0)
        key_width = max((len(key) for (_, key), _ in shown), default=0)
        for (alias, key), leaks in shown:
            (leak, askers), *_ = leaks.items()
            (test, (command, *_)), *_ = askers.items()
            shown_key = f"{_printable(key):{min(key_width, _WIDEST)}}"
            head = f"  {alias:{alias_width}}  {shown_key}   "
            cached = _and_more(leak.cached_by, len(leaks))
            asked = _and_more(f"{test} ({command})", _number_of_tests(leaks))
            lines += [
                f"{head}cached by     {cached}",
                f"{' ' * len(head)}asked for by  {asked}",
            ]
        if len(found) > len(shown):
            more = _counted(len(found) - len(shown), "more key")
            lines.append(f"  and {more}: {option} shows all")
        lines += [
            f"cache leaks: the report is not complete, because {reason}"
            for reason in sorted(self.incomplete)
        ]
        return lines

    def write(self, path: Path) -> None:
        """Write all leaks into a file, as JSON. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{json.dumps(self._as_list(), indent=2)}\n", encoding="utf-8")

    def _summary(self, keys: int) -> str:
        if keys:
            found = _counted(keys, "key")
            return f"{found} that one test cached and another test asked for"
        tests, watched = _counted(len(self.tests), "test"), _counted(self.keys, "key")
        return f"none found in {tests}, which used {watched}"

    def _sorted(self) -> list[tuple[_Leak, _Askers]]:
        return sorted(self._leaks.items(), key=lambda each: (-len(each[1]), each[0]))

    def _as_list(self) -> list[dict[str, Any]]:
        return [
            {
                **leak._asdict(),
                "asked_for_by": [
                    {"test": test, "command": command}
                    for test, commands in askers.items()
                    for command in commands
                ],
            }
            for leak, askers in self._sorted()
        ]


def _number_of_tests(leaks: Mapping[_Leak, _Askers]) -> int:
    return len({test for askers in leaks.values() for test in askers})


def _printable(key: str) -> str:
    """Return a key without characters that a terminal takes for something else."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in key
    )


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _and_more(first: str, number: int) -> str:
    return first if number == 1 else f"{first}, and {number - 1:,} more"
