# SPDX-License-Identifier: Apache-2.0
"""ketch-cni for people: what the plugins have made here, what they would make, and whether it works."""
