"""Identity: the name of this run, and of this worker within it.

A run is named as early as possible, so that every process that is started later
inherits the name. A process looks names up once in each epoch. A fork begins a new
epoch, because backends are built before test workers fork. A worker that kept its
parent's name would share its parent's namespace.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from namespaced_cache.core import places
from namespaced_cache.events import logger
from namespaced_cache.forks import new_lock, renew_in_child

#: The environment variable that passes the name of a run on to child processes.
RUN_VARIABLE = "NAMESPACED_CACHE_RUN"

#: The environment variable that passes the name of a worker on to child processes.
WORKER_VARIABLE = "NAMESPACED_CACHE_WORKER"

#: The environment variable that tells child processes that tests have started them.
TESTS_VARIABLE = "NAMESPACED_CACHE_TESTS"

#: pytest-xdist's documented variable. In its workers it is "gw0", "gw1", …
XDIST_VARIABLE = "PYTEST_XDIST_WORKER"

#: The name of the run, if this process begins it. It is made at import, so that all
#: threads and all forked children agree on it.
_OWN_RUN = f"run-{secrets.token_hex(8)}"

#: The namespace of such a run, with or without a worker.
_RUN = re.compile(r"run-[0-9a-f]{16}(?:\.|$)")

NAME_RULE = "1 to 32 letters, digits, '_' and '-'"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


def is_name(name: object) -> bool:
    """Tell whether this may be the name of a namespace, a run or a worker."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def run() -> str:
    """Return the name of this run: the inherited name, or else a new one.

    A new name is put into the environment, so that children inherit it. It is random,
    not made of a process id or of the time, so that two runs on one server never share
    a name. Raises ImproperlyConfigured if the variable does not hold a valid name.
    """
    if not os.environ.get(RUN_VARIABLE):
        os.environ[RUN_VARIABLE] = _OWN_RUN
        if _looks_like_tests():
            os.environ[TESTS_VARIABLE] = "1"
    return _checked(RUN_VARIABLE, os.environ[RUN_VARIABLE])


def is_run(namespace: str) -> bool:
    """Tell whether this is the namespace of a run (or worker) without NAMESPACE."""
    return _RUN.match(namespace) is not None


def is_named_here() -> bool:
    """Tell whether this process itself began its run."""
    return run() == _OWN_RUN


def begin_tests() -> None:
    """Note that this process, and the processes that it starts, are of a test run."""
    run()
    os.environ[TESTS_VARIABLE] = "1"


def is_test_run() -> bool:
    """Tell whether this process runs tests, or was started by a process that does.

    A name of a run that was set by hand is as good as a NAMESPACE.
    """
    return not is_run(run()) or TESTS_VARIABLE in os.environ or _looks_like_tests()


def _looks_like_tests() -> bool:
    """Tell whether this process runs tests, as far as can be seen.

    pytest is recognized by its modules, unittest by the program's name, and Django's
    test runner by what it saves while the test environment is set up.
    """
    test_utils: Any = sys.modules.get("django.test.utils")
    program = Path(sys.argv[0] if sys.argv else "")
    return (
        "_pytest.config" in sys.modules
        or program.name.endswith("-m unittest")
        or program.parent.name == "unittest"
        or hasattr(getattr(test_utils, "_TestState", None), "saved_data")
        or "test" in sys.argv[1:2]  # manage.py test, while it imports the project
    )


def warn_outside_of_tests(alias: str | None) -> None:
    """Warn once, and never raise, if a process without tests has no NAMESPACE.

    `alias` is the one that is used. It is None if no alias has its settings.
    """
    global _has_warned
    if _has_warned or is_test_run():
        return
    with _lock:
        if _has_warned:
            return
        _has_warned = True
    named = "A NamespacedCache" if alias is None else f"CACHES[{alias!r}]"
    text = (
        f"{named} has no NAMESPACE, and this is not a test run: each process that is "
        f"started separately has a namespace of its own, and does not see the items of "
        f"the others. If this is a site, wrap the aliases in the settings of its tests "
        f"only, or set OPTIONS['NAMESPACE'], for example "
        f'CACHES = namespaced(CACHES, NAMESPACE="site").'
    )
    with suppress(Exception):  # of a handler of the project's
        logger.warning(text)
    places.warn(text)


_has_warned = False
_lock = new_lock()


def worker() -> str:
    """Return the name of this test worker, or "" if this process is not a worker.

    pytest-xdist names its workers in an environment variable. Django's parallel runner
    numbers its workers in a global of `django.test.runner`, which is 0 outside workers.
    It is only read if that module is already imported. A process that a worker starts
    inherits the worker's name. If that process is a worker too, it adds its own name.

    Raises ImproperlyConfigured if a variable does not hold a valid name.
    """
    inherited = _name_in(WORKER_VARIABLE)
    number = _number()
    own = (_name_in(XDIST_VARIABLE), f"w{number}" if number else "")
    # The variable may already contain this worker's own name: see name_children().
    known = {"", *inherited.split("-")}
    names = [inherited, *(name for name in own if name not in known)]
    return "-".join(filter(None, names))


def name_children() -> None:
    """Put this worker's name into the environment, for child processes."""
    if name := worker():
        os.environ[WORKER_VARIABLE] = name


@cache
def resolve(name: str | None) -> str:
    """Return the namespace of `name` (None: the run's name) in this process.

    The worker's name follows after a dot. No name contains a dot, so worker w1 of
    "shop" never shares a namespace with a project that is named "shop-w1". The result
    is cached for the epoch, because a test may clear the environment.
    """
    name = run() if name is None else name
    worker_name = worker()
    return f"{name}.{worker_name}" if worker_name else name


#: The current epoch: the time in which a process keeps the names of its run and worker.
#: Each epoch is a new object. A fork begins one, because the child may be another
#: worker.
epoch = object()


def begin_epoch() -> None:
    """Begin a new epoch, so that names are looked up again."""
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
