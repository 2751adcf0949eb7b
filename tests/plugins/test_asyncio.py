"""pytest-asyncio: each async test begins with an empty cache."""

from __future__ import annotations

import pytest

TESTS = """
import asyncio
import pytest
import pytest_asyncio
from django.core.cache import cache, caches

async def leave():
    '''Store an item, and tell whether there was none.'''
    added = [await caches[alias].aadd("k", 1) for alias in ("default", "pylibmc")]
    return all(added)

@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def of_the_module():
    assert await cache.aadd("module", 1)

@pytest_asyncio.fixture
async def of_the_test():
    assert await leave()
    yield
    assert not await leave()

@pytest.mark.asyncio
async def test_first():
    assert await cache.aget("k") is None
    assert await leave()
    assert await cache.aget("k") == 1

@pytest.mark.asyncio
async def test_second():
    assert await cache.aget("k") is None
    await cache.aset("k", 2)
    assert await cache.aget("k") == 2

@pytest.mark.asyncio
async def test_with_a_fixture_of_its_own(of_the_test):
    assert await cache.aget("k") == 1

@pytest.mark.asyncio(loop_scope="module")
async def test_after_a_fixture_of_the_module(of_the_module):
    assert await cache.aget("module") == 1
    assert await leave()

class TestClass:
    pytestmark = pytest.mark.asyncio(loop_scope="class")

    async def test_first(self):
        assert await leave()

    async def test_second(self):
        assert await leave()

@pytest.mark.asyncio
async def test_tasks():
    async def use(number):
        await cache.aset(f"k{number}", number)
        return await cache.aget(f"k{number}")

    assert await asyncio.gather(*map(use, range(20))) == list(range(20))
    await cache.ainvalidate_namespace()
    assert await cache.aget_many([f"k{number}" for number in range(20)]) == {}

def test_without_a_loop():
    assert cache.add("k", 1)
"""


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_each_async_test_begins_with_an_empty_cache(project, mode):
    project.write("test_it.py", TESTS)
    run = project.pytest("-o", f"asyncio_mode={mode}")
    assert (run.code, run.count("passed")) == (0, 8), run.output


def test_without_isolation_async_tests_find_items_of_each_other(project):
    project.write("test_it.py", TESTS)
    run = project.pytest("-o", "cache_isolation=off")
    assert run.count("failed") >= 3, run.output
