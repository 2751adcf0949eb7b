"""Projects that do not use the package, in an environment where it is installed.

`nox -s bystanders` runs the same checks with other versions of pytest.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT

SCRIPT = ROOT / "tests" / "support" / "bystanders.py"


@pytest.mark.parametrize("options", [(), ("--too-old",)])
def test_they_do_not_notice_it(options):
    done = subprocess.run(
        [sys.executable, SCRIPT, *options],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok: ") == 12
