# SPDX-License-Identifier: Apache-2.0
"""The commands of the VM: image, up, shell, test, down, list (`make vm`, `vm-shell`, `vm-test`, `vm-down`)."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from vagrant import box, guest, image, leftovers, libvirt, machine, power_cuts, run_tests

_SETTLE_SECONDS = 10.0
_PROJECT = Path(__file__).resolve().parent.parent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vm", description=__doc__)
    parser.add_argument("--suite", default="bookworm", choices=guest.SUITES, help="Debian release of the guest")
    parser.add_argument("--name", default="ketch", help="name of the machine")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("image", help="build the image and the frozen state")
    up = commands.add_parser("up", help="start the machine (builds what is missing)")
    up.add_argument("--cold", action="store_true", help="boot instead of restoring the frozen state")
    shell = commands.add_parser("shell", help="a root shell, or one command, in the guest")
    shell.add_argument("words", nargs="*", help="the command")
    test = commands.add_parser("test", help="bring this tree in, run the tests, bring the reports back")
    test.add_argument("--all", action="store_true", help="every test, not only what the host cannot run")
    test.add_argument("--ci", action="store_true", help="the part that CI has time for")
    test.add_argument("--report", type=Path, default=_PROJECT / "build" / "vm-report", help="where the reports go")
    test.add_argument("words", nargs="*", help="arguments for pytest instead of the chosen part")
    suite = commands.add_parser("suite", help="bring this tree in and run a suite of others on it")
    suite.add_argument("--report", type=Path, default=_PROJECT / "build" / "vm-report", help="where the reports go")
    suite.add_argument("suite_name", choices=("critest", "runtime-tools", "cni", "e2e"))
    suite.add_argument("words", nargs="*", help="its own options, after --")
    cuts = commands.add_parser("power-cuts", help="cut the power under load and look what is left, again and again")
    cuts.add_argument("--number", type=int, default=50)
    cuts.add_argument("--seed", type=int, help="makes the moments repeatable")
    cuts.add_argument("--report", type=Path, default=_PROJECT / "build" / "vm-report", help="where the report goes")
    commands.add_parser("down", help="stop the machine and forget its disk")
    commands.add_parser("box", help="make a Vagrant box of the image; prints how to use it")
    libvirt_commands = commands.add_parser("libvirt", help="libvirtd for Vagrant where there is no systemd")
    libvirt_commands.add_argument("direction", choices=("up", "down"))
    commands.add_parser("list", help="machines that run")
    return parser


def _prepared(suite: str) -> image.Image:
    wanted = image.image(suite)
    started = time.monotonic()
    image.build(wanted)
    machine.freeze(machine.Machine(wanted, "freezing"))
    if time.monotonic() - started > 1:
        print(f"vm: image and frozen state ready in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return wanted


def _running(name: str) -> machine.Machine | None:
    """The machine of this name, from whichever image it runs: the tree may want another one by now."""
    record = image.cache_directory() / "run" / name / "image"
    if not record.exists():
        return None
    directory = image.cache_directory() / record.read_text()
    found = machine.Machine(image.Image(directory.name.partition("-")[0], directory), name)
    return found if found.pid is not None else None


def _shell(chosen: machine.Machine, words: list[str]) -> int:
    if words:
        return machine.ssh(chosen, " ".join(words), check=False).returncode
    return machine.shell(chosen)


def _down(chosen: machine.Machine) -> int:
    port = int(chosen.file("port").read_text()) if chosen.file("port").exists() else None
    machine.down(chosen)
    end = time.monotonic() + _SETTLE_SECONDS
    while (left := list(leftovers.found(chosen.directory, port))) and time.monotonic() < end:
        time.sleep(0.1)  # a killed process gives its memory back before its sockets
    for entry in left:
        print(f"vm: {chosen.name} is down, but left behind: {entry}", file=sys.stderr)
    return 1 if left else 0


def _list() -> None:
    for directory in sorted((image.cache_directory() / "run").glob("*")):
        if (found := _running(directory.name)) is not None:
            print(f"{directory.name}  pid {found.pid}  ssh port {found.file('port').read_text()}")


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.command == "list":
        _list()
        return 0
    if options.command == "down":
        return _down(machine.Machine(image.image(options.suite), options.name))
    if options.command == "libvirt":
        (libvirt.up if options.direction == "up" else libvirt.down)()
        return 0
    if options.command == "box":
        wanted = image.image(options.suite)
        image.build(wanted)
        print(f"vagrant box add --name ketch/{options.suite} {box.build(wanted)}")
        print(f"export KETCH_BOX=ketch/{options.suite} KETCH_KEY={wanted.key}")
        return 0
    if options.command == "shell" and (running := _running(options.name)) is not None:
        return _shell(running, options.words)
    chosen = machine.Machine(_prepared(options.suite), options.name)
    if options.command == "image":
        return 0
    how = machine.up(chosen, cold=getattr(options, "cold", False))
    print(f"vm: {chosen.name} {how}", file=sys.stderr)
    if options.command == "shell":
        return _shell(chosen, options.words)
    if options.command == "power-cuts":
        return power_cuts.run(chosen, options.number, options.report, options.seed)
    if options.command == "suite":
        return run_tests.suite(chosen, options.report, options.suite_name, options.words)
    if options.command == "test":
        words = [*run_tests.CI_PART] if options.ci else options.words
        return run_tests.run(chosen, options.report, words, everything=options.all)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except machine.GuestError as error:
        sys.exit(f"vm: {error}")
