# SPDX-License-Identifier: Apache-2.0
"""The version that every command and the CRI tell is the one of the package."""

import tomllib

from runtime.version import VERSION
from tests.lint.sources import TOP


def test_the_package_has_the_version_that_the_commands_tell() -> None:
    assert tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"] == VERSION
