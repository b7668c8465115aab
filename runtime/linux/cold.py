# SPDX-License-Identifier: Apache-2.0
"""The cold image: the code of every module that a short command may need in one file, for a start without a search.

An ordinary import asks the file system ten times before it runs a line, and a command has thirty modules. `make build`
and the installation compile them into cold-MAGIC.image (cold_writer.py); MAGIC is the interpreter's, so another Python
does not see it. The launcher's first lines run this file's own code out of the image:

    [ this code, group -> its index ][ code of a module ]...[ code of a command's modules ]...[ index of a group ]...

What a command's own module imports at its top is there a second time, in the order in which it is needed: one read, one
marshal, no search and no lock for each (`Finder._load_before`). Whatever is not ordinary there, the import system does.

In a checkout a module whose source is not the one that was compiled (size, times of change of content and of inode) is
imported in the ordinary way; so is, everywhere, one of those of Python's own that are in it. An installation is not
edited and `doctor --verify` proves it, so nothing of ours is asked there; its compiled files are unchecked, too. With
KETCH_DEBUG=1 nothing is taken from the image: its code has no line numbers.
"""

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    Facts = tuple[int, int, int]  # of a source: its size, st_mtime_ns, st_ctime_ns
    # name -> its file beneath the library (Python's own: from /), is it a package, offset and length of its code, facts
    # if they must hold; an extension has a place on sys.path instead of an offset, and no length
    Index = dict[str, tuple[str, bool, int, int, Facts | None]]
    # name of a command's module -> offset and length of [(name, code)] of what it imports at its top
    Before = dict[str, tuple[int, int]]

GROUPS = {"ketch-runtime": "runtime", "ketch": "hand", "ketch-cri": "", "ketch-spawner": ""}  # others are plugins
_PLUGINS = "cni"
_HIGH = 200  # no number that a caller might hand us as --preserve-fds


class Finder:
    """A finder and loader of the modules in the image."""

    __slots__ = ("_before", "_fd", "_index", "_library")

    def __init__(self, fd: int, index: "Index", before: "Before", library: str) -> None:
        self._fd = fd
        self._index = index
        self._before = before
        self._library = library

    def find_spec(self, name: str, path: "Sequence[str] | None" = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        if name in self._before:
            self._load_before(*self._before.pop(name))
        return self._spec(name)

    def _load_before(self, offset: int, length: int) -> None:
        """The modules that a command's module is about to import; one that is there, or has changed, is left out."""
        for name, code in marshal.loads(posix.pread(self._fd, length, offset)):  # noqa: S302 (as exec_module)
            if name in sys.modules or (spec := self._spec(name)) is None:
                continue
            module = self._module(spec)
            try:
                exec(code, module.__dict__)  # noqa: S102 (as exec_module)
            except BaseException:
                del sys.modules[name]
                raise
            package, _, child = name.rpartition(".")
            if package:
                setattr(sys.modules[package], child, module)

    def _module(self, spec: ModuleSpec) -> "ModuleType":
        """As importlib makes one."""
        module = type(sys)(spec.name)
        module.__spec__, module.__loader__, module.__file__ = spec, self, spec.origin  # type: ignore[assignment]
        module.__package__ = spec.parent
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        sys.modules[spec.name] = module
        return module

    def _spec(self, name: str) -> ModuleSpec | None:
        entry = self._index.get(name)
        if entry is None:
            return None
        file, is_package, place, length, facts = entry
        if not length:
            return self._extension(name, file, place)
        source = file if file.startswith("/") else f"{self._library}/{file}"
        if facts is not None and _facts(source) != facts:
            return None
        spec = ModuleSpec(name, self, origin=source, is_package=is_package)  # type: ignore[arg-type]  # a loader by shape
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(source.rpartition("/")[0])
        return spec

    def _extension(self, name: str, file: str, place: int) -> ModuleSpec | None:
        """The search for a shared object lists every directory of sys.path; its place on it was known before."""
        from _frozen_importlib_external import ExtensionFileLoader, spec_from_file_location

        path = f"{sys.path[place]}/{file}"
        try:
            posix.stat(path)
        except OSError:
            return None
        return spec_from_file_location(name, path, loader=ExtensionFileLoader(name, path))

    def create_module(self, spec: ModuleSpec) -> None:
        """As usual."""

    def exec_module(self, module: "ModuleType") -> None:
        _, _, offset, length, _ = self._index[module.__name__]
        module.__file__ = module.__spec__.origin if module.__spec__ else None
        exec(marshal.loads(posix.pread(self._fd, length, offset)), module.__dict__)  # noqa: S102, S302 (as imports do)


def _facts(source: str) -> "Facts | None":
    try:
        found = posix.stat(source)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def install(fd: int, places: "dict[str, tuple[int, int]]") -> None:
    """Import from the image from now on, if this command has a group in it; what the launcher's first lines call."""
    group = GROUPS.get(sys.argv[0].rpartition("/")[2], _PLUGINS)
    library = sys.path[0]
    index: Index = {}
    before: Before = {}
    if group and posix.environ.get(b"KETCH_DEBUG", b"0") in (b"", b"0"):
        offset, length = places[group]
        index, before = marshal.loads(posix.pread(fd, length, offset))  # noqa: S302 (our own file, beside our own code)
    itself = index.get(__name__)
    if itself is not None and itself[4] in (None, _facts(f"{library}/{itself[0]}")):
        import fcntl
        import gc

        gc.disable()  # importing makes no garbage, and looking for it takes a tenth of the time
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        sys.meta_path.insert(0, Finder(high, index, before, library))
    posix.close(fd)
