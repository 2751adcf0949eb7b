"""The results as Markdown, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from commands import LARGE, TIMED_SECONDS
from concurrency import GETS
from neighbour import PASSES
from subjects import DEFAULT_THREADS, MEANINGS

Row = dict

WRITTEN_BY = (
    "`make bench` (`benchmarks/run.py`) wrote this page. "
    "[results.json](results.json) has the numbers."
)

HOW_TO_READ = (
    "Everything runs on one machine. In each round every subject does the same, in "
    "random order, and is compared with bare in that round. A figure is the median of "
    "the rounds, or of the placements if the section says so. Both quartiles follow in "
    "brackets: 1.10 (1.05-1.20) means a tenth more time than bare. Python's garbage "
    "collector is off while the time is taken."
)

ABOUT_THREADS = (
    'The column "threads" says how many worker threads memcached has. "default" is '
    f'memcached\'s default number, {DEFAULT_THREADS}. "1" is `memcached -t 1`.'
)

_AWAKE = {
    "yes": "During the measurement, a process of the lowest priority kept each core "
    "awake, because an idle core takes longer to wake than memcached takes to answer.",
    "no": "Cores were allowed to idle, so the times include the time to wake them.",
}


def written(results: dict, plots: Sequence[str]) -> str:
    """Return the report, which shows the plots with these file names."""
    parts = [
        "# What a namespace costs",
        WRITTEN_BY,
        _table(["", ""], results["machine"].items()),
        HOW_TO_READ,
        ABOUT_THREADS,
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
    """Make a table of the first subject's value and the other subjects' ratios."""
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    lines = []
    for values, (first, *others) in _groups(rows, *labels):
        ratios = (_ratio(row["ratio"]) for row in others)
        lines.append([*values, show(first["value"]), *ratios])
    return _table([*labels, *subjects], lines)


def _groups(
    rows: Sequence[Row], *labels: str
) -> Iterable[tuple[tuple[object, ...], list[Row]]]:
    """Group the rows that have equal labels, in their order."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[label] for label in labels), []).append(row)
    return groups.items()


def _table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(
        f"| {' | '.join(map(str, line))} |" for line in (head, rule, *lines)
    )


def _placements(row: Row) -> str:
    return (
        f"Each figure was taken in {row['placements']} placements. A placement is one "
        "set of fresh connections. memcached assigns each connection to one of its "
        "threads, and the speed depends on the thread. Each placement has a median of "
        "its rounds. The table shows the median and quartiles of these medians, so the "
        "quartiles show the spread between placements, not between rounds."
    )


def _commands(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "Time as a multiple of bare. A command is repeated for about "
        f"{1000 * TIMED_SECONDS:g} ms each time it is timed. Only `add` of a new key, "
        "`delete` and `delete_many` are timed one at a time, because their keys have "
        f"to be restored before each. Values of {LARGE:,} bytes are sent over TCP "
        "only, by commands whose time depends on the size."
    )
    yield _placements(rows[0])
    for (client, transport, size), own in _groups(rows, "client", "transport", "bytes"):
        yield f"### {client}, {transport}, values of {size:,} bytes"
        # Both numbers of threads of a command below one another.
        by_command = [row for _, group in _groups(own, "command") for row in group]
        yield _compared(by_command, "command", "threads")


def _delayed_link(rows: Sequence[Row]) -> Iterator[str]:
    first = rows[0]
    yield (
        f"The same commands on values of {first['bytes']} bytes, on one server and on "
        f"three. Each server is behind a link that takes {first['delay_ms']:g} ms in "
        "each direction, so the times show round trips. The keys are spread over the "
        "servers. Each memcached has one thread, because the delay hides which thread "
        "serves a connection."
    )
    for (client, servers), own in _groups(rows, "client", "servers"):
        yield f"### {client}, {_servers(servers)}"
        yield _compared(own, "command")


def _servers(number: int) -> str:
    return "1 server" if number == 1 else f"{number} servers"


def _invalidation(rows: Sequence[Row]) -> Iterator[str]:
    cut = max(row["keys"] for row in rows if row["way"] == "delete_many")
    yield (
        "The time until real keys can no longer be read. They are stored anew before "
        "each measurement. `flush_all` also removes what others have on the server. "
        f"Django's `delete_many` is measured up to {cut:,} keys, because it takes a "
        "round trip for each. memcached has one thread, so all connections are "
        "assigned to the same one."
    )
    sizes = list(dict.fromkeys(row["keys"] for row in rows))
    lines = []
    for labels, own in _groups(rows, "way", "client"):
        times = {row["keys"]: _time(row["value"]) for row in own}
        lines.append([*labels, *(times.get(size, "not tried") for size in sizes)])
    yield _table(["", "client", *(f"{size:,} keys" for size in sizes)], lines)


def _concurrency(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        f"Commands per second of all workers together, {GETS} gets of 100 bytes for "
        "each set, as a multiple of bare: more is better. Each worker has a connection "
        "of its own, and all workers use one namespace."
    )
    yield _placements(rows[0])
    yield _compared(rows, "workers", "kind", "client", "threads", show=_rate)


def _suite(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        f"`manage.py test` of {rows[0]['tests']:,} tests, each a `TestCase` on a "
        "database in memory, with pymemcache. The time is what the runner reports. A "
        "proxy counts the round trips. memcached has its default number of threads. "
        "Each run of the suite has fresh connections, so each round is a placement."
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
        "setting to the first reply, including imports and connections. Strict seeds "
        "the counter of a new run, which takes three more round trips. memcached has "
        "its default number of threads. Each start has fresh connections, so each "
        "round is a placement."
    )
    yield _compared(rows, "client")


def _two_ways(rows: Sequence[Row], head: Sequence[str], *labels: str) -> str:
    """Make a table of the times of two ways, and of the second's ratio."""
    lines = []
    for values, (first, second) in _groups(rows, *labels):
        shown = (f"{each:,}" if isinstance(each, int) else each for each in values)
        times = _time(first["value"]), _time(second["value"])
        lines.append([*shown, *times, _ratio(second["ratio"])])
    return _table(head, lines)


def _set_up(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "What the set-up of a class has cached is stored again before each of its "
        "tests. The time for items of 1,000 bytes, compared with writing them by hand "
        "in memcached's own protocol, without a reply to each. memcached has one "
        "thread, so all connections are assigned to the same one."
    )
    head = ["items", "client", "written by hand", "stored again", "ratio"]
    yield _two_ways(rows, head, "items", "client")


def _leaks(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "The time of a command while a test run looks for leaks (`--cache-leaks`), "
        "compared with the time while it does not. Each key was cached by another "
        "test. memcached has one thread, and both use the same connection."
    )
    head = ["command", "client", "off", "on", "ratio"]
    yield _two_ways(rows, head, "command", "client")


def _neighbour(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        f"A server of {rows[0]['megabytes']} MB. Half of it holds a neighbour's items "
        f"of 500 bytes. Beside it, {rows[0]['writes']:,} items of 500 bytes are "
        "written, or as many invalidations are made, or both. A neighbour in use gets "
        f"all its items {PASSES} times meanwhile. An idle neighbour gets none."
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
    "commands": ("Commands", _commands),
    "invalidation": ("Invalidation", _invalidation),
    "concurrency": ("Threads and processes", _concurrency),
    "suite": ("A suite of tests", _suite),
    "start-up": ("Start-up", _start_up),
    "set-up": ("What set-up has cached", _set_up),
    "leaks": ("Looking for leaks", _leaks),
    "delayed-link": ("A delayed link", _delayed_link),
    "neighbour": ("A neighbour on a small server", _neighbour),
}
