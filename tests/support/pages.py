"""Pages of documentation: their sections, their blocks of code, a bench to run them.

If the first line of a block is a comment with a file name, the block is that file, or
is added to it. The files of a section change the example shop. The commands of the
section run in the changed project. Their output must be what the page shows.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import yaml
from django.core.cache.backends.base import default_key_func
from sybil import Document, Region
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

import namespaced_cache
from namespaced_cache.keys import GenerationKeys, parse
from tests.support import ROOT
from tests.support.projects import HARMLESS, SHOP, UNNEEDED, Project, Run
from tests.support.servers import Memcached, Twemproxy

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: Finds the blocks of a page in all languages.
_LEXER = FencedCodeBlockLexer(language=".*")

_HEADING = re.compile(r"^#{1,3} (.+)$", re.MULTILINE)
_FILE = re.compile(r"# ([\w./-]+\.\w+)\n")

#: The file that pages call `settings.py` is elsewhere in the shop.
_FILES = {
    "settings.py": "config/settings.py",
    "test_settings.py": "config/settings.py",
}

#: The import in `test_settings.py`, which the shop has in one file with the settings.
_SETTINGS_BELOW = "from .settings import *\n\n"

#: An address with a port. Pages may use only the addresses in `Bench.addresses`.
_ADDRESS = re.compile(r"\b(?:\d+\.\d+\.\d+\.\d+|localhost):\d+")


@dataclass(frozen=True)
class Block:
    """A block of code, without its fences."""

    language: str
    text: str

    @classmethod
    def of(cls, region: Region) -> Block:
        """Make a block from a region that Sybil found."""
        text = region.lexemes["source"].replace(_SETTINGS_BELOW, "")
        return cls(region.lexemes["language"], text)

    @property
    def file(self) -> str | None:
        """The file that contains the block, or None."""
        named = _FILE.match(self.text)
        return _FILES.get(named[1], named[1]) if named else None


@dataclass(frozen=True)
class Section:
    """The part of a page from a heading to the next."""

    page: str
    title: str
    blocks: list[Block] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.page}, {self.title}"


def _parsed(page: Path) -> tuple[str, list[Region]]:
    """Return a page's text and the regions of its blocks."""
    document = Document.parse(str(page), _LEXER)
    return document.text, [region for _, region in document.regions]


def blocks(page: Path, language: str) -> list[str]:
    """Return the text of each of a page's blocks in one language."""
    found = [Block.of(region) for region in _parsed(page)[1]]
    return [block.text for block in found if block.language == language]


def prose(page: Path) -> str:
    """Return a page without its blocks."""
    text, regions = _parsed(page)
    starts = [0, *(region.end for region in regions)]
    ends = [*(region.start for region in regions), len(text)]
    return "".join(text[a:b] for a, b in zip(starts, ends, strict=True))


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)


def sections(page: Path) -> Iterator[Section]:
    """Divide a page at its headings. A comment inside a block is not a heading."""
    text, regions = _parsed(page)
    starts = [
        (heading.start(), heading[1])
        for heading in _HEADING.finditer(text)
        if not any(region.start < heading.start() < region.end for region in regions)
    ]
    ends = [start for start, _ in starts[1:]] + [len(text)]
    for (start, title), end in zip(starts, ends, strict=True):
        inside = [Block.of(each) for each in regions if start < each.start < end]
        yield Section(page.name, title, inside)


#: Opens every alias in the settings, and runs Django's checks.
PROBE = """
import os
os.environ["NAMESPACED_CACHE_RUN"] = "probe"  # as a test would start it
import django
django.setup()
from django.conf import settings
from django.core.cache import caches
from django.core.management import call_command
from django.test.utils import get_runner
get_runner(settings)
for alias in caches:
    caches[alias].set("probe", alias)
    assert caches[alias].get("probe") == alias, alias
call_command("check", fail_level="WARNING")
from namespaced_cache.checks import check_caches  # even if the app is not installed
assert check_caches() == []
"""

#: Blocks that belong to no file run in a project whose aliases are wrapped.
WRAPPED = """
from config.settings import *
from namespaced_cache import namespaced
CACHES = namespaced(CACHES)
"""


class Bench:
    """A project in which `take()` runs the blocks of a section, one after another.

    `start` starts a memcached. The scripts `before` run before the first command.
    """

    def __init__(
        self,
        folder: Path,
        server: Memcached,
        start: Callable[..., Memcached],
        before: Sequence[str] = (),
    ) -> None:
        self.project = Project(folder, server.location, SHOP, "config.settings")
        self.project.write("wrapped.py", WRAPPED)
        for compiled in self.project.folder.rglob("*.pyc"):
            compiled.unlink()
        self.project.environment |= {
            "PYTEST_ADDOPTS": shlex.join(["-p", "no:randomly", *HARMLESS, *UNNEEDED]),
            "PYTHONUNBUFFERED": "1",
        }
        # Python must write .pyc files beside the sources. They show which modules were
        # used.
        for name in "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX":
            self.project.environment.pop(name, None)
        #: The addresses in the pages, and the locations of the real servers.
        self.addresses = {"127.0.0.1:11211": server.location}
        self._servers = [server]
        self._start = start
        self._before = before
        self._script = ""
        self._files: list[str] = []
        #: Configuration files that no run of pytest has read yet.
        self._unread: set[str] = set()
        self._compose: dict = {}
        self._proxies: list[Twemproxy] = []

    def take(self, block: Block) -> None:
        """Run a block, or keep it for a later block."""
        taker = getattr(self, f"_take_{block.language}", None)
        assert taker is not None, f"no method runs a block in {block.language!r}"
        taker(block)

    def close(self) -> None:
        for proxy in self._proxies:
            proxy.close()

    def finish(self) -> None:
        """Run the blocks that were kept, and assert that each file was used."""
        if self._script:
            self._succeed(
                "-c", f"import django\ndjango.setup()\n{self._script}", "wrapped"
            )
        if "config/settings.py" in self._files:
            self._succeed("-c", PROBE)
        assert not self._unread
        for name in self._files:
            path = self.project.folder / name
            if path.suffix == ".py":
                compiled = path.parent / "__pycache__"
                assert any(compiled.glob(f"{path.stem}.*.pyc")), f"{name}: not used"

    # Languages.

    def _take_python(self, block: Block) -> None:
        if block.file is None:
            self._script += self._local(block.text)
        else:
            self._write(block.file, block.text, add=True)

    def _take_ini(self, block: Block) -> None:
        assert block.file == "pytest.ini", "no tool reads this file"
        self._write(block.file, block.text)
        self._unread.add(block.file)

    def _take_toml(self, block: Block) -> None:
        assert block.file == "pyproject.toml", "no tool reads this file"
        (self.project.folder / "pytest.ini").unlink()
        self._write(block.file, block.text)
        self._unread.add(block.file)

    def _take_text(self, block: Block) -> None:
        """Assert that the names in a diagram exist in the source."""
        package = Path(namespaced_cache.__file__).parent
        source = "".join(path.read_text() for path in package.rglob("*.py"))
        names = re.findall(r"\b[A-Z][a-z]+[A-Z]\w+", block.text)
        assert names
        for name in names:
            assert re.search(rf"\b{name}\b", source), name
        # Each key in it follows from the one before, by Django's function or by ours.
        for inner, outer in pairwise(re.findall(r'"(\S+)"', block.text)):
            if outer not in (inner, default_key_func(inner, "shop", 1)):
                parsed = parse(outer.encode())
                assert parsed, outer
                keys = GenerationKeys(parsed.namespace, parsed.generation)
                assert keys.wire_key(inner) == outer

    def _take_yaml(self, block: Block) -> None:
        content = yaml.safe_load(block.text)
        match block.file:
            case ".github/workflows/tests.yml":
                self._run_workflow(content)
            case "compose.yaml":
                self._compose = content
                self._check_compose(content)
            case "nutcracker.yml":
                self._start_proxies(content)
            case _:
                raise AssertionError(f"no tool reads {block.file}")

    def _take_console(self, block: Block) -> None:
        for script in self._before:
            self._succeed("-c", script)
        self._before = ()
        prompts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        assert prompts.pop(0) == "", "a console begins with a command"
        for prompt in prompts:
            command, _, output = prompt.partition("\n")
            self._command(command, output)

    # Helpers for the blocks.

    def _write(self, name: str, text: str, *, add: bool = False) -> None:
        path = self.project.folder / name
        before = path.read_text() if add and path.exists() else ""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(before + self._local(text))
        self._files.append(name)

    def _command(self, line: str, expected: str = "") -> None:
        program, *arguments = shlex.split(self._local(line), comments=True)
        environment = {}
        while re.fullmatch(r"[A-Z_]+=.*", program):
            name, _, value = program.partition("=")
            environment[name] = value
            program, *arguments = arguments
        match program, *arguments:
            case "export", setting:
                name, _, value = setting.partition("=")
                self.project.environment[name] = value
            case "pip", "install", *wanted:
                _check_requirements(wanted)
            case "docker", "compose", "up", "-d", "--wait":
                services = self._compose["services"].values()
                assert all("healthcheck" in service for service in services), (
                    "--wait needs a healthcheck in each service"
                )
            case "python", *arguments:
                self._compare(
                    line, self.project.run(*arguments, **environment), expected
                )
            case (("pytest" | "celery"), *arguments):
                run = self.project.run("-m", "pytest", *arguments, **environment)
                self._compare(line, run, expected)
                self._unread.clear()
            case _:
                raise AssertionError(f"no method runs {line!r}")

    def _compare(self, line: str, run: Run, expected: str) -> None:
        fails = re.search(r"Error|error:|failed", expected) is not None
        assert (run.code != 0) == fails, f"$ {line}\n{run.output}"
        if expected:
            output = run.output
            for name, location in self.addresses.items():
                output = output.replace(location, name)
            pattern = "".join(
                r"(?:.*\n)*" if each == "..." else re.escape(each) + r"\n"
                for each in _steady(expected).splitlines()
            )
            assert re.fullmatch(pattern, _steady(output)), f"$ {line}\n{output}"

    def _succeed(self, option: str, code: str, settings: str = "") -> None:
        chosen = {"DJANGO_SETTINGS_MODULE": settings} if settings else {}
        run = self.project.run(option, code, **chosen)
        assert run.code == 0, run.output

    def _local(self, text: str) -> str:
        """Replace the addresses of a page by those of this bench's servers."""

        def location(found: re.Match[str]) -> str:
            name = found[0]
            if name not in self.addresses:
                assert name in ("127.0.0.1:11212", "127.0.0.1:11213"), (
                    f"unexpected address {name}"
                )
                self._servers.append(self._start())
                self.addresses[name] = self._servers[-1].location
            return self.addresses[name]

        return _ADDRESS.sub(location, text)

    def _run_workflow(self, content: dict) -> None:
        """Check the parts that only GitHub runs, and run the commands."""
        assert {"push"} <= set(content[True])  # YAML takes `on` for true
        for job in content["jobs"].values():
            assert re.fullmatch(r"ubuntu-[\w.]+", job["runs-on"])
            self._check_services(job["services"])
            for step in job["steps"]:
                if "uses" in step:
                    assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
                else:
                    for name, value in step.get("env", {}).items():
                        self.project.environment[name] = self._local(value)
                    for line in step["run"].splitlines():
                        self._command(line)

    def _check_compose(self, content: dict) -> None:
        """Check the file, and start a memcached with the arguments of its services."""
        assert set(content) == {"services"}
        self._check_services(content["services"])
        for service in content["services"].values():
            program, *arguments = service["command"]
            assert program == "memcached"
            self._start(*arguments)

    def _check_services(self, services: dict) -> None:
        for service in services.values():
            assert re.match(r"memcached:\d", service["image"])
            for ports in service["ports"]:
                assert re.fullmatch(r"(127\.0\.0\.1:)?1121\d:11211", ports)

    def _start_proxies(self, content: dict) -> None:
        for pool in content.values():
            name = pool.pop("listen")
            for server in pool.pop("servers"):
                self._local(server.removesuffix(":1"))
            # YAML's false is not Python's.
            settings = {name: str(each).lower() for name, each in pool.items()}
            proxy = Twemproxy(*self._servers, **settings)
            self._proxies.append(proxy)
            self.addresses[name] = proxy.location


def _check_requirements(wanted: list[str]) -> None:
    """Assert that the packages, and our extras, that pip installs exist."""
    assert wanted
    ours = metadata.metadata("django-namespaced-cache")
    for requirement in wanted:
        name, _, extra = requirement.rstrip("]").partition("[")
        if name == ours["Name"]:
            assert extra in ours.get_all("Provides-Extra")
        else:
            assert metadata.distribution(name), name


def _steady(output: str) -> str:
    """Replace what differs from run to run: generations, sizes, seconds, names."""
    output = re.sub(r"^ *\d+ % \[.*\n", "", output, flags=re.MULTILINE)
    for pattern, word in (
        (r"\b\d{19}\b", "GENERATION"),
        (r"\b[\d,]+ B\b", "BYTES"),
        (r"\b\d+ [smhd]\b", "AGE"),
        (r"\b\d+\.\d+s\b", "SECONDS"),
        (r"\brun-[0-9a-f]{16}\b", "RUN"),
        (r"={3,}", "==="),
        (r" +", " "),
    ):
        output = re.sub(pattern, word, output)
    return output
