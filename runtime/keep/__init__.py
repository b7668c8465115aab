# SPDX-License-Identifier: Apache-2.0
"""The small long-lived processes: spawner and keepers."""
