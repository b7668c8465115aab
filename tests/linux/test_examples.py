# SPDX-License-Identifier: Apache-2.0
"""The examples in the documentation that need root are true, too: see tests/lint/test_examples.py."""

import pytest

from tests.support.examples import Example, documented


@pytest.mark.parametrize("example", documented(root=True), ids=str)
def test_the_documentation_shows_what_happens_to_root(example: Example) -> None:
    example.verify()
