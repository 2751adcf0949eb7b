"""What the tests have and the benchmarks use: servers, a counting proxy, projects."""

import sys
from pathlib import Path

# Behind the benchmarks' own folder, whose modules come first.
sys.path.append(str(Path(__file__).parents[1] / "tests"))

from projects import RUNNER, Project
from round_trips import CountingProxy
from servers import Memcached

__all__ = ["RUNNER", "CountingProxy", "Memcached", "Project"]
