# SPDX-License-Identifier: Apache-2.0
"""The door for a kubelet: CRI messages to requests."""
