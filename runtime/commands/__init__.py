# SPDX-License-Identifier: Apache-2.0
"""The commands of ketch-runtime, a function each: options in, exit status out."""
