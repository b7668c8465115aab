# SPDX-License-Identifier: Apache-2.0
"""The VM in which Ketch is tested on cgroup v2, systemd and AppArmor."""
