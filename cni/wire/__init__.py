# SPDX-License-Identifier: Apache-2.0
"""What plugins do to the kernel."""
