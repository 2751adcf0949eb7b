"""What the package, its sessions and its workflows say of each other holds."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib import metadata
from itertools import chain

import pytest
import yaml
from packaging.version import Version

import namespaced_cache
from tests.support import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
JOBS = {
    f"{workflow}: {name}": job
    for workflow, content in WORKFLOWS.items()
    for name, job in content["jobs"].items()
}
STEPS = [step for job in JOBS.values() for step in job["steps"]]

# Read and not imported: nox need not be installed where the tests run.
NOXFILE = ast.parse((ROOT / "noxfile.py").read_text())
CONSTANTS = {
    node.targets[0].id: ast.literal_eval(node.value)
    for node in NOXFILE.body
    if isinstance(node, ast.Assign)
    and isinstance(node.targets[0], ast.Name)
    and node.targets[0].id in ("MATRIX", "SMALLEST")
}
SESSIONS = {
    node.name: [ast.unparse(decorator) for decorator in node.decorator_list]
    for node in NOXFILE.body
    if isinstance(node, ast.FunctionDef) and node.decorator_list
}


# The version


def test_the_version_that_is_installed_is_that_of_the_code():
    installed = metadata.version(PROJECT["name"])
    assert installed == namespaced_cache.__version__


def test_the_version_is_stated_in_the_code_alone():
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
    where = PYPROJECT["tool"]["hatch"]["version"]["path"]
    assert where == "src/namespaced_cache/__init__.py"
    # Not in the changelog nor in the benchmarks' results, which tell of what was.
    others = [
        path for kind in ("md", "py", "toml", "yml") for path in ROOT.glob(f"*.{kind}")
    ]
    others += [ROOT / "Makefile", ROOT / "scripts" / "run"]
    others += (ROOT / ".github").rglob("*.yml")
    others += [
        path
        for room in ("examples", "src", "tests")
        for path in (ROOT / room).rglob("*.py")
    ]
    others.remove(ROOT / "CHANGELOG.md")
    stated = re.compile(
        rf"(?<![\d.]){re.escape(namespaced_cache.__version__)}(?![\d.])"
    )
    found = {path for path in others if stated.search(path.read_text())}
    assert found <= {ROOT / where}


def test_the_changelog_begins_with_this_version_or_the_next():
    heads = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert heads[0] in ("Unreleased", namespaced_cache.__version__)
    assert len(set(heads)) == len(heads)


# The sessions


def versions(requirements, operator):
    """Which version of each these ask for."""
    pairs = (requirement.split(operator) for requirement in requirements)
    return {name: Version(version) for name, version in pairs}


def test_the_smallest_that_is_tested_is_the_smallest_that_is_supported():
    extras = PROJECT["optional-dependencies"].values()
    supported = versions([*PROJECT["dependencies"], *chain(*extras)], ">=")
    tested = versions(CONSTANTS["SMALLEST"], "==")
    # asgiref is Django's to ask for.
    assert {**tested, **supported} == tested
    assert set(tested) - set(supported) == {"asgiref"}
    assert SESSIONS["smallest"] == [
        f"nox.session(python={PROJECT['requires-python'].removeprefix('>=')!r})"
    ]


def test_each_python_and_django_that_is_claimed_is_tested():
    claimed = tuple(
        {
            each.rpartition(" ")[2]
            for each in PROJECT["classifiers"]
            if re.fullmatch(rf"{kind} :: \d\.\d+", each)
        }
        for kind in ("Programming Language :: Python", "Framework :: Django")
    )
    assert claimed == tuple(map(set, zip(*CONSTANTS["MATRIX"], strict=True)))


# The workflows


def test_the_matrix_is_that_of_nox():
    job = WORKFLOWS["ci"]["jobs"]["tests"]
    pairs = [
        (pair["python"], pair["django"])
        for pair in job["strategy"]["matrix"]["include"]
    ]
    assert pairs == CONSTANTS["MATRIX"]
    run = (
        "nox -s \"tests(python='${{ matrix.python }}', django='${{ matrix.django }}')\""
    )
    assert run in [step.get("run") for step in job["steps"]]


def test_every_session_of_nox_is_run():
    job = WORKFLOWS["ci"]["jobs"]["sessions"]
    assert {"tests", *job["strategy"]["matrix"]["session"]} == set(SESSIONS)
    assert "nox -s ${{ matrix.session }}" in [step.get("run") for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_nothing_is_permitted_by_default(workflow):
    assert WORKFLOWS[workflow]["permissions"] == {}
    assert "group" in WORKFLOWS[workflow]["concurrency"]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_may_read_and_publishing_alone_may_name_itself(job):
    publishes = job == "release: publish"
    expected = {"id-token": "write"} if publishes else {"contents": "read"}
    assert JOBS[job]["permissions"] == expected
    assert ("environment" in JOBS[job]) is publishes


def test_what_is_published_is_what_was_tested():
    """No step of the job that publishes builds anything: it takes the other's files."""
    jobs = WORKFLOWS["release"]["jobs"]
    assert "nox -s wheel" in [step.get("run") for step in jobs["build"]["steps"]]
    assert jobs["publish"]["needs"] == "build"
    assert [step["uses"].partition("@")[0] for step in jobs["publish"]["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]


def test_every_action_is_one_that_cannot_change():
    texts = [
        path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")
    ]
    uses = [line for text in texts for line in text.splitlines() if "uses:" in line]
    assert len(uses) == sum("uses" in step for step in STEPS) > 0
    for line in uses:
        assert re.fullmatch(r" +- uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)


def test_no_step_of_a_pull_request_can_write_into_a_script():
    """What others choose, such as a branch's name, is no part of a command."""
    for step in STEPS:
        named = re.findall(r"\$\{\{ *([\w.]+)", step.get("run", ""))
        assert all(name.startswith("matrix.") for name in named)
