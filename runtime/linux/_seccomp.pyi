# SPDX-License-Identifier: Apache-2.0
"""Types of the extension over libseccomp."""

from typing import Any

lib: Any
ffi: Any
