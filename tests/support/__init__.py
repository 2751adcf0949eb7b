"""Everything that the tests share: servers, proxies, projects, tables."""

import os
from pathlib import Path

#: The root of the repository, or of an unpacked source distribution.
ROOT = Path(__file__).parents[2]


def unmeasured() -> dict[str, str]:
    """Return the environment for a process whose coverage is not measured.

    Measuring makes a process slower by a half. Other tests cover what it runs.
    """
    return {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
