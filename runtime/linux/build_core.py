# SPDX-License-Identifier: Apache-2.0
"""Describe the C extension runtime.linux._core to cffi (API mode): declarations in core.cdef, code in core.c."""

import os

from cffi import FFI

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "core.cdef")) as declarations:
    CDEF = declarations.read()

ffi = FFI()
ffi.cdef(CDEF)
ffi.set_source(
    "runtime.linux._core",
    '#include "core.c"',
    include_dirs=[HERE],
    depends=[os.path.join(HERE, name) for name in ("core.c", "act.h")],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"],
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
