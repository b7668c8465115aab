# SPDX-License-Identifier: Apache-2.0
"""Addresses: ranges, allocation, reservations."""
