# SPDX-License-Identifier: Apache-2.0
"""Exec, attach and port-forward over SPDY and WebSocket."""
