# SPDX-License-Identifier: Apache-2.0
"""The CNI plugins and the client that calls plugins."""
