# SPDX-License-Identifier: Apache-2.0
"""The CRI v1 interface definition and the code generated from it."""
