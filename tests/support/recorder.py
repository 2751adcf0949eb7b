"""The recorder: carries out commands on a namespaced cache and records the answers.

It has every method of Django's cache and every command of the two clients. It knows how
to call each of them and what the answer tells. `history.py` does not need to know any
of them.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.support.history import BAR, SPAN, Call, Part

#: Few keys, so that the threads use the same ones.
TEXTS = [f"text{n}" for n in range(6)]
NUMBERS = ["number0", "number1"]
KEYS = TEXTS + NUMBERS

#: How often a thread of each role does what, in percent.
ROLES = {
    "writer": {"reads": 30, "writes": 60, "tokens": 10},
    "reader": {"reads": 100},
    "invalidator": {
        "reads": 30,
        "writes": 20,
        "tokens": 10,
        "wipes": 30,
        "generations": 10,
    },
}

# What an answer tells.
VALUE = "the value, None for nothing"
THERE = "something was there, False for nothing"
NOT_THERE = "nothing was there, False for something"
DONE = "that it is done"

#: Commands on one key: what they do (see `Part`), and what the answer tells.
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
    **{RAW + name: command for name, command in (_ON_ONE | _ON_ONE_RAW).items()},
}
GET_MANY = ["get_many", "raw get_many", "raw get_multi"]
GETS_MANY = ["raw gets_many", "raw gets_multi"]
SET_MANY = ["set_many", "raw set_many", "raw set_multi", "raw add_multi"]
DELETE_MANY = ["delete_many", "raw delete_many", "raw delete_multi"]
WIPES = ["invalidate_namespace", "clear", "raw flush_all"]

#: Exceptions by which clients say that there is nothing.
NOTHING = ("KeyError", "NotFound", "ValueError")
#: How the error of a call begins if its answer has the wrong shape.
MISREAD = "Misread"
MAY_RAISE_NOTHING = ("incr", "decr", "incr_multi", "cas", "__getitem__", "__delitem__")


class Hand:
    """Carries out commands for one thread, and records what they did.

    The name of a command is that of a method of Django's, or "raw " and the name of a
    client's command. Commands that the client does not have are left out.
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
        #: What `gets` found, by key: the value, the token, and the time.
        self._tokens: dict[str, tuple[Any, Any, int]] = {}
        self.commands = self._commands()
        self._kinds, self._weights = zip(*ROLES[role].items(), strict=True)

    def _commands(self) -> dict[str, dict[str, Callable[[], None]]]:
        """Return the commands by kind and name."""
        shapes = [
            ("reads", self._get_many, GET_MANY + GETS_MANY),
            ("writes", self._set_many, SET_MANY),
            ("writes", self._delete_many, DELETE_MANY),
            ("writes", self._incr_many, ["raw incr_multi"]),
            ("writes", self._get_or_set, ["get_or_set"]),
            ("tokens", self._cas, ["raw cas"]),
            ("wipes", self._wipe, WIPES),
            ("generations", self._read_generation, ["generation"]),
        ]
        for name, (did, _) in ON_ONE.items():
            shapes.append(("writes" if did else "reads", self._one, [name]))
        real = self.client.wrapped
        commands: dict[str, dict[str, Callable[[], None]]] = defaultdict(dict)
        for kind, do, names in shapes:
            for name in names:
                if not name.startswith(RAW) or hasattr(real, name.removeprefix(RAW)):
                    commands[kind][name] = partial(do, name)
        return commands

    def do(self) -> Call:
        """Carry out one command of the role, on a random key."""
        if self._dice.random() < 0.05:
            time.sleep(self._dice.random() / 500)  # so that other processes get ahead
        (kind,) = self._dice.choices(self._kinds, self._weights)
        self._dice.choice(list(self.commands[kind].values()))()
        return self.calls[-1]

    # The shapes of commands.

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
        # It returns nothing, or raises "not found" if one key was missing.
        self._done(name, (keys, "", by), plan, lambda _: plan)

    def _get_or_set(self, name: str) -> None:
        key = self._dice.choice(KEYS)
        plan = Part(key, did="put", value=self._new(key))

        def found(answer: Any) -> list[Part]:
            # It returns its own value even if that value did not last.
            return [plan._replace(found=False if answer == plan.value else answer)]

        self._done(name, (key, plan.value, None), [plan], found)

    def _cas(self, command: str) -> None:
        """Get a token, and use it at once or some time later."""
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

        self._done(command, (name, plan.value, token), [plan], swapped, since=since)

    def _wipe(self, name: str) -> None:
        number = self._done(name, (), [], lambda _: [], wipes=True)
        if name == "invalidate_namespace":
            self.calls[-1] = self.calls[-1]._replace(number=number)

    def _read_generation(self, name: str) -> None:
        number = self._done(name, (), [], lambda _: [])
        self.calls[-1] = self.calls[-1]._replace(number=number)

    # Helpers.

    def _done(
        self,
        name: str,
        arguments: tuple[Any, ...],
        plan: list[Part],
        told: Callable[[Any], list[Part]],
        **more: Any,
    ) -> Any:
        """Call the command, and record its answer, or the plan if it failed."""
        command = name.removeprefix(RAW)
        target = self.cache if command == name else self.client
        latest = self._counter.latest
        answer, error = None, ""
        begin = time.monotonic_ns()
        try:
            member = getattr(target, command)
            answer = member(*arguments) if callable(member) else member
        except Exception as raised:  # noqa: BLE001  # the error is recorded
            kind = type(raised).__name__
            if command not in MAY_RAISE_NOTHING or kind not in NOTHING:
                error = f"{kind}: {raised}"
            elif command == "__delitem__":
                answer = False
        end = time.monotonic_ns()
        try:
            parts = tuple(plan if error else told(answer))
        except (AttributeError, IndexError, TypeError, ValueError):
            # Such an answer may be the reply to another command.
            parts, error, answer = tuple(plan), f"{MISREAD}: {answer!r}", None
        self.calls.append(
            Call(begin, end, self._who, name, parts, latest=latest, error=error, **more)
        )
        return answer

    def _key(self, name: str, key: str) -> str:
        return self.cache.make_key(key) if name.startswith(RAW) else key

    def _some(self, name: str, most: int) -> dict[str, str]:
        """Choose some keys: as the command takes them, and as KEYS has them."""
        chosen = self._dice.sample(KEYS, self._dice.randint(1, most))
        return {self._key(name, key): key for key in chosen}

    def _step(self) -> int:
        return self._dice.randint(1, 9)

    def _new(self, key: str) -> Any:
        """Make a value that no other call has."""
        self._written += 1
        if key in NUMBERS:
            return (self._number * 10**8 + self._written) * SPAN + SPAN // 2
        return f"{self._who}-{self._written}"


def _told(plan: Part, tells: str, answer: Any) -> Part:
    """Complete the part of a command on one key with its answer."""
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
