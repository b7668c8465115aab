# SPDX-License-Identifier: Apache-2.0
"""One module per suite: a docstring for the list, ROUNDS, and contenders(work directory) -> who can do the work."""
