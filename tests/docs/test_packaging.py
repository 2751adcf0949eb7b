"""The package, the sessions of nox and the workflows agree with each other."""

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

# Parsed and not imported, because nox may be missing where the tests run.
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
IN_VENV = "nox.session(venv_backend='none')"


# The version


def test_the_version_that_is_installed_is_that_of_the_code():
    installed = metadata.version(PROJECT["name"])
    assert installed == namespaced_cache.__version__


def test_the_version_is_stated_in_the_code_alone():
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
    where = PYPROJECT["tool"]["hatch"]["version"]["path"]
    assert where == "src/namespaced_cache/__init__.py"
    # The changelog and the benchmarks' results may name it, because they are history.
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
    """The version of each package that the requirements name after the operator."""
    pairs = (requirement.split(operator) for requirement in requirements)
    return {name: Version(version) for name, version in pairs}


def test_the_oldest_supported_versions_are_tested():
    extras = PROJECT["optional-dependencies"].values()
    supported = versions([*PROJECT["dependencies"], *chain(*extras)], ">=")
    tested = versions(CONSTANTS["SMALLEST"], "==")
    # Django, and not this package, depends on asgiref.
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


# The workflows: what zizmor and check-jsonschema cannot see, because it needs two files
# or knowledge of this project


def commands(job):
    """The shell commands of a job."""
    return [step["run"] for step in job["steps"] if "run" in step]


def test_ci_tests_the_matrix_of_nox():
    job = WORKFLOWS["ci"]["jobs"]["tests"]
    pairs = [
        (pair["python"], pair["django"])
        for pair in job["strategy"]["matrix"]["include"]
    ]
    assert pairs == CONSTANTS["MATRIX"]
    names = "tests(python='$PYTHON', django='$DJANGO')"
    assert f'nox --session "{names}"' in commands(job)


def test_ci_runs_every_session_that_has_an_environment_of_its_own():
    """`make` runs the others in .venv: `check` has no step that CI does not run."""
    job = WORKFLOWS["ci"]["jobs"]["sessions"]
    own = {name for name in SESSIONS if IN_VENV not in SESSIONS[name]}
    assert {"tests", *job["strategy"]["matrix"]["session"]} == own
    assert set(SESSIONS) - own == {"check", "stress"}
    assert 'nox --session "$SESSION"' in commands(job)


def test_every_workflow_installs_the_nox_that_make_installs():
    (nox,) = PYPROJECT["dependency-groups"]["nox"]
    installing = {
        command
        for job in JOBS.values()
        for command in commands(job)
        if "pip install" in command
    }
    assert installing == {f"python -m pip install '{nox}'"}


@pytest.mark.parametrize("job", JOBS)
def test_only_the_job_that_publishes_may_do_more_than_read(job):
    publishes = job == "release: publish"
    expected = {"id-token": "write"} if publishes else {"contents": "read"}
    assert JOBS[job]["permissions"] == expected
    assert ("environment" in JOBS[job]) is publishes


def test_the_files_that_are_published_are_the_files_that_were_tested():
    """The job that publishes builds nothing: it takes the files of the other job."""
    jobs = WORKFLOWS["release"]["jobs"]
    assert "nox --session wheel" in commands(jobs["build"])
    assert jobs["publish"]["needs"] == "build"
    assert [step["uses"].partition("@")[0] for step in jobs["publish"]["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]
