"""How long a fresh interpreter takes until its first reply from memcached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from tempfile import TemporaryDirectory

from borrowed import Memcached
from measure import paired
from scale import Scale
from subjects import BACKENDS

#: Holds the name of the run.
RUN_VARIABLE = "NAMESPACED_CACHE_RUN"

#: Says that this is a test run, where an alias needs no NAMESPACE.
TESTS_VARIABLE = "NAMESPACED_CACHE_TESTS"

#: Prints the seconds from the setting to the first reply, including all imports and
#: connections. Django itself has been imported before.
SCRIPT = """
import json, sys, time
from django.conf import settings
from django.core.cache import caches

settings.configure(CACHES={"default": json.loads(sys.argv[1])})
start = time.perf_counter()
caches["default"].get("key")
print(time.perf_counter() - start)
"""


def run(scale: Scale, seconds: float) -> Iterator[dict[str, object]]:
    """Compare strict with the bare backend.

    Each start has connections of its own, so the rounds are placements, too.
    """
    share = seconds / len(BACKENDS)
    with closing(Memcached()) as server, TemporaryDirectory() as bytecode:
        for client, backend in BACKENDS.items():
            bare = {"BACKEND": backend, "LOCATION": server.location}
            # Each start is a new run, which seeds its counter.
            strict = {
                **bare,
                "BACKEND": "namespaced_cache.NamespacedCache",
                "OPTIONS": {"WRAPPED_BACKEND": backend},
            }
            acts = {
                "bare": partial(_started, bytecode, bare),
                "strict": partial(_started, bytecode, strict),
            }
            for subject, figures in paired(acts, share, least=scale.rounds).items():
                yield figures.row(client=client, threads="default", subject=subject)


def _started(bytecode: str, setting: dict[str, object]) -> float:
    # Without the variable it is a new run. Modules are compiled once, as if installed.
    environment = {
        **os.environ,
        "PYTHONPYCACHEPREFIX": bytecode,
        TESTS_VARIABLE: "1",
    }
    for name in RUN_VARIABLE, "PYTHONDONTWRITEBYTECODE":
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(setting)],
        check=True,
        env=environment,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    return float(done.stdout)
