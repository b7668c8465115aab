# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: the C parts (cffi extensions, static launcher, act and reaper) and the cold image.

The launcher is what every installed command is. `make build` compiles the place of the library into it; a wheel's
launcher finds the library relative to itself.
"""

import glob
import importlib.util
import os
import shlex
import subprocess
import sys

from setuptools import Command, setup
from setuptools.command.build import build

COMMANDS = ("ketch", "ketch-runtime", "ketch-cri", "ketch-cni", "ketch-spawner")
CC = shlex.split(os.environ.get("CC", "cc"))
CFLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-nostdlib", "-fno-stack-protector"]


IMAGE = f"cold-{importlib.util.MAGIC_NUMBER[:2].hex()}.image"
PROGRAMS = ("act", "reaper")
LAUNCHERS = [f"build/launcher/{name}" for name in COMMANDS]


class BuildPrograms(Command):
    """Compile runtime/linux/{act,reaper,launcher}.c; with --inplace only act and reaper, beside their sources."""

    description = "compile the static C programs"
    user_options = [("inplace", "i", "act and reaper beside their sources, no launchers")]
    boolean_options = ["inplace"]

    def initialize_options(self):
        self.inplace = False
        self.editable_mode = False
        self.build_lib = None

    def finalize_options(self):
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def get_source_files(self):
        return [f"runtime/linux/{name}.c" for name in ("launcher", *PROGRAMS)]

    def get_outputs(self):
        return [os.path.join(self.build_lib, "runtime/linux", name) for name in (*PROGRAMS, IMAGE)]

    def run(self):
        if self.inplace or self.editable_mode:
            for name in PROGRAMS:
                compile_program(f"runtime/linux/{name}.c", f"runtime/linux/{name}")
            return
        for name, target in zip(PROGRAMS, self.get_outputs(), strict=False):
            compile_program(f"runtime/linux/{name}.c", target)
        for launcher in LAUNCHERS:
            compile_program("runtime/linux/launcher.c", launcher)
        # Good for the Python that builds; any other does without.
        writer = [sys.executable, "-B", "-m", "runtime.linux.cold_writer", "--installed", "."]
        subprocess.run(writer, cwd=self.build_lib, check=True, stdout=subprocess.DEVNULL)


def compile_program(source, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    subprocess.run([*CC, *CFLAGS, "-o", target, source], check=True)


build.sub_commands = [*build.sub_commands, ("build_programs", None)]
setup(
    cffi_modules=[f"{path}:ffi" for path in sorted(glob.glob("runtime/linux/build_*.py"))],
    cmdclass={"build_programs": BuildPrograms},
    data_files=[("bin", LAUNCHERS)],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
