"""The machine and the versions that the figures depend on."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import measure

import namespaced_cache


def describe() -> dict[str, str]:
    """Return what the figures depend on, by name."""
    memcached = subprocess.run(
        [shutil.which("memcached"), "-V"], check=True, capture_output=True, text=True
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Django": version("django"),
        "pymemcache": version("pymemcache"),
        "pylibmc": version("pylibmc"),
        "memcached": memcached.stdout.split()[-1],
        "django-namespaced-cache": namespaced_cache.__version__,
        "load before": f"{os.getloadavg()[0]:.1f}",
        "cores kept awake": "yes" if measure.CAN_KEEP_AWAKE else "no",
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        found = re.search(
            r"^model name\s*: (.+)$", information.read_text(), re.MULTILINE
        )
        if found:
            return found[1]
    return platform.processor() or platform.machine()
