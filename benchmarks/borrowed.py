"""What the benchmarks use of the tests: servers, a counting proxy, projects.

No other module of the benchmarks imports from the tests.
"""

import sys
from pathlib import Path

# At the end of the path, so that the benchmarks' own modules are found first.
sys.path.append(str(Path(__file__).parents[1]))

from tests.support.projects import RUNNER, Project
from tests.support.round_trips import CountingProxy
from tests.support.servers import Memcached

__all__ = ["RUNNER", "CountingProxy", "Memcached", "Project"]
