"""The results as plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.rcParams.update(
    {
        # Text stays text, and the files of two runs differ only in the figures.
        "svg.fonttype": "none",
        "svg.hashsalt": "django-namespaced-cache",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
    }
)

#: The palette of Okabe and Ito, which colour-blind readers can tell apart.
COLOURS = {
    "strict": "#0072B2",
    "bounded": "#56B4E9",
    "pinned": "#009E73",
    "naive": "#D55E00",
    "prefix": "#999999",
    "invalidate_namespace": "#0072B2",
    "delete_many": "#D55E00",
    "flush_all": "#999999",
}

MARKERS = {"pymemcache": "o", "pylibmc": "s"}

Rows = Sequence[dict]


def draw(sections: dict[str, Rows], folder: Path) -> list[str]:
    """Draw what was measured, and return the names of the files."""
    drawn = []
    for name, (section, plot) in PLOTS.items():
        if section in sections:
            figure = plot(sections[section])
            figure.savefig(folder / name, metadata={"Date": None}, bbox_inches="tight")
            drawn.append(name)
    return drawn


def _commands(rows: Rows) -> Figure:
    shown = {"transport": "TCP", "bytes": 100, "threads": "default"}
    rows = [row for row in rows if shown.items() <= row.items()]
    title = "Time as a multiple of Django's own backend (TCP, 100 bytes)"
    return _ratios(rows, title, lambda row: row["client"])


def _delayed_link(rows: Rows) -> Figure:
    delay = rows[0]["delay_ms"]
    title = f"Time as a multiple of Django's own backend ({delay:g} ms to the server)"
    return _ratios(
        rows, title, lambda row: f"{row['client']}, servers: {row['servers']}"
    )


def _ratios(rows: Rows, title: str, panel_of: Callable[[dict], str]) -> Figure:
    """Draw a point and its quartiles for each command and subject, in each panel."""
    names = list(dict.fromkeys(map(panel_of, rows)))
    commands = _distinct(rows, "command")
    subjects = [name for name in _distinct(rows, "subject") if name != "bare"]
    figure = Figure(
        figsize=(2 + 4 * len(names), 0.5 * len(commands) + 1), layout="constrained"
    )
    panels: Sequence[Axes] = figure.subplots(1, len(names), sharey=True)
    for panel, name in zip(panels, names, strict=True):
        for number, subject in enumerate(subjects):
            own = {
                row["command"]: row["ratio"]
                for row in rows
                if (panel_of(row), row["subject"]) == (name, subject)
            }
            shift = 0.6 * (number / max(1, len(subjects) - 1) - 0.5)
            panel.errorbar(
                [own[command]["median"] for command in commands],
                [place + shift for place in range(len(commands))],
                xerr=_arms([own[command] for command in commands]),
                fmt="o",
                markersize=4,
                color=COLOURS[subject],
                label=subject,
            )
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_title(name)
        panel.set_yticks(range(len(commands)), commands)
        panel.margins(y=0.01)
    panels[0].invert_yaxis()
    labels = panels[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=len(subjects))
    figure.suptitle(title)
    return figure


def _invalidation(rows: Rows) -> Figure:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel: Axes = figure.subplots()
    for way in _distinct(rows, "way"):
        for client in _distinct(rows, "client"):
            own = [row for row in rows if (row["way"], row["client"]) == (way, client)]
            spreads = [_in_milliseconds(row["value"]) for row in own]
            panel.errorbar(
                [row["keys"] for row in own],
                [spread["median"] for spread in spreads],
                yerr=_arms(spreads),
                marker=MARKERS[client],
                markersize=4,
                color=COLOURS[way],
                label=f"{way}, {client}",
            )
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("keys")
    panel.set_ylabel("milliseconds")
    panel.legend()
    figure.suptitle("Time until the keys can no longer be read")
    return figure


def _distinct(rows: Rows, label: str) -> list:
    return list(dict.fromkeys(row[label] for row in rows))


def _arms(spreads: Sequence[dict[str, float]]) -> list[list[float]]:
    return [
        [spread["median"] - spread["q1"] for spread in spreads],
        [spread["q3"] - spread["median"] for spread in spreads],
    ]


def _in_milliseconds(spread: dict[str, float]) -> dict[str, float]:
    return {name: 1000 * seconds for name, seconds in spread.items()}


#: Each file, the section that it shows, and the function that draws it.
PLOTS: dict[str, tuple[str, Callable[[Rows], Figure]]] = {
    "commands.svg": ("commands", _commands),
    "invalidation.svg": ("invalidation", _invalidation),
    "delayed-link.svg": ("delayed-link", _delayed_link),
}
