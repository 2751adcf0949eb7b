"""A small project without tests, whose memcached aliases pytest wraps."""

from __future__ import annotations

import pytest

from tests.support.projects import Project

#: pytest-asyncio warns if its option is not set.
INI = """
[pytest]
pythonpath = .
python_files = test_*.py
cache_namespace_wrap = true
asyncio_default_fixture_loop_scope = function
"""

SETTINGS = """
from settings import *

DATABASES, INSTALLED_APPS, MIDDLEWARE = {}, [], []
del ROOT_URLCONF, SESSION_ENGINE
"""


@pytest.fixture
def project(tmp_path, server):
    made = Project(tmp_path, server.location, settings="plain_settings")
    made.write("pytest.ini", INI)
    made.write("plain_settings.py", SETTINGS)
    made.write("suite/test_every_kind.py", "")
    return made
