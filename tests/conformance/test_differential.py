# SPDX-License-Identifier: Apache-2.0
"""A few of the 300 generated configs through us and crun; all of them by `make conformance SUITE=differential`."""

import os
from pathlib import Path

import pytest

from tests.conformance import differential
from tests.support.needs import needs

# The rig is a machine of its own; what it leaves in the host's cgroups is looked for here.
pytestmark = [needs("root", "crun"), pytest.mark.own_namespaces]
GROUPS = Path("/sys/fs/cgroup")


def groups_of_the_rig() -> set[str]:
    """By this process's number: another run's rig may come and go meanwhile."""
    return {str(path) for path in GROUPS.glob(f"**/ketch-rig-differential-{os.getpid()}*")}


@pytest.mark.timeout(300)
def test_every_difference_to_crun_has_its_reason(tmp_path: Path) -> None:
    for path in (tmp_path, *list(tmp_path.parents)[:-1]):
        path.chmod(path.stat().st_mode | 0o055)
    lines = differential.run(["ketch", "crun"], range(15), tmp_path)
    text, status = differential.judge(lines, differential.reasons())
    assert status == 0, text
    assert len(lines) == 15
    assert groups_of_the_rig() == set()
