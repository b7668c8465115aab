# SPDX-License-Identifier: Apache-2.0
"""The CNI plugins against the real kernel: packets, not rules."""
