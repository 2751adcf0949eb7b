#!/usr/bin/env python
"""Writes the table of the README's section "Speed" anew, from results.json.

python benchmarks/speed_table.py

The table keeps the commands that it has. The tests compare the README with
results.json, so run this after `make bench`.
"""

from __future__ import annotations

import json
from pathlib import Path

from subjects import BACKENDS

FOLDER = Path(__file__).parent

#: The measurement that the table shows: what most sites have.
SHOWN = {"transport": "TCP", "threads": "default", "bytes": 100}

SUBJECTS = "strict", "bounded", "naive"


def main() -> None:
    """Write the table."""
    rows = json.loads((FOLDER / "results.json").read_text())["sections"]["commands"]
    ratios = {
        (row["client"], row["command"], row["subject"]): row["ratio"]["median"]
        for row in rows
        if SHOWN.items() <= row.items()
    }
    readme = FOLDER.parent / "README.md"
    before, heading, rest = readme.read_text().partition("## Speed\n")
    speed, following, after = rest.partition("\n## ")
    lines = speed.splitlines(keepends=True)
    table = [number for number, line in enumerate(lines) if line.startswith("| ")]
    for number in table[2:]:  # The first two are the head.
        command = lines[number].strip("| \n").split(" | ")[0]
        figures = (
            f"{ratios[client, command, subject]:.2f}"
            for client in BACKENDS
            for subject in SUBJECTS
        )
        lines[number] = f"| {' | '.join([command, *figures])} |\n"
    readme.write_text(before + heading + "".join(lines) + following + after)


if __name__ == "__main__":
    main()
