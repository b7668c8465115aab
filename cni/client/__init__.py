# SPDX-License-Identifier: Apache-2.0
"""What a runtime does with plugins."""
