#!/usr/bin/env python
"""Compares two results.json, for example of two versions of this package.

python benchmarks/compare.py BEFORE.json AFTER.json

Measure each version on the same machine, with the package that PYTHONPATH names:

    PYTHONPATH=before/src python benchmarks/run.py --only commands --into before-results
    PYTHONPATH=after/src python benchmarks/run.py --only commands --into after-results
    python benchmarks/compare.py before-results/results.json after-results/results.json

Prints one line for each client, transport, number of threads, size, command and subject
of the sections "commands" and "delayed-link", with the columns separated by tabs. The
line has the median and quartiles of the ratio to the bare backend, before and after.
The ratio of bare itself is always 1 and is left out. The last column is one of:

    worse     the median rose by more than the spread
    better    the median fell by more than the spread
    same      it did neither
    no before, no after     only one of the files has this row

The spread is the larger of the two interquartile ranges. The exit status is 1 if any
line is worse, else 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

#: The sections whose ratios are of times, so that less is better.
SECTIONS = "commands", "delayed-link"

#: The labels that identify a row. A section need not have all of them.
LABELS = "client", "transport", "servers", "threads", "bytes", "command", "subject"

Spread = dict[str, float]

#: The ratios in a file, by the section and labels.
Ratios = dict[tuple[str, ...], Spread]


def main() -> None:
    """Print the comparison of the files that the arguments name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, metavar="BEFORE.json")
    parser.add_argument("after", type=Path, metavar="AFTER.json")
    asked = parser.parse_args()
    print("section", *LABELS, "before", "after", "", sep="\t")
    verdicts = set()
    for line in compared(_ratios(asked.before), _ratios(asked.after)):
        print(*line, sep="\t")
        verdicts.add(line[-1])
    sys.exit("worse" in verdicts)


def compared(before: Ratios, after: Ratios) -> Iterator[tuple[str, ...]]:
    """Give the columns of each line, in the order of the first file."""
    for labels in {**before, **after}:
        old, new = before.get(labels), after.get(labels)
        yield *labels, _shown(old), _shown(new), _verdict(old, new)


def _ratios(path: Path) -> Ratios:
    sections = json.loads(path.read_text())["sections"]
    return {
        (section, *(str(row.get(label, "")) for label in LABELS)): row["ratio"]
        for section in SECTIONS
        for row in sections.get(section, ())
        if row["subject"] != "bare"
    }


def _verdict(before: Spread | None, after: Spread | None) -> str:
    if before is None:
        return "no before"
    if after is None:
        return "no after"
    spread = max(ratio["q3"] - ratio["q1"] for ratio in (before, after))
    change = after["median"] - before["median"]
    if abs(change) <= spread:
        return "same"
    return "worse" if change > 0 else "better"


def _shown(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return "{median:.2f} ({q1:.2f}-{q3:.2f})".format(**spread)


if __name__ == "__main__":
    main()
