# SPDX-License-Identifier: Apache-2.0
"""config.json parsed once into frozen types."""
