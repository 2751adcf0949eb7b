#!/usr/bin/env python
"""Measures what a namespace costs, beside Django's own backend: `make bench`.

python benchmarks/run.py [--seconds N | --tiny] [--only SECTION ...] [--into FOLDER]

Writes results.json, results.md and plots, and prints the progress. `compare.py`
compares two results.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import commands
import concurrency
import delayed_link
import invalidation
import leaks
import machine
import measure
import neighbour
import set_up
import start_up
import suite
from scale import FULL, TINY, Scale

Section = Callable[[Scale, float], Iterator[dict[str, object]]]

#: Each section, and its share of the time. The neighbour takes as long as it needs.
SECTIONS: dict[str, tuple[Section, float]] = {
    "commands": (commands.run, 0.52),
    "invalidation": (invalidation.run, 0.06),
    "concurrency": (concurrency.run, 0.13),
    "suite": (suite.run, 0.05),
    "start-up": (start_up.run, 0.04),
    "set-up": (set_up.run, 0.03),
    "leaks": (leaks.run, 0.03),
    "delayed-link": (delayed_link.run, 0.11),
    "neighbour": (neighbour.run, 0.03),
}


def main() -> None:
    """Measure, and write the results."""
    asked = _asked()
    # As an exception, so that the servers and processes are ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    scale = TINY if asked.tiny else dataclasses.replace(FULL, seconds=asked.seconds)
    results = {"machine": machine.describe(), "scale": dataclasses.asdict(scale)}
    sections = results["sections"] = {}
    with nullcontext() if asked.tiny else measure.awake():
        for name in asked.only or SECTIONS:
            run, share = SECTIONS[name]
            print(f"{name} …", end=" ", flush=True)
            start = time.perf_counter()
            sections[name] = list(run(scale, share * scale.seconds))
            print(f"{time.perf_counter() - start:.1f} s", flush=True)
    _write(results, asked.into)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument(
        "--seconds", type=float, default=FULL.seconds, help="for all sections together"
    )
    how_much.add_argument(
        "--tiny",
        action="store_true",
        help="check that it works; figures are useless",
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent)
    return parser.parse_args()


def _write(results: dict, folder: Path) -> None:
    # Not above: matplotlib takes a second and has threads, and a benchmark forks.
    import plots
    import report

    folder.mkdir(parents=True, exist_ok=True)
    # A line for each row.
    text = json.dumps(results).replace("}, {", "},\n{")
    (folder / "results.json").write_text(text + "\n")
    drawn = plots.draw(results["sections"], folder)
    (folder / "results.md").write_text(report.written(results, drawn))
    print(f"written into {folder}: results.md, results.json, {', '.join(drawn)}")


if __name__ == "__main__":
    main()
