"""Identity: the name of this run, and of this worker within it.

A run is named as early as possible, so that every process that is started later
inherits the name. Names are looked up once in each epoch of a process, and a fork
begins one: backends are built before test workers fork, and a worker that kept its
parent's name would share its parent's namespace.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from functools import cache

from django.core.exceptions import ImproperlyConfigured

from namespaced_cache.forks import renew_in_child

#: The environment variable that carries the name of a run to its child processes.
RUN_VARIABLE = "NAMESPACED_CACHE_RUN"

#: The environment variable that carries the name of a worker to what it starts.
WORKER_VARIABLE = "NAMESPACED_CACHE_WORKER"

#: pytest-xdist's documented variable; "gw0", "gw1", … in its workers.
XDIST_VARIABLE = "PYTEST_XDIST_WORKER"

#: The name of a run that this process begins. Made once, so that two threads that need
#: it at the same time, and children that fork before, agree on it.
_OWN_RUN = f"run-{secrets.token_hex(8)}"

#: Such a name, and a worker's after it.
_RUN = re.compile(r"run-[0-9a-f]{16}(?:\.|$)")

NAME_RULE = "1 to 32 letters, digits, '_' and '-'"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


def is_name(name: object) -> bool:
    """Tell whether this may be the name of a namespace, a run or a worker."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def run() -> str:
    """Return the name of this run: the inherited one, or a new one for its children.

    The name is random, not made of a process id or of the time, so that two runs on
    one server never share one. Raises ImproperlyConfigured if the variable does not
    hold a name.
    """
    if not os.environ.get(RUN_VARIABLE):
        os.environ[RUN_VARIABLE] = _OWN_RUN
    return _checked(RUN_VARIABLE, os.environ[RUN_VARIABLE])


def is_run(namespace: str) -> bool:
    """Tell whether this is the namespace of a run without NAMESPACE, or its worker."""
    return _RUN.match(namespace) is not None


def is_named_here() -> bool:
    """Tell whether this process itself began its run, so that no other knows it."""
    return run() == _OWN_RUN


def worker() -> str:
    """Return the name of this test worker, or "" in a process that is none.

    pytest-xdist names its workers by an environment variable. Django's parallel runner
    numbers its own in a global of `django.test.runner`, 0 where there is no worker; it
    is only read if something else has imported that module. A process that a worker
    starts inherits its name; a worker of another worker adds its own.

    Raises ImproperlyConfigured if a variable holds no name.
    """
    inherited = _name_in(WORKER_VARIABLE)
    number = _number()
    own = (_name_in(XDIST_VARIABLE), f"w{number}" if number else "")
    # Its own name may be among those that it has left to what it starts.
    known = {"", *inherited.split("-")}
    names = [inherited, *(name for name in own if name not in known)]
    return "-".join(filter(None, names))


def name_children() -> None:
    """Let the processes that this worker starts inherit its name."""
    if name := worker():
        os.environ[WORKER_VARIABLE] = name


@cache
def resolve(name: str | None) -> str:
    """Return the namespace that `name` (None: one for each run) means in this process.

    The worker follows after a dot, which no name contains, so that worker w1 of "shop"
    never shares a namespace with a project that is named "shop-w1". Once in each
    epoch, because a test may clear the environment.
    """
    name = run() if name is None else name
    worker_name = worker()
    return f"{name}.{worker_name}" if worker_name else name


#: Stands for the time in which a process keeps its names: a new object for each. A fork
#: ends it, because the child may be another worker.
epoch = object()


def begin_epoch() -> None:
    """Look names up again."""
    global epoch
    resolve.cache_clear()
    epoch = object()


renew_in_child(begin_epoch)


def _number() -> int:
    """Return the number that Django's parallel runner gave this process, or 0."""
    number: int = getattr(sys.modules.get("django.test.runner"), "_worker_id", 0)
    return number


def _name_in(variable: str) -> str:
    name = os.environ.get(variable, "")
    return name and _checked(variable, name)


def _checked(variable: str, name: str) -> str:
    if not is_name(name):
        raise ImproperlyConfigured(
            f"The environment variable {variable} is {name!r}: it takes {NAME_RULE}."
        )
    return name
