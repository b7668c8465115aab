# SPDX-License-Identifier: Apache-2.0
"""Every file of an installation and its proof: `make install` places and lists them, verify compares, remove removes.

The list has one line per path, kind TAB proof TAB path: a file's SHA-256, a link's target, a directory that was made.
It is also run as a program, by the plain interpreter from a checkout: place STAGE DESTDIR LIST, remove DESTDIR LIST.
"""

import base64
import hashlib
import os
import sys

FILE, LINK, DIRECTORY = "file", "link", "dir"
LIST = "lib/ketch/installed-files"  # beneath the prefix

Entry = tuple[str, str, str]


class NoList(Exception):
    """There is nothing to compare with; the message says why."""


def verify(library: str) -> list[str]:
    """What differs from the installation whose packages are in library, one sentence each; nothing is good news."""
    if os.path.basename(library) != "site-packages":
        raise NoList(f"{library} is a checkout: only an installation has sums (try: git status)")
    home = os.path.normpath(os.path.join(library, "..", "..", ".."))
    installed = os.path.join(home, os.path.basename(LIST))
    if not os.path.exists(installed):
        return _differences_from_wheel(library)
    entries = read(installed)
    destination = _destination(home, entries)
    return [found for kind, proof, path in entries if (found := _difference(kind, proof, destination + path))]


def show() -> int:
    """`doctor --verify`: print what differs in the installation that this very file belongs to."""
    library = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        found = verify(library)
    except NoList as e:
        print(f"doctor: {e}", file=sys.stderr)
        return 1
    print("\n".join(found) if found else f"every installed file is as it was installed ({library})")
    return 1 if found else 0


def _destination(home: str, entries: list[Entry]) -> str:
    """The DESTDIR under which the tree still stands, "" once it has been moved to where its names say."""
    named = next((path for _, _, path in entries if path.endswith("/lib/ketch")), home)
    return home.removesuffix(named)


def read(path: str) -> list[Entry]:
    """The entries of a list."""
    with open(path) as lines:
        fields = (line.rstrip("\n").split("\t") for line in lines)
        return [(kind, proof, name) for kind, proof, name in fields]


def proof_of(path: str) -> Entry:
    """The entry of what is there."""
    if os.path.islink(path):
        return LINK, os.readlink(path), path
    if os.path.isdir(path):
        return DIRECTORY, "-", path
    with open(path, "rb") as content:
        return FILE, hashlib.file_digest(content, "sha256").hexdigest(), path


def _difference(kind: str, proof: str, path: str) -> str | None:
    if not os.path.lexists(path):
        return f"{path}: is missing"
    found_kind, found_proof, _ = proof_of(path)
    if found_kind != kind:
        return f"{path}: is a {found_kind}, was installed as a {kind}"
    if found_proof != proof:
        return f"{path}: was changed after the installation"
    return None


def _differences_from_wheel(library: str) -> list[str]:
    """pip keeps the sums of a wheel's files in RECORD."""
    records = [n for n in os.listdir(library) if n.startswith("ketch-") and n.endswith(".dist-info")]
    if not records:
        raise NoList(f"{library} holds no record of what was installed (was it copied by hand?)")
    found = []
    with open(os.path.join(library, records[0], "RECORD")) as lines:
        for line in lines:
            name, proof, _ = line.rstrip("\n").rsplit(",", 2)
            path = os.path.normpath(os.path.join(library, name))
            if not proof.startswith("sha256="):
                continue  # RECORD itself, and what pip compiled
            wanted = base64.urlsafe_b64decode(proof[7:] + "==").hex()
            if difference := _difference(FILE, wanted, path):
                found.append(difference)
    return found


def place(stage: str, destination: str, list_path: str) -> None:
    """Copy the tree at stage over destination ("" is /), replacing each file at once, and write the list.

    What an older list has and this one has not is removed. Foreign files in the way stop it before anything changes.
    """
    before = {path: kind for kind, _, path in read(destination + list_path)} if _exists(destination + list_path) else {}
    tree = sorted(_walk(stage))
    foreign = [p for p in tree if not _is_plain_directory(stage + p) and _exists(destination + p) and p not in before]
    if foreign:
        raise FileExistsError(
            f"{destination}{foreign[0]} is there already and is not ours (remove it, or choose another place)"
        )
    entries = [entry for path in tree if (entry := _place_one(stage, destination, path, before))]
    entries.append((FILE, "-", list_path))
    kept = {path for _, _, path in entries}
    remove_entries(destination, [(kind, "-", path) for path, kind in before.items() if path not in kept])
    body = "".join(f"{kind}\t{proof}\t{path}\n" for kind, proof, path in entries if path != list_path)
    _write_whole(destination + list_path, body.encode(), 0o644)


def _place_one(stage: str, destination: str, path: str, before: dict[str, str]) -> Entry | None:
    source, target = stage + path, destination + path
    if _is_plain_directory(source):
        if os.path.isdir(target):
            return (DIRECTORY, "-", path) if before.get(path) == DIRECTORY else None  # others' directories stay others'
        os.mkdir(target, 0o755)
        return DIRECTORY, "-", path
    if os.path.islink(source):
        if os.path.lexists(target):
            os.unlink(target)
        os.symlink(os.readlink(source), target)
    else:
        with open(source, "rb") as content:
            _write_whole(target, content.read(), os.stat(source).st_mode & 0o777)
    kind, proof, _ = proof_of(source)
    return kind, proof, path


def remove(destination: str, list_path: str) -> int:
    """Remove exactly what place() put there; returns how many paths."""
    entries = read(destination + list_path)
    remove_entries(destination, [e for e in entries if e[0] != DIRECTORY])
    os.unlink(destination + list_path)
    remove_entries(destination, [e for e in entries if e[0] == DIRECTORY])
    return len(entries) + 1


def remove_entries(destination: str, entries: list[Entry]) -> None:
    """Deepest first; a directory that somebody else has put something into stays."""
    for kind, _, path in sorted(entries, key=lambda entry: entry[2], reverse=True):
        try:
            if kind == DIRECTORY:
                os.rmdir(destination + path)
            else:
                os.unlink(destination + path)
        except FileNotFoundError:
            pass
        except OSError as e:
            print(f"left in place: {destination}{path}: {e.strerror}", file=sys.stderr)


def _walk(stage: str) -> list[str]:
    found = []
    for directory, directories, files in os.walk(stage):
        found += [os.path.join(directory, name)[len(stage) :] for name in directories + files]
    return found


def _is_plain_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _exists(path: str) -> bool:
    return os.path.lexists(path)


def _write_whole(path: str, data: bytes, mode: int) -> None:
    """By rename: who runs the old file goes on running it."""
    with open(f"{path}.new", "wb") as new:
        new.write(data)
        os.fchmod(new.fileno(), mode)
    os.replace(f"{path}.new", path)


def main(arguments: list[str]) -> int:
    try:
        if arguments[0] == "place":
            place(*arguments[1:])
        else:
            print(f"removed {remove(*arguments[1:])} paths")
    except OSError as e:
        print(f"{arguments[0]}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
