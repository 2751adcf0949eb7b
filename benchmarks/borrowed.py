"""What the tests have and the benchmarks use: servers, a counting proxy, projects."""

import sys
from pathlib import Path

# Behind the benchmarks' own folder, whose modules come first.
sys.path.insert(1, str(Path(__file__).parents[1]))

from tests.support.projects import RUNNER, Project
from tests.support.round_trips import CountingProxy
from tests.support.servers import Memcached

__all__ = ["RUNNER", "CountingProxy", "Memcached", "Project"]
