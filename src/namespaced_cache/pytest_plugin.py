"""The pytest plugin: isolates every test of a run.

It is loaded in every project where this package is installed. Nothing of Django is
imported before a project's settings are there, unless `cache_namespace_wrap` asks.
"""

from __future__ import annotations

import sys
from collections import Counter as Tally
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from namespaced_cache import scopes

if TYPE_CHECKING:
    from namespaced_cache.backend import NamespacedCache
    from namespaced_cache.isolation import Isolation

_REMEDY = "Add to pytest's ini options: cache_namespace_wrap = true"


class Run:
    """One pytest run's isolation in this process; `invalidations` as Isolation's."""

    def __init__(self, config: pytest.Config) -> None:
        self.invalidations: Tally[str] = Tally()
        self._wrap: bool = config.getini("cache_namespace_wrap")
        self._scope = _checked(
            config.getini("cache_isolation"), "The ini option cache_isolation"
        )
        self._isolation: Isolation | None = None
        #: The class, and those it stands in, whose turn it is.
        self._classes: list[Any] = []
        #: Whether the test's first fixture of its own is yet to come, …
        self._settles = False
        #: … and whether something of a wider scope was set up since it began.
        self._is_filled = False
        if self._wrap:
            self._start()

    def begin(self, item: pytest.Item) -> None:
        """Forget what others left, before anything is set up for this test."""
        scope, node = self._scope_of(item)
        is_first = node not in self._classes
        self._classes = [n for n in item.listchain() if isinstance(n, pytest.Class)]
        self._is_filled = False
        self._settles = scope == "function"
        if scope == "function" or (scope == "class" and is_first):
            self._forget()
        elif scope == "off" and self._isolation is not None:
            self._isolation.leave()

    def set_up(self, scope: str) -> None:
        """Take note of a fixture that is about to be set up."""
        # Of a test without a class, those of the class's scope are its own.
        if scope == "function" or (scope == "class" and not self._classes):
            self.settle()
        else:
            self._is_filled = True

    def settle(self) -> None:
        """Forget what was cached for the class or more, before anything of the test's.

        So that the first test of a class finds what the others find.
        """
        if self._settles and self._is_filled:
            self._forget()
        # What is set up for more than the test from here on is set up by the test.
        self._settles = False

    def end(self) -> None:
        """Isolate no more."""
        if self._isolation is not None:
            self._isolation.stop()
            self._isolation = None

    def _scope_of(self, item: pytest.Item) -> tuple[str, Any]:
        """Return a test's scope, and the class that "class" means.

        The scope is what stands closest to the test, the ini option last. If that is
        on a class, it is this class; else the outermost. A function is a class of its
        own.
        """
        scope = self._scope
        chain = item.listchain()
        test_class = next((n for n in chain if isinstance(n, pytest.Class)), None)
        for node in reversed(chain):
            said = _scope_said(node)
            if said is not None:
                scope = said
                test_class = node if isinstance(node, pytest.Class) else test_class
                break
        if scope == "class" and test_class is None:
            scope = "function"
        return scope, test_class

    def _start(self) -> Isolation:
        if self._isolation is None:
            from namespaced_cache.isolation import Isolation  # noqa: PLC0415  # as above

            self._isolation = Isolation(wrap=self._wrap, remedy=_REMEDY)
            self._isolation.invalidations = self.invalidations
            self._isolation.start()
        return self._isolation

    def _forget(self) -> None:
        django_conf = sys.modules.get("django.conf")
        if django_conf is not None and django_conf.settings.configured:
            self._start().forget()


def _scope_said(node: Any) -> str | None:
    """Return the scope that a module, a class or a test asks for itself, or None."""
    for marker in node.own_markers:
        if marker.name == "cache_isolation":
            given = (*marker.args, *marker.kwargs.values())
            return _checked(
                given[0] if len(given) == 1 else given,
                f"The marker cache_isolation of {node.nodeid}",
            )
    if isinstance(node, pytest.Class):
        scope = getattr(node.obj, "cache_isolation", None)
        if scope is not None:
            return _checked(scope, f"{node.nodeid}.cache_isolation")
    return None


def _checked(scope: object, source: str) -> str:
    try:
        return scopes.checked(scope, source)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


_RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini options."""
    parser.addini(
        "cache_isolation",
        "when the namespaces of Django's caches are invalidated: function (before each "
        "test), class (before each class), off",
        default="function",
    )
    parser.addini(
        "cache_namespace_wrap",
        "wrap every memcached alias of Django's CACHES for the run",
        type="bool",
        default=False,
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config,
) -> Generator[None, object, object]:
    """Wrap before any conftest, and pytest-django, sets Django up."""
    early_config.stash[_RUN] = Run(early_config)
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    if _RUN not in config.stash:  # named in a conftest's pytest_plugins
        config.stash[_RUN] = Run(config)
    config.addinivalue_line(
        "markers",
        "cache_isolation(scope): invalidate the cache's namespaces before each "
        '"function" or each "class", or never ("off").',
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what was begun."""
    config.stash[_RUN].end()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin a test."""
    item.config.stash[_RUN].begin(item)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> None:
    """Tell fixtures of a test's own from those of wider scopes."""
    request.config.stash[_RUN].set_up(fixturedef.scope)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Settle a test that has no fixtures of its own."""
    item.config.stash[_RUN].settle()


@pytest.fixture
def namespaced_cache() -> NamespacedCache:
    """Return the default alias's backend, for use by hand.

    It is the NamespacedCache itself, with `invalidate_namespace()` and
    `pinned_generation()`. Raises ImproperlyConfigured if the alias has no namespace.
    """
    from namespaced_cache.aliases import namespaced_caches  # noqa: PLC0415  # see above

    return namespaced_caches("default")["default"]


# pytest-xdist's workers report what they did to the process that reports to the user.


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand this worker's count on."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["cache_isolation"] = dict(session.config.stash[_RUN].invalidations)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add a worker's count; one that crashed has none."""
    output = getattr(node, "workeroutput", {})
    node.config.stash[_RUN].invalidations.update(output.get("cache_isolation", {}))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say, if asked to be verbose, what the isolation has come to."""
    invalidations = config.stash[_RUN].invalidations
    if config.get_verbosity() > 0 and invalidations:
        used, times = len(invalidations), invalidations.total()
        terminalreporter.write_line(
            f"cache isolation: {used} namespace{'s' * (used > 1)}, invalidated "
            f"{times:,} times"
        )
