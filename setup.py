# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: the C parts (cffi extensions, static launcher and reaper) and the cold image.

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
CFLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s"]


IMAGE = f"cold-{importlib.util.MAGIC_NUMBER[:2].hex()}.image"
LAUNCHERS = [f"build/launcher/{name}" for name in COMMANDS]


class BuildPrograms(Command):
    """Compile runtime/linux/reaper.c and launcher.c; with --inplace the reaper only, beside its source."""

    description = "compile the static C programs"
    user_options = [("inplace", "i", "the reaper beside its source, no launchers")]
    boolean_options = ["inplace"]

    def initialize_options(self):
        self.inplace = False
        self.editable_mode = False
        self.build_lib = None

    def finalize_options(self):
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def get_source_files(self):
        return ["runtime/linux/launcher.c", "runtime/linux/reaper.c"]

    def get_outputs(self):
        return [os.path.join(self.build_lib, "runtime/linux", name) for name in ("reaper", IMAGE)]

    def run(self):
        if self.inplace or self.editable_mode:
            compile_program("runtime/linux/reaper.c", "runtime/linux/reaper")
            return
        compile_program("runtime/linux/reaper.c", self.get_outputs()[0])
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
