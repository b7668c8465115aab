# SPDX-License-Identifier: Apache-2.0
"""Images: pull, push, store, unpack, verify, collect."""
