# SPDX-License-Identifier: Apache-2.0
"""The OCI runtime: config.json in, a container out."""
