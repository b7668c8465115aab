# SPDX-License-Identifier: Apache-2.0
"""CI's machine offers what the list in tests/support/needs.py says: no less (nothing is skipped there) and no more."""

import pytest

from tests.support import needs


@pytest.mark.skipif(not needs.IN_CI, reason="the list describes CI's machine; this one may differ")
@pytest.mark.parametrize("name", sorted(set(needs.PROBES) - needs.UNPROMISED))
def test_ci_offers_exactly_what_is_listed(name: str) -> None:
    assert needs.has(name) == (name in needs.CI_OFFERS), f"put {name} on the list, or find out why it is gone"
