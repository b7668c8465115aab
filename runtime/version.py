# SPDX-License-Identifier: Apache-2.0
"""Our version, and the version of the runtime-spec that we implement."""

VERSION = "0.1.0"
SPEC_VERSION = "1.3.0"
