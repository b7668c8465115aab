# SPDX-License-Identifier: Apache-2.0
"""The examples in the documentation are true: every ```console block is run and compared, line by line.

A line that begins with `$ ` is run by sh at the top of the repository with our commands on PATH; what follows is what
it prints, stdout and stderr together. A line of `...` stands for any number of lines, `...` inside a line for any text.
A block that says ```console root runs in tests/linux, in namespaces of its own.
"""

import pytest

from tests.support.examples import Example, documented


@pytest.mark.parametrize("example", documented(root=False), ids=str)
def test_the_documentation_shows_what_happens(example: Example) -> None:
    example.verify()
