# SPDX-License-Identifier: Apache-2.0
"""Pure: a request becomes an OCI config."""
