# SPDX-License-Identifier: Apache-2.0
"""Tests that take a whole machine: systemd, AppArmor, volumes of the node. They run in the VM only."""
