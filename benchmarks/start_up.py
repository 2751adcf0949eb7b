"""What a fresh interpreter waits for before its first answer."""

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

from namespaced_cache.identity import RUN_VARIABLE

#: Prints the seconds from the setting to the first answer, with all that is imported
#: and connected for it; Django itself is there before.
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
    """Compare ours, as it comes, with the bare backend."""
    share = seconds / len(BACKENDS)
    with closing(Memcached()) as server, TemporaryDirectory() as bytecode:
        for client, backend in BACKENDS.items():
            bare = {"BACKEND": backend, "LOCATION": server.location}
            # A run of its own each time, which seeds its counter.
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
                yield figures.row(client=client, subject=subject)


def _started(bytecode: str, setting: dict[str, object]) -> float:
    # A run of its own; and what is imported is compiled once, as where it is installed.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
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
