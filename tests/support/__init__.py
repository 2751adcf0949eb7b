"""Everything that the tests share: servers, proxies, projects, tables."""

from pathlib import Path

#: The root of the repository, or of an unpacked source distribution.
ROOT = Path(__file__).parents[2]
