"""Histories: what processes did to one namespace, and whether that is possible.

A history is a list of calls, each with the times at which it began and ended, on a
clock that all processes share. `History(calls).violations()` compares it with the
contract. A rule may use only what is visible from outside: that one call had ended
before another began. Calls that overlap may have taken effect in either order.

The rules depend on these facts:

1. The counter holds the live generation, and only rises.
2. A write takes effect in the generation that the counter held at some moment of the
   write. Before that, it may have done the same in older generations, because its
   process had not read the counter yet.
3. A read answers from the generation that the counter held at some moment after the
   read began. It may read the data a little later, when that generation is dead.
   Meanwhile a late writer may have stored something there, as 2 says.

So a write that a read has found need not last if an invalidation began before the write
ended, and ended after the read began. In this case, and in no other, the write is
*shadowed* from the read. A value is *settled* as soon as its write can store it nowhere
else. That is when the write has ended. It is also when a read has ended that found the
value, if the write was not shadowed from that read.

The rules are the methods below "The rules". The server has enough memory, so nothing is
evicted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, chain
from math import inf
from operator import attrgetter
from typing import Any, NamedTuple

#: A stored number is in the middle of a span. The steps stay within the span.
SPAN = 10**6

#: Separates the pieces of a text: the stored value, and what was appended or prepended.
BAR = "|"

#: A server was killed, and has restarted empty. If it has the counter, that wipes. If
#: not, each key may have been dropped: its server depends on the generation.
KILL = "kill"

#: The counter was deleted, and nothing else.
EVICT = "evict"

#: The time from an eviction until every thread has seen the new counter. Meanwhile, a
#: process that knows an old number may start a counter below the latest one, and
#: another process repairs it. So numbers may fall, and a repair is an invalidation.
SETTLING = "settling"

#: The events that happen to a server. They are no calls of the threads.
DISASTERS = KILL, EVICT, SETTLING


class Part(NamedTuple):
    """What a call did to one key, and what it found there.

    `found` is False for nothing, True for something, None if the answer does not tell,
    else the value. `did` is "put" for a whole value, "affix" for a piece of text,
    "step" for a number that is added, "drop", or None. `value` is what was put, affixed
    or added. `sure` tells whether that was in effect when the call ended, or is None if
    the answer does not tell.
    """

    key: str
    found: Any = None
    did: str | None = None
    value: Any = None
    sure: bool | None = None


class Call(NamedTuple):
    """One call of one thread.

    `who` is the thread. `number` is the generation that the call returned, and `latest`
    is the latest generation of its process before it began. `wipes` is true if the call
    invalidates the namespace or kills the server. `since` is when the `gets` ended
    whose token a `cas` used. If there is an `error`, the call may have taken effect or
    not.
    """

    begin: int
    end: int
    who: str
    command: str
    parts: tuple[Part, ...] = ()
    number: int | None = None
    wipes: bool = False
    latest: int = 0
    since: int | None = None
    error: str = ""

    def __str__(self) -> str:
        words = [f"{self.begin}-{self.end} {self.who} {self.command}"]
        for part in self.parts:
            words.append(part.key)
            if part.did:
                words.append(f"{part.did} {part.value!r} ({part.sure})")
            if part.found is not None:
                words.append(f"found {part.found!r}")
        if self.number is not None:
            words.append(f"generation {self.number}")
        return " ".join([*words, *([self.error] if self.error else [])])


class Violation(NamedTuple):
    """A rule, and the calls that break it, the one at fault first."""

    rule: str
    calls: tuple[Call, ...]

    def __str__(self) -> str:
        return "\n    ".join([f"{self.rule}:", *map(str, self.calls)])


Deed = tuple[Call, Part]

#: Stands for the writer of a value that no call wrote.
UNKNOWN = Call(0, 0, "unknown", "wrote this")

_begin = attrgetter("begin")
_end = attrgetter("end")


def marks(value: object) -> tuple[str, ...]:
    """Return the marks of the writes that made a value."""
    if isinstance(value, str):
        return tuple(piece for piece in value.split(BAR) if piece)
    return (f"#{value // SPAN}",) if isinstance(value, int) else (repr(value),)


def _least_from(calls: list[Call], key: Callable[[Call], int]) -> list[Call]:
    """Return, for each place in a list, the least call from there to the end."""
    least = accumulate(reversed(calls), lambda a, b: min(a, b, key=key))
    return list(least)[::-1]


class _Between:
    """Tells whether any of some calls ran completely between two times."""

    def __init__(self, calls: Iterable[Call]) -> None:
        ordered = sorted(calls, key=_begin)
        self._begins = [call.begin for call in ordered]
        self._first = _least_from(ordered, _end)

    def find(self, after: float, before: float) -> Call | None:
        at = bisect_right(self._begins, after)
        if at < len(self._first) and self._first[at].end < before:
            return self._first[at]
        return None


class _Gaps:
    """The times in which none of some calls ran."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        for begin, end, *_ in sorted(calls, key=_begin):
            if self._ends and begin <= self._ends[-1]:
                self._ends[-1] = max(end, self._ends[-1])
            else:
                self._begins.append(begin)
                self._ends.append(end)

    def of(self, begin: int, end: int) -> int | None:
        """Return the number of the gap that contains this time, or None."""
        at = bisect_left(self._ends, begin)
        if at < len(self._begins) and self._begins[at] <= end:
            return None
        return at


class Sight(NamedTuple):
    """A read that found what another call wrote, identified by key and mark."""

    read: Call
    found: Any
    mark: tuple[str, str]
    write: Call
    written: Part


class History:
    """What several processes did. `tally` counts it while it is checked.

    After a restart, a thread may find a broken connection in so many calls as `broken`
    says. With `several` servers, it does not use each of them at once.
    """

    def __init__(
        self, calls: Iterable[Call], broken: int = 1, *, several: bool = False
    ) -> None:
        self._broken = broken
        self._several = several
        self.calls = sorted(calls, key=_begin)
        self.tally: Counter[str] = Counter(calls=len(self.calls))
        self._wipes = [call for call in self.calls if call.wipes]
        self._wiped = _Between(call for call in self._wipes if not call.error)
        self._wipe_begins = [call.begin for call in self._wipes]
        self._wipe_ends = list(accumulate((call.end for call in self._wipes), max))
        self._lives = _Gaps(call for call in self.calls if call.command == KILL)
        self._generations = _Gaps(
            call for call in self.calls if call.wipes or call.command == KILL
        )
        self._calm = _Gaps(call for call in self._wipes if call.command == SETTLING)
        self._cut_off = self._find_cut_off()

        self._deeds: dict[str, list[Deed]] = defaultdict(list)
        #: By key and mark: the write, and when it was settled.
        self._origin: dict[tuple[str, str], Deed] = {}
        self._settled: dict[tuple[str, str], float] = defaultdict(lambda: inf)
        for call in self.calls:
            for part in call.parts:
                self._deeds[part.key].append((call, part))
                if part.did in ("put", "affix"):
                    mark = part.key, marks(part.value)[0]
                    self._origin[mark] = call, part
                    self._settled[mark] = call.end
        self._sights = {key: list(self._see(key)) for key in self._deeds}
        for sight in chain(*self._sights.values()):
            if not self._shadowed(sight.write, sight.read):
                settled = self._settled[sight.mark]
                self._settled[sight.mark] = min(settled, sight.read.end)

    def violations(self) -> list[Violation]:
        """Compare the history with every rule."""
        self._count()
        found = [*self._numbered(), *self._mixed()]
        for key, deeds in self._deeds.items():
            found += self._foreign(key)
            found += self._refused(key)
            found += self._outlived(key, deeds)
            found += self._lost(deeds)
            found += self._counted(key, deeds)
            found += self._stale_token(deeds)
        return found

    # Helpers for the rules.

    def _shadowed(self, write: Call, read: Call) -> bool:
        at = bisect_left(self._wipe_begins, write.end)
        return at > 0 and self._wipe_ends[at - 1] > read.begin

    def _is_calm(self, call: Call) -> bool:
        """Tell whether no counter was lost so recently that numbers may fall."""
        return self._calm.of(call.begin, call.end) is not None

    def _saw(self, call: Call, part: Part) -> bool:
        """Tell whether the call found a value.

        A token from before a restart does not count. The server counts its tokens from
        the beginning again, so the token may fit another value. With several servers,
        the same is true of a token from before an invalidation: the key may have moved
        to another server, which counts its tokens by itself.
        """
        lives = self._generations if self._several else self._lives
        former = call.since and lives.of(call.since, call.end) is None
        return not isinstance(part.found, bool | None) and not former

    def _missed(self, call: Call, part: Part) -> bool:
        """Tell whether the call read the key and found nothing."""
        return part.found is False and (call.who, call.begin) not in self._cut_off

    def _find_cut_off(self) -> set[tuple[str, int]]:
        """Find the calls whose connection a restart may have broken.

        These are the calls for which the server restarted after the thread's previous
        call began and before this call ended (or the call before that, and so on: see
        `broken`). Their misses do not count, because pylibmc answers "nothing" when it
        finds its connection broken.
        """
        last: dict[str, deque[int]] = defaultdict(lambda: deque(maxlen=self._broken))
        cut_off = set()
        for call in self.calls:
            begins = last[call.who]
            first = begins[0] if begins else call.begin
            if self._lives.of(first, call.end) is None:
                cut_off.add((call.who, call.begin))
            # With several servers, a call without keys does not use the client.
            if call.parts or not self._several:
                begins.append(call.begin)
        return cut_off

    def _see(self, key: str) -> Iterator[Sight]:
        for call, part in self._deeds[key]:
            if self._saw(call, part):
                for mark in marks(part.found):
                    write, written = self._origin.get((key, mark), (UNKNOWN, part))
                    yield Sight(call, part.found, (key, mark), write, written)

    def _count(self) -> None:
        for call in self.calls:
            self.tally["invalidations"] += call.wipes and call.command not in DISASTERS
            self.tally["evictions"] += call.command == EVICT
            self.tally["errors"] += bool(call.error)
            writes = not call.wipes and any(part.did for part in call.parts)
            across = writes and self._shadowed(call, call)
            self.tally["writes across an invalidation"] += across
            for part in call.parts:
                is_read = part.did is None and part.found is not None
                self.tally["hits"] += is_read and part.found is not False
                self.tally["misses"] += is_read and part.found is False
                self.tally["writes"] += part.sure is True

    # The rules.

    def _foreign(self, key: str) -> Iterator[Violation]:
        """A value that is read was written under this key, before, and is there once.

        A value from another namespace, or without a writer, counts as written by
        UNKNOWN.
        """
        for read, found, (_, mark), write, _ in self._sights[key]:
            seen = marks(found)
            if write is UNKNOWN or write.begin > read.end or seen.count(mark) > 1:
                yield Violation("foreign", (read, write))

    def _refused(self, key: str) -> Iterator[Violation]:
        """A value is not read if its write answered that it stored nothing.

        The exception is that the write is shadowed.
        """
        for read, _, _, write, written in self._sights[key]:
            if written.sure is False and not self._shadowed(write, read):
                yield Violation("refused", (read, write))

    def _outlived(self, key: str, deeds: list[Deed]) -> Iterator[Violation]:
        """A value that was settled is not read again once it is dead, old or gone.

        dead: the namespace was invalidated, or the server restarted.
        old: the key was stored anew or deleted, and the answer confirmed it.
        gone: a call read the key and missed it.

        Each of these began after the value was settled, and ended before the read. So
        the value is in an older generation or was removed, and no write can restore it.
        """
        replaced = (c for c, part in deeds if part.sure and part.did in ("put", "drop"))
        missed = (call for call, part in deeds if self._missed(call, part))
        ends = {
            "dead": self._wiped,
            "old": _Between(replaced),
            "gone": _Between(missed),
        }
        for read, _, mark, write, _ in self._sights[key]:
            for rule, ended in ends.items():
                if end := ended.find(self._settled[mark], read.begin):
                    yield Violation(rule, (read, write, end))

    def _lost(self, deeds: list[Deed]) -> Iterator[Violation]:
        """A value that was stored, or read, by a call that has ended is found later.

        The exception is that something can have removed it: a deletion of the key, an
        invalidation or a restart ran at any time between the beginning of the first
        call and the end of the second. So two calls of `add` never both succeed.
        """
        drops = [call for call, part in deeds if part.did == "drop"]
        gaps = _Gaps(self._wipes + drops)
        there: dict[int, Call] = {}  # by gap, the call that ended first
        for call, part in deeds:
            if part.sure or part.found not in (None, False):
                gap = gaps.of(call.begin, call.end)  # None for a deletion itself
                if gap is not None:
                    there[gap] = min(call, there.get(gap, call), key=_end)
        for call, part in deeds:
            gap = gaps.of(call.begin, call.end)
            if gap in there and there[gap].end < call.begin:
                self.tally["hits that had to be"] += part.found not in (None, False)
                if self._missed(call, part):
                    yield Violation("lost", (call, there[gap]))

    def _mixed(self) -> Iterator[Violation]:
        """No answer has values of two generations.

        The rule is broken if one value was settled before an invalidation began, and
        the writer of the other had read that invalidation's number before it began. It
        is not enough that the writer began after the invalidation: it may have been
        late, see 3 above.
        """
        numbered = [
            call
            for call in self._wipes
            if call.number is not None and self._is_calm(call)
        ]
        begins = [call.begin for call in numbered]
        lowest = _least_from(numbered, attrgetter("number"))
        answers: dict[Call, list[Sight]] = defaultdict(list)
        for sight in chain(*self._sights.values()):
            answers[sight.read].append(sight)
        for read, sights in answers.items():
            self.tally["answers with several values"] += len(sights) > 1
            oldest = min(sights, key=lambda sight: self._settled[sight.mark])
            newest = max((sight.write for sight in sights), key=attrgetter("latest"))
            at = bisect_right(begins, self._settled[oldest.mark])
            if at < len(lowest) and lowest[at].number <= newest.latest:
                yield Violation("mixed", (read, oldest.write, newest, lowest[at]))

    def _counted(self, key: str, deeds: list[Deed]) -> Iterator[Violation]:
        """A number is the stored one plus the steps that were added to it.

        All steps that had ended are in it. A step may be in it if it had not ended, if
        it failed, or if it is shadowed. No other step is in it.
        """
        steps = [deed for deed in deeds if deed[1].did == "step"]
        begins = [call.begin for call, _ in steps]
        longest = max((call.end - call.begin for call, _ in steps), default=0)
        for read, found, (_, mark), write, _ in self._sights[key]:
            if not isinstance(found, int):
                continue
            low = high = found % SPAN - SPAN // 2  # the sum that the steps must have
            first = bisect_left(begins, write.begin - longest)
            for step, stepped in steps[first : bisect_left(begins, read.end)]:
                if step is read or step.end < write.begin:
                    continue
                ours = stepped.sure and mark in marks(stepped.found)
                if ours and step.end < read.begin and write.end < step.begin:
                    low -= stepped.value
                    high -= stepped.value
                elif ours or stepped.sure is None or self._shadowed(step, read):
                    low -= max(stepped.value, 0)
                    high -= min(stepped.value, 0)
            self.tally["counters read"] += 1
            if not low <= 0 <= high:
                yield Violation("counted", (read, write))

    def _stale_token(self, deeds: list[Deed]) -> Iterator[Violation]:
        """`cas` succeeds only if no call changed or wiped the key since its `gets`."""
        changed = _Between(call for call, part in deeds if part.sure)
        for call, part in deeds:
            if call.since is not None and part.sure and self._saw(call, part):
                self.tally["tokens taken"] += 1
                for ended in (self._wiped, changed):
                    if end := ended.find(call.since, call.begin):
                        yield Violation("stale token", (call, end))

    def _numbered(self) -> Iterator[Violation]:
        """No two invalidations return the same number, and numbers never fall.

        A number is never below one that an earlier call returned. The number of an
        invalidation is above it.
        """
        ended = sorted((call for call in self.calls if call.number), key=_end)
        givers: dict[int, Call] = {}
        highest: Call | None = None
        at = 0
        for call in self.calls:
            while at < len(ended) and ended[at].end < call.begin:
                if highest is None or ended[at].number > highest.number:
                    highest = ended[at]
                at += 1
            if highest and call.latest < highest.number:
                kind = "writes" if any(part.did for part in call.parts) else "reads"
                self.tally[f"{kind} under an old number"] += not call.wipes
                self.tally["calls of newcomers"] += not call.latest
            if call.number is None:
                continue
            falls = highest and call.number < highest.number + call.wipes
            if falls and self._is_calm(call):
                yield Violation("numbered", (call, highest))
            if call.wipes:
                if call.number in givers:
                    yield Violation("numbered", (call, givers[call.number]))
                givers[call.number] = call
