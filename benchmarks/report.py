"""The results as Markdown, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from concurrency import GETS
from neighbour import PASSES
from subjects import MEANINGS
from verbs import TIMED_SECONDS

Row = dict

WRITTEN_BY = (
    "By `make bench` (`benchmarks/run.py`); [results.json](results.json) has the "
    "numbers."
)

HOW_TO_READ = (
    "Everything is on one machine. In each round every subject does the same, in "
    "random order, and is compared with bare in that round. A figure is the median of "
    "all rounds, with both quartiles in brackets: 1.10 (1.05-1.20) is a tenth more "
    "time than bare takes. Python's garbage collector is off while the clock runs."
)

_AWAKE = {
    "yes": "While this was measured, a spinner of the lowest priority kept each core "
    "awake, because a core that idles takes longer to wake than memcached to answer.",
    "no": "Cores were free to idle, and some of the time is what they take to wake.",
}


def written(results: dict, plots: Sequence[str]) -> str:
    """Write the report, with the plots that were drawn."""
    parts = [
        "# What a namespace costs",
        WRITTEN_BY,
        _table(["", ""], results["machine"].items()),
        HOW_TO_READ,
        _AWAKE[results["machine"]["cores kept awake"]],
        _table(["subject", "what it is"], MEANINGS.items()),
    ]
    for name, rows in results["sections"].items():
        title, write = SECTIONS[name]
        parts += [f"## {title}", *write(rows)]
        if f"{name}.svg" in plots:
            parts += [f"![{title}]({name}.svg)"]
    return "\n\n".join(parts) + "\n"


def _ratio(spread: dict[str, float]) -> str:
    return "{median:.2f} ({q1:.2f}-{q3:.2f})".format(**spread)


def _rate(spread: dict[str, float]) -> str:
    return f"{spread['median']:,.0f} /s"


def _time(spread: dict[str, float]) -> str:
    seconds = spread["median"]
    for unit, size in {"s": 1, "ms": 1e-3}.items():
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{1e6 * seconds:.3g} µs"


def _compared(
    rows: Sequence[Row], *labels: str, show: Callable[[dict], str] = _time
) -> str:
    """Make a table of the subjects' ratios, after the first one's own figure."""
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    lines = []
    for values, (first, *others) in _groups(rows, *labels):
        ratios = (_ratio(row["ratio"]) for row in others)
        lines.append([*values, show(first["value"]), *ratios])
    return _table([*labels, *subjects], lines)


def _groups(
    rows: Sequence[Row], *labels: str
) -> Iterable[tuple[tuple[object, ...], list[Row]]]:
    """Put together, in their order, the rows that have the same under these labels."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[label] for label in labels), []).append(row)
    return groups.items()


def _table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(
        f"| {' | '.join(map(str, line))} |" for line in (head, rule, *lines)
    )


def _verbs(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "Time as a multiple of bare. Operations are timed together, for about "
        f"{1000 * TIMED_SECONDS:g} ms; but `add` of a new key, `delete` and "
        "`delete_many` one at a time, each after what it needs was restored. Memcached "
        "has one thread, so that no connection is nearer to its own than another."
    )
    for (client, transport, size), own in _groups(rows, "client", "transport", "bytes"):
        yield f"### {client}, {transport}, values of {size:,} bytes"
        yield _compared(own, "verb")


def _delayed_link(rows: Sequence[Row]) -> Iterator[str]:
    delay = rows[0]["delay_ms"]
    yield (
        f"As above, on values of 100 bytes, through a link that takes {delay:g} ms "
        "each way: what counts is round trips."
    )
    for (client,), own in _groups(rows, "client"):
        yield f"### {client}"
        yield _compared(own, "verb")


def _invalidation(rows: Sequence[Row]) -> Iterator[str]:
    cut = max(row["keys"] for row in rows if row["way"] == "delete_many")
    yield (
        "The time until real keys are forgotten, which are stored anew before each. "
        "`flush_all` forgets what everybody has on the server. Django's `delete_many` "
        f"is cut at {cut:,} keys, because it takes a round trip for each."
    )
    sizes = list(dict.fromkeys(row["keys"] for row in rows))
    lines = []
    for labels, own in _groups(rows, "way", "client"):
        times = {row["keys"]: _time(row["value"]) for row in own}
        lines.append([*labels, *(times.get(size, "not tried") for size in sizes)])
    yield _table(["", "client", *(f"{size:,} keys" for size in sizes)], lines)


def _concurrency(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        f"Operations a second of all workers together, {GETS} gets of 100 bytes for "
        "each set, as a multiple of bare: more is better. Each worker has a connection "
        "of its own, and all have one namespace."
    )
    yield _compared(rows, "workers", "kind", "client", show=_rate)


def _suite(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        f"`manage.py test` of {rows[0]['tests']:,} tests, each a `TestCase` on a "
        "database in memory, with pymemcache: the time is the runner's own. Round "
        "trips are counted by a proxy."
    )
    head = ["each test does", "runner", "time a test", "ratio", "round trips a test"]
    yield _table(
        head,
        (
            [
                row["test"],
                row["runner"],
                _time({"median": row["value"]["median"] / row["tests"]}),
                _ratio(row["ratio"]),
                f"{row['trips']:.2f}",
            ]
            for row in rows
        ),
    )


def _start_up(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "In fresh interpreters that have imported Django's cache: the time from the "
        "setting to the first answer, with all that is imported and connected for it. "
        "Strict seeds the counter of a new run, in three more round trips."
    )
    yield _compared(rows, "client")


def _neighbour(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        f"A server of {rows[0]['megabytes']} MB. Half of it holds a neighbour's items "
        f"of 500 bytes; beside it {rows[0]['writes']:,} items of 500 bytes are "
        "written, or as many bumps made, or both. A neighbour in use gets all that it "
        f"has {PASSES} times meanwhile; an idle one, never."
    )
    head = ["neighbour", "beside it", "its hit rate", "evictions", "seconds"]
    yield _table(
        head,
        (
            [
                row["neighbour"],
                row["beside"],
                "{hit_rate_before:.1%} → {hit_rate_after:.1%}".format(**row),
                "{evictions_before:,} → {evictions_after:,}".format(**row),
                f"{row['seconds']:.1f}",
            ]
            for row in rows
        ),
    )


#: Each section's title, and what writes it.
SECTIONS: dict[str, tuple[str, Callable[[Sequence[Row]], Iterator[str]]]] = {
    "verbs": ("Verbs", _verbs),
    "invalidation": ("Invalidation", _invalidation),
    "concurrency": ("Threads and processes", _concurrency),
    "suite": ("A suite of tests", _suite),
    "start-up": ("Start-up", _start_up),
    "delayed-link": ("A delayed link", _delayed_link),
    "neighbour": ("A neighbour on a small server", _neighbour),
}
