# SPDX-License-Identifier: Apache-2.0
"""The examples in the documentation that need root are true, too: see tests/lint/test_examples.py."""

from pathlib import Path

import pytest

from tests.support.examples import Example, documented

# Bridges and rule tables stay on purpose after the last container: they go with this network namespace.
SHELL = ("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", "ip link set lo up; exec sh")


@pytest.mark.parametrize("example", documented(root=True), ids=str)
def test_the_documentation_shows_what_happens_to_root(example: Example, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[paths]\nstate = "{tmp_path}/state"\nroot = "{tmp_path}/root"\nnetns = "{tmp_path}/netns"\n')
    example.verify(SHELL, KETCH_CONFIG=str(config), KETCH_CNI_STATE=str(tmp_path / "cni"))
