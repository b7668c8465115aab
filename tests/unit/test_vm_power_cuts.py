# SPDX-License-Identifier: Apache-2.0
"""Power cuts are counted over several runs of one commit, and those of another commit do not count."""

import json
from pathlib import Path

import pytest

from vagrant import power_cuts


def test_an_interrupted_count_goes_on_with_the_same_commit_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = [{"loaded_seconds": 3.0, "wrong": []}, {"loaded_seconds": 9.5, "wrong": ["mount: /x"]}]
    monkeypatch.setattr(power_cuts, "_commit", lambda: "of this tree")
    assert power_cuts._former(tmp_path) == []
    for commit, known in (("of this tree", cuts), ("of another", [])):
        (tmp_path / power_cuts._RESULTS).write_text("\n".join([commit, *map(json.dumps, cuts)]) + "\n")
        assert power_cuts._former(tmp_path) == known
