# SPDX-License-Identifier: Apache-2.0
"""First lines of Python in every command: from the name it was called by to the function that serves it.

launcher.c has set sys.path and left the path it was called by in sys.argv[0].
"""

import posix  # not os: that is another 1.2 ms, which `ketch-runtime --version` need not spend
import sys

_ENTRIES = {
    "ketch": "cri.hand.cli",
    "ketch-runtime": "runtime.cli",
    "ketch-cri": "cri.server",
    "ketch-spawner": "runtime.keep.spawner",
}
_PLUGINS = "cni.__main__"  # ketch-cni, and every link to it under a plugin's name

_PARTS = {"google": "cri", "pyroute2": "cni", "iptc": "cni", "yaml": "cri"}  # module -> its extra


def start() -> None:
    """Run the command; does not return."""
    name = sys.argv[0].rpartition("/")[2]
    _name_this_process(name)
    module = _ENTRIES.get(name, _PLUGINS)
    try:
        _let_interrupts_in()
        code = __import__(module, fromlist=["main"]).main()
        sys.stdout.flush()
    except BrokenPipeError:
        posix._exit(141)  # the reader of our output has gone, as in `ketch ps | head`: what a shell reports for SIGPIPE
    except KeyboardInterrupt:
        posix._exit(130)
    except Exception as e:
        from runtime.linux import tracebacks

        tracebacks.show_if_wanted()
        code = 1
        sys.stderr.write(f"{name}: {_sentence(e)}\n")
    if module == "cri.server":
        sys.exit(code)  # its threads end in their own way
    # A short command leaves the dismantling of the interpreter to the kernel: 0.6 ms of a 7 ms command.
    sys.stderr.flush()
    posix._exit(code)


def _let_interrupts_in() -> None:
    """launcher.c holds SIGINT back until somebody can catch it."""
    from _signal import SIG_UNBLOCK, SIGINT, pthread_sigmask  # type: ignore[import-not-found]

    pthread_sigmask(SIG_UNBLOCK, {SIGINT})


def _name_this_process(name: str) -> None:
    """execveat of a descriptor leaves "3" or "python3.11" as the name that ps and killall know."""
    try:
        fd = posix.open("/proc/self/comm", posix.O_WRONLY | posix.O_CLOEXEC)
    except OSError:
        return  # no /proc here; only the name in ps is worse
    posix.write(fd, name.encode()[:15])
    posix.close(fd)


def _sentence(error: Exception) -> str:
    """One line for what no command handled itself."""
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        if part := _PARTS.get(missing):
            return f"the Python package {missing!r} is not installed (try: pip install 'ketch[{part}]')"
        return f"the module {error.name!r} is missing (is the installation complete? try: ketch doctor --verify)"
    if isinstance(error, OSError):
        return f"{error} (KETCH_DEBUG=1 shows where)"
    return f"internal error: {type(error).__name__}: {error} (KETCH_DEBUG=1 shows the traceback)"
