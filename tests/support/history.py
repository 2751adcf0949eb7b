"""Histories: what processes did to one namespace, and whether that can have been.

A history is a list of calls, each with the moments between which it ran, on a clock
that all processes share. `History(calls).violations()` holds it against the contract. A
rule may use only what can be known from outside: that one call had ended before another
began. Calls that overlap may have taken effect in either order.

What the rules stand on:

1. A counter says which generation is alive, and only rises.
2. A write takes effect in the generation that the counter showed at a moment of the
   write. It may have done the same before in older ones, because its process knew an
   old number at first.
3. A read answers from the generation that the counter showed at a moment after the read
   began. It may look at the data a little later, when that generation is dead, and a
   late writer may have put something there meanwhile, as said in 2.

So what a read shows of a write need not last if an invalidation began before the write
ended, and ended after the read began. Then, and only then, the write is *shadowed* from
the read. A value is *settled* as soon as nothing can put it anywhere any more: its
write has ended, or a read has ended that saw it, and that it was not shadowed from.

The rules are the methods below "The rules". Memory is ample, so nothing is evicted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, chain
from math import inf
from operator import attrgetter
from typing import Any, NamedTuple

#: A number that is put is in the middle of a span of its own; steps do not leave it.
SPAN = 10**6

#: Between the pieces of a text: what was put, and what was appended or prepended to it.
BAR = "|"

KILL = "kill"

#: The counter was deleted, and nothing else.
EVICT = "evict"

#: The time from an eviction until every thread has seen the new counter. Meanwhile, a
#: process that knows an old number may start a counter below the latest one, and
#: another process repairs it. So numbers may fall, and a repair is an invalidation.
SETTLING = "settling"

#: What is done to a server, and not by a thread of the traffic.
DISASTERS = KILL, EVICT, SETTLING


class Part(NamedTuple):
    """What a call did to one key, and what it found there when it did.

    `found` is False for nothing, True for something, None where the answer does not
    tell, else the value. `did` is "put" for a whole value, "affix" for a piece of text,
    "step" for a number added, "drop", or None; `value` is what was put, affixed or
    added. `sure` is whether that lasted as the call ended; None where that is not told.
    """

    key: str
    found: Any = None
    did: str | None = None
    value: Any = None
    sure: bool | None = None


class Call(NamedTuple):
    """One call of one thread: `who`.

    `number` is the generation that it answered, and `knew` the newest one that its
    process knew before it began. `wipes` where it forgets the whole namespace. `since`
    is when the `gets` had ended whose token a `cas` took. With an `error`, what it did
    may have happened or not.
    """

    begin: int
    end: int
    who: str
    verb: str
    parts: tuple[Part, ...] = ()
    number: int | None = None
    wipes: bool = False
    knew: int = 0
    since: int | None = None
    error: str = ""

    def __str__(self) -> str:
        words = [f"{self.begin}-{self.end} {self.who} {self.verb}"]
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
    """A rule, and the calls that cannot all have happened, the one at fault first."""

    rule: str
    calls: tuple[Call, ...]

    def __str__(self) -> str:
        return "\n    ".join([f"{self.rule}:", *map(str, self.calls)])


Deed = tuple[Call, Part]

#: Who wrote what none of the calls wrote.
NOBODY = Call(0, 0, "nobody", "wrote this")

_begin = attrgetter("begin")
_end = attrgetter("end")


def marks(value: object) -> tuple[str, ...]:
    """Name the writes that made a value."""
    if isinstance(value, str):
        return tuple(piece for piece in value.split(BAR) if piece)
    return (f"#{value // SPAN}",) if isinstance(value, int) else (repr(value),)


def _least_from(calls: list[Call], key: Callable[[Call], int]) -> list[Call]:
    """Say for each place in a list which call from there on is the least."""
    least = accumulate(reversed(calls), lambda a, b: min(a, b, key=key))
    return list(least)[::-1]


class _Between:
    """Answers whether one of some calls ran wholly between two moments."""

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
        """Return the number of the gap that this time lies in, if it is one."""
        at = bisect_left(self._ends, begin)
        if at < len(self._begins) and self._begins[at] <= end:
            return None
        return at


class Sight(NamedTuple):
    """A call that saw what another wrote, named by its key and mark."""

    read: Call
    found: Any
    mark: tuple[str, str]
    write: Call
    written: Part


class History:
    """What several processes did. `tally` says how much of what, once it is checked."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self.calls = sorted(calls, key=_begin)
        self.tally: Counter[str] = Counter(calls=len(self.calls))
        self._wipes = [call for call in self.calls if call.wipes]
        self._wiped = _Between(call for call in self._wipes if not call.error)
        self._wipe_begins = [call.begin for call in self._wipes]
        self._wipe_ends = list(accumulate((call.end for call in self._wipes), max))
        self._lives = _Gaps(call for call in self._wipes if call.verb == KILL)
        self._calm = _Gaps(call for call in self._wipes if call.verb == SETTLING)
        self._cut_off = self._find_cut_off()

        self._deeds: dict[str, list[Deed]] = defaultdict(list)
        #: By key and mark: who wrote it, and when it was settled.
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
        """Hold the history against every rule."""
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

    # What the rules share.

    def _shadowed(self, write: Call, read: Call) -> bool:
        at = bisect_left(self._wipe_begins, write.end)
        return at > 0 and self._wipe_ends[at - 1] > read.begin

    def _is_calm(self, call: Call) -> bool:
        """Tell whether no counter was lost so recently that numbers may fall."""
        return self._calm.of(call.begin, call.end) is not None

    def _saw(self, call: Call, part: Part) -> bool:
        """Tell whether the call saw a value.

        Not by a token of the server's former life, which counts them from the beginning
        again: it may fit on another value.
        """
        former = call.since and self._lives.of(call.since, call.end) is None
        return not isinstance(part.found, bool | None) and not former

    def _missed(self, call: Call, part: Part) -> bool:
        """Tell whether the call looked and found nothing."""
        return part.found is False and (call.who, call.begin) not in self._cut_off

    def _find_cut_off(self) -> set[tuple[str, int]]:
        """Find the calls whose connection a restart may have broken.

        It ran after the same thread's last call began. Their misses do not count:
        pylibmc finds its connection broken, and says "nothing".
        """
        last: dict[str, int] = {}
        cut_off = set()
        for call in self.calls:
            if self._lives.of(last.get(call.who, call.begin), call.end) is None:
                cut_off.add((call.who, call.begin))
            last[call.who] = call.begin
        return cut_off

    def _see(self, key: str) -> Iterator[Sight]:
        for call, part in self._deeds[key]:
            if self._saw(call, part):
                for mark in marks(part.found):
                    write, written = self._origin.get((key, mark), (NOBODY, part))
                    yield Sight(call, part.found, (key, mark), write, written)

    def _count(self) -> None:
        for call in self.calls:
            self.tally["invalidations"] += call.wipes and call.verb not in DISASTERS
            self.tally["evictions"] += call.verb == EVICT
            self.tally["errors"] += bool(call.error)
            writes = not call.wipes and any(part.did for part in call.parts)
            across = writes and self._shadowed(call, call)
            self.tally["writes across an invalidation"] += across
            for part in call.parts:
                looked = part.did is None and part.found is not None
                self.tally["hits"] += looked and part.found is not False
                self.tally["misses"] += looked and part.found is False
                self.tally["writes"] += part.sure is True

    # The rules.

    def _foreign(self, key: str) -> Iterator[Violation]:
        """What is seen was written under this key, before the sight, and is there once.

        What another namespace wrote, or nobody, is by nobody here.
        """
        for read, found, (_, mark), write, _ in self._sights[key]:
            seen = marks(found)
            if write is NOBODY or write.begin > read.end or seen.count(mark) > 1:
                yield Violation("foreign", (read, write))

    def _refused(self, key: str) -> Iterator[Violation]:
        """What was answered to be not stored is not seen, unless it is shadowed."""
        for read, _, _, write, written in self._sights[key]:
            if written.sure is False and not self._shadowed(write, read):
                yield Violation("refused", (read, write))

    def _outlived(self, key: str, deeds: list[Deed]) -> Iterator[Violation]:
        """A value that was settled is not seen again once it was

        dead: the namespace was invalidated, or the server restarted,
        old: the key was put or deleted by somebody who was sure of it,
        gone: somebody looked, and missed it.

        Each of them began after the value was settled, and ended before the sight: the
        value is in an older generation or was removed, and nothing puts it back.
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
        """What was put by a call that has ended, or seen by one, is found later.

        Unless something can have removed it: a deletion of the key, an invalidation or
        a restart ran at any time between the beginning of the one call and the end of
        the other. So no two `add` both succeed.
        """
        drops = [call for call, part in deeds if part.did == "drop"]
        gaps = _Gaps(self._wipes + drops)
        there: dict[int, Call] = {}  # by gap, what ended first
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

        One was settled when an invalidation began, and the other is by a writer who
        knew that invalidation's number before. That the writer began after the
        invalidation would not be enough: he may have been late, see 3 above.
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
            newest = max((sight.write for sight in sights), key=attrgetter("knew"))
            at = bisect_right(begins, self._settled[oldest.mark])
            if at < len(lowest) and lowest[at].number <= newest.knew:
                yield Violation("mixed", (read, oldest.write, newest, lowest[at]))

    def _counted(self, key: str, deeds: list[Deed]) -> Iterator[Violation]:
        """A number shows what was put, and those steps that answered with it.

        All steps that had ended are in it, any of those may be that had not, that
        failed on the way, or that are shadowed, and no others.
        """
        steps = [deed for deed in deeds if deed[1].did == "step"]
        begins = [call.begin for call, _ in steps]
        longest = max((call.end - call.begin for call, _ in steps), default=0)
        for read, found, (_, mark), write, _ in self._sights[key]:
            if not isinstance(found, int):
                continue
            low = high = found % SPAN - SPAN // 2  # what the steps must make
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
        """`cas` succeeds only on what `gets` found: nobody wrote or wiped between."""
        changed = _Between(call for call, part in deeds if part.sure)
        for call, part in deeds:
            if call.since is not None and part.sure and self._saw(call, part):
                self.tally["tokens taken"] += 1
                for ended in (self._wiped, changed):
                    if end := ended.find(call.since, call.begin):
                        yield Violation("stale token", (call, end))

    def _numbered(self) -> Iterator[Violation]:
        """No two invalidations give one number, and none falls.

        A number is never below one that was seen before; that of an invalidation is
        above it.
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
            if highest and call.knew < highest.number:
                kind = "writes" if any(part.did for part in call.parts) else "reads"
                self.tally[f"{kind} under an old number"] += not call.wipes
                self.tally["calls of newcomers"] += not call.knew
            if call.number is None:
                continue
            falls = highest and call.number < highest.number + call.wipes
            if falls and self._is_calm(call):
                yield Violation("numbered", (call, highest))
            if call.wipes:
                if call.number in givers:
                    yield Violation("numbered", (call, givers[call.number]))
                givers[call.number] = call
