"""The tests of test_isolation.py, through twemproxy, without exceptions."""

import pytest

from tests.contract.test_isolation import *  # noqa: F403  # its tests and their fixtures


@pytest.fixture(scope="module")
def server(twemproxy):
    return twemproxy
