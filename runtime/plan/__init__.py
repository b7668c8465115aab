# SPDX-License-Identifier: Apache-2.0
"""Pure planning: frozen types in, steps out."""
