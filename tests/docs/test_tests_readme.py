"""tests/README.md names all folders, and existing tests for each scenario."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support import ROOT

TESTS = ROOT / "tests"
README = (TESTS / "README.md").read_text()
#: The number and the lines of each scenario.
SCENARIOS = re.findall(
    r"^(\d+)\. (.*\n(?: .*\n)*)", README.partition("## Scenarios\n")[2], re.MULTILINE
)


def test_every_folder_has_its_row():
    there = {path.parent.name for path in TESTS.glob("*/__init__.py")}
    assert set(re.findall(r"`([a-z]+)/`", README)) == there


def test_every_scenario_is_in_the_list_once():
    assert [int(number) for number, _ in SCENARIOS] == [*range(1, 24)]


@pytest.mark.parametrize(("number", "text"), SCENARIOS)
def test_the_tests_of_a_scenario_exist(number, text):
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert named, f"scenario {number} names no test"
    assert len(named) == text.count("::")
    for path, name in named:
        tree = ast.parse((TESTS / path).read_text())
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name.startswith("test_")
        assert name in tests, f"scenario {number}: {path} has no {name}"
