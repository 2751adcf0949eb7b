"""The recorder: does verbs on a namespaced cache, and writes down what came of them.

It knows every verb of Django's cache and of the two clients, how to call it, and what
its answer tells; `history.py` needs to know no verb at all.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.support.history import BAR, SPAN, Call, Part

#: Few, so that everybody meets on them.
TEXTS = [f"text{n}" for n in range(6)]
NUMBERS = ["number0", "number1"]
KEYS = TEXTS + NUMBERS

#: How often a thread does what, in parts of a hundred.
ROLES = {
    "writer": {"reads": 30, "writes": 60, "tokens": 10},
    "reader": {"reads": 100},
    "invalidator": {"reads": 30, "writes": 20, "tokens": 10, "wipes": 30, "looks": 10},
}

# What the answer of a verb tells.
VALUE = "the value, None for nothing"
THERE = "something was there, False for nothing"
NOT_THERE = "nothing was there, False for something"
DONE = "that it is done"

#: Verbs on one key: what they do (see `Part`), and what the answer tells.
_ON_ONE = {
    "get": (None, VALUE),
    "touch": (None, THERE),
    "__contains__": (None, THERE),
    "set": ("put", DONE),
    "add": ("put", NOT_THERE),
    "delete": ("drop", THERE),
    "incr": ("step", VALUE),
    "decr": ("step", VALUE),
}
_ON_ONE_RAW = {
    "gets": (None, VALUE),
    "replace": ("put", THERE),
    "append": ("affix", THERE),
    "prepend": ("affix", THERE),
    "__getitem__": (None, VALUE),
    "__setitem__": ("put", DONE),
    "__delitem__": ("drop", THERE),
}
RAW = "raw "
ON_ONE = {
    "has_key": (None, THERE),
    **_ON_ONE,
    **{RAW + name: verb for name, verb in (_ON_ONE | _ON_ONE_RAW).items()},
}
GET_MANY = ["get_many", "raw get_many", "raw get_multi"]
GETS_MANY = ["raw gets_many", "raw gets_multi"]
SET_MANY = ["set_many", "raw set_many", "raw set_multi", "raw add_multi"]
DELETE_MANY = ["delete_many", "raw delete_many", "raw delete_multi"]
WIPES = ["invalidate_namespace", "clear", "raw flush_all"]

#: Where the clients say by an exception that there is nothing.
NOTHING = ("KeyError", "NotFound", "ValueError")
#: How the error of a call begins if its answer has the wrong shape.
MISREAD = "Misread"
MAY_RAISE_NOTHING = ("incr", "decr", "incr_multi", "cas", "__getitem__", "__delitem__")


class Hand:
    """One thread's hand on the cache: it does verbs and writes down what came of them.

    The name of a verb is Django's own, or that of the client's after "raw". One that
    the client does not have is left out.
    """

    def __init__(self, cache: Any, role: str, who: str, number: int) -> None:
        self.cache = cache
        self.client = cache._cache
        self.calls: list[Call] = []
        self._counter = self.client.counter
        self._who = who
        self._number = number
        self._dice = random.Random(who)
        self._written = 0
        #: What `gets` found, by key: the value, the token, and when.
        self._tokens: dict[str, tuple[Any, Any, int]] = {}
        self.verbs = self._verbs()
        self._kinds, self._weights = zip(*ROLES[role].items(), strict=True)

    def _verbs(self) -> dict[str, dict[str, Callable[[], None]]]:
        """Find what there is to be done, by kind and name."""
        shapes = [
            ("reads", self._get_many, GET_MANY + GETS_MANY),
            ("writes", self._set_many, SET_MANY),
            ("writes", self._delete_many, DELETE_MANY),
            ("writes", self._incr_many, ["raw incr_multi"]),
            ("writes", self._get_or_set, ["get_or_set"]),
            ("tokens", self._cas, ["raw cas"]),
            ("wipes", self._wipe, WIPES),
            ("looks", self._look, ["generation"]),
        ]
        for name, (did, _) in ON_ONE.items():
            shapes.append(("writes" if did else "reads", self._one, [name]))
        real = self.client.wrapped
        verbs: dict[str, dict[str, Callable[[], None]]] = defaultdict(dict)
        for kind, do, names in shapes:
            for name in names:
                if not name.startswith(RAW) or hasattr(real, name.removeprefix(RAW)):
                    verbs[kind][name] = partial(do, name)
        return verbs

    def do(self) -> Call:
        """Do one verb, any of those that the role has, on any key."""
        if self._dice.random() < 0.05:
            time.sleep(self._dice.random() / 500)  # and hear of nothing meanwhile
        (kind,) = self._dice.choices(self._kinds, self._weights)
        self._dice.choice(list(self.verbs[kind].values()))()
        return self.calls[-1]

    # The shapes of verbs.

    def _one(self, name: str) -> None:
        did, tells = ON_ONE[name]
        keys = {"affix": TEXTS, "step": NUMBERS}.get(did or "", KEYS)
        key = self._dice.choice(keys)
        value: Any = None
        arguments: tuple[Any, ...] = ()
        if did == "step":
            arguments = (self._step(),)
            value = -arguments[0] if "decr" in name else arguments[0]
        elif did in ("put", "affix"):
            value = self._new(key)
            arguments = (value,)
            if did == "affix":
                arguments = (value + BAR if "prepend" in name else BAR + value,)
            elif not name.startswith(RAW):
                arguments = (value, None)  # no timeout
        elif "touch" in name:
            arguments = (3600,)
        plan = Part(key, did=did, value=value)

        def told(answer: Any) -> list[Part]:
            return [_told(plan, tells, answer[0] if "gets" in name else answer)]

        self._done(name, (self._key(name, key), *arguments), [plan], told)

    def _get_many(self, name: str) -> None:
        keys = self._some(name, 8)

        def found(answer: dict[str, Any]) -> list[Part]:
            if "gets" in name:
                answer = {key: value for key, (value, _) in answer.items()}
            return [Part(ours, answer.get(key, False)) for key, ours in keys.items()]

        self._done(name, (list(keys),), [], found)

    def _set_many(self, name: str) -> None:
        plan = {
            key: Part(ours, did="put", value=self._new(ours))
            for key, ours in self._some(name, 3).items()
        }

        def stored(failed: list[str]) -> list[Part]:
            if "add" in name:
                return [
                    part._replace(found=key in failed, sure=key not in failed)
                    for key, part in plan.items()
                ]
            return [
                part._replace(sure=None if key in failed else True)
                for key, part in plan.items()
            ]

        values = {key: part.value for key, part in plan.items()}
        self._done(name, (values,), [*plan.values()], stored)

    def _delete_many(self, name: str) -> None:
        keys = self._some(name, 2)
        plan = [Part(ours, did="drop") for ours in keys.values()]
        done = [part._replace(sure=True) for part in plan]
        self._done(name, (list(keys),), plan, lambda _: done)

    def _incr_many(self, name: str) -> None:
        by = self._step()
        plan = [Part(key, did="step", value=by) for key in NUMBERS]
        keys = [self._key(name, key) for key in NUMBERS]
        # It answers nothing, and "not found" if one was not.
        self._done(name, (keys, "", by), plan, lambda _: plan)

    def _get_or_set(self, name: str) -> None:
        key = self._dice.choice(KEYS)
        plan = Part(key, did="put", value=self._new(key))

        def found(answer: Any) -> list[Part]:
            # It answers its own value also where that did not last.
            return [plan._replace(found=False if answer == plan.value else answer)]

        self._done(name, (key, plan.value, None), [plan], found)

    def _cas(self, verb: str) -> None:
        """Take a token, and use it at once or some time later."""
        key = self._dice.choice(KEYS)
        name = self._key(RAW, key)
        if key not in self._tokens:
            answer = self._done(
                "raw gets",
                (name,),
                [],
                lambda found: [_told(Part(key), VALUE, found[0])],
            )
            if not answer or answer[1] is None:
                return
            self._tokens[key] = (*answer, self.calls[-1].end)
            if self._dice.random() < 0.5:
                return
        seen, token, since = self._tokens.pop(key)
        plan = Part(key, did="put", value=self._new(key))

        def swapped(yes: Any) -> list[Part]:
            return [plan._replace(found=seen if yes else None, sure=bool(yes))]

        self._done(verb, (name, plan.value, token), [plan], swapped, since=since)

    def _wipe(self, name: str) -> None:
        number = self._done(name, (), [], lambda _: [], wipes=True)
        if name == "invalidate_namespace":
            self.calls[-1] = self.calls[-1]._replace(number=number)

    def _look(self, name: str) -> None:
        number = self._done(name, (), [], lambda _: [])
        self.calls[-1] = self.calls[-1]._replace(number=number)

    # What they share.

    def _done(
        self,
        name: str,
        arguments: tuple[Any, ...],
        plan: list[Part],
        told: Callable[[Any], list[Part]],
        **more: Any,
    ) -> Any:
        """Do it and write down what the answer tells, or the plan if there is none."""
        verb = name.removeprefix(RAW)
        target = self.cache if verb == name else self.client
        knew = self._counter.latest
        answer, error = None, ""
        begin = time.monotonic_ns()
        try:
            member = getattr(target, verb)
            answer = member(*arguments) if callable(member) else member
        except Exception as raised:  # noqa: BLE001  # what is raised is written down
            kind = type(raised).__name__
            if verb not in MAY_RAISE_NOTHING or kind not in NOTHING:
                error = f"{kind}: {raised}"
            elif verb == "__delitem__":
                answer = False
        end = time.monotonic_ns()
        try:
            parts = tuple(plan if error else told(answer))
        except (AttributeError, IndexError, TypeError, ValueError):
            # Such an answer may be the reply to another command.
            parts, error, answer = tuple(plan), f"{MISREAD}: {answer!r}", None
        self.calls.append(
            Call(begin, end, self._who, name, parts, knew=knew, error=error, **more)
        )
        return answer

    def _key(self, name: str, key: str) -> str:
        return self.cache.make_key(key) if name.startswith(RAW) else key

    def _some(self, name: str, most: int) -> dict[str, str]:
        """Choose some keys: as the verb takes them, and as we call them."""
        chosen = self._dice.sample(KEYS, self._dice.randint(1, most))
        return {self._key(name, key): key for key in chosen}

    def _step(self) -> int:
        return self._dice.randint(1, 9)

    def _new(self, key: str) -> Any:
        """Make a value that nobody else has."""
        self._written += 1
        if key in NUMBERS:
            return (self._number * 10**8 + self._written) * SPAN + SPAN // 2
        return f"{self._who}-{self._written}"


def _told(plan: Part, tells: str, answer: Any) -> Part:
    """Complete the part of a verb on one key by what it answered."""
    if tells == DONE:
        return plan._replace(sure=None if answer is False else True)
    if plan.did == "step":
        if answer is None:
            return plan._replace(found=False, sure=False)
        return plan._replace(found=answer - plan.value, sure=True)
    if tells == VALUE:
        return plan._replace(found=False if answer is None else answer)
    yes = answer is not False
    sure = {"put": yes, "affix": yes, "drop": True}.get(plan.did or "")
    return plan._replace(found=yes is (tells == THERE), sure=sure)
