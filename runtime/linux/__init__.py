# SPDX-License-Identifier: Apache-2.0
"""What Linux offers: system calls, namespaces, mounts, cgroups; knows nothing about containers."""
