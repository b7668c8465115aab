# SPDX-License-Identifier: Apache-2.0
"""The engine of pods, containers and images, and its two doors."""
