# SPDX-License-Identifier: Apache-2.0
"""One module per plugin, one function per verb."""
