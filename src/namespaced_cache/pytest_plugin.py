"""The pytest plugin: isolates every test of a run.

pytest loads the plugin in every project of an environment where this package is
installed. A project that does not use it must not notice, whatever its pytest is.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pluggy
import pytest

if TYPE_CHECKING:
    IS_TOO_OLD = False
else:
    #: pytest has keys for its stash since 7.0, and pluggy these wrappers since 1.2.
    IS_TOO_OLD = not (
        hasattr(pytest, "StashKey")
        and "wrapper" in inspect.signature(pluggy.HookimplMarker.__call__).parameters
    )

if IS_TOO_OLD:
    from namespaced_cache.test.pytest_too_old import (
        pytest_addoption,
        pytest_collection_modifyitems,
        pytest_configure,
    )

    __all__ = [
        "pytest_addoption",
        "pytest_collection_modifyitems",
        "pytest_configure",
    ]
else:
    from namespaced_cache.test.pytest_hooks import (
        namespaced_cache,
        pytest_addoption,
        pytest_configure,
        pytest_fixture_post_finalizer,
        pytest_fixture_setup,
        pytest_load_initial_conftests,
        pytest_report_header,
        pytest_runtest_call,
        pytest_runtest_setup,
        pytest_sessionfinish,
        pytest_terminal_summary,
        pytest_testnodedown,
        pytest_unconfigure,
    )

    __all__ = [
        "namespaced_cache",
        "pytest_addoption",
        "pytest_configure",
        "pytest_fixture_post_finalizer",
        "pytest_fixture_setup",
        "pytest_load_initial_conftests",
        "pytest_report_header",
        "pytest_runtest_call",
        "pytest_runtest_setup",
        "pytest_sessionfinish",
        "pytest_terminal_summary",
        "pytest_testnodedown",
        "pytest_unconfigure",
    ]
