# SPDX-License-Identifier: Apache-2.0
"""The door for people: the command ketch."""
