# SPDX-License-Identifier: Apache-2.0
"""Pods and containers: requests in, kernel objects and records out."""
