# SPDX-License-Identifier: Apache-2.0
"""Who a container runs as: names and ids looked up in the container's own /etc/passwd and /etc/group, given as text."""

from __future__ import annotations

from cri.engine.request import ContainerRequest
from cri.oci.facts import Refused, User
from runtime.linux.quick_dataclasses import dataclass

MAX_ID = 2**32 - 2


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of passwd, or of group (then `members`)."""

    name: str
    id: int
    gid: int = 0
    home: str = ""
    members: tuple[str, ...] = ()


def passwd(text: str) -> list[Entry]:
    """Lines that are not passwd lines are skipped, as libc does."""
    found = []
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) >= 4 and parts[2].isdecimal() and parts[3].isdecimal():
            home = parts[5] if len(parts) > 5 else ""
            found.append(Entry(parts[0], int(parts[2]), int(parts[3]), home))
    return found


def group(text: str) -> list[Entry]:
    found = []
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) >= 3 and parts[2].isdecimal():
            members = tuple(name for name in parts[3].split(",") if name) if len(parts) > 3 else ()
            found.append(Entry(parts[0], int(parts[2]), members=members))
    return found


def asked(request: ContainerRequest, image_user: str) -> str:
    """`user[:group]` as the request says, else as the image says."""
    name = str(request.run_as_user) if request.run_as_user is not None else request.run_as_username
    if request.run_as_group is None:
        return name or image_user
    if not name:
        raise Refused("security_context.run_as_group: needs run_as_user or run_as_username")
    return f"{name}:{request.run_as_group}"


def checked_id(text: str, what: str) -> int:
    number = int(text)
    if not 0 <= number <= MAX_ID:
        raise Refused(f"{what}: {number} is not between 0 and {MAX_ID}")
    return number


def find_user(name: str, entries: list[Entry]) -> Entry:
    """A number needs no line in passwd; a name does. A name of digits is a number, as in runc."""
    if name.isdecimal():
        number = checked_id(name, "user")
        return next((e for e in entries if e.id == number), Entry("", number, 0, "/"))
    for entry in entries:
        if entry.name == name:
            return entry
    raise Refused(f"user {name!r}: not in the image's /etc/passwd")


def find_group(name: str, entries: list[Entry]) -> int:
    if name.isdecimal():
        return checked_id(name, "group")
    for entry in entries:
        if entry.name == name:
            return entry.id
    raise Refused(f"group {name!r}: not in the image's /etc/group")


def supplemental(
    user: Entry, gid: int, groups: list[Entry], wanted: tuple[int, ...], *, strict: bool
) -> tuple[int, ...]:
    """The gid first, then what was asked for, then (unless strict) the image's groups of this user; each once."""
    found = [gid, *wanted]
    if not strict and user.name:
        found += [entry.id for entry in groups if user.name in entry.members]
    return tuple(dict.fromkeys(found))


def resolve(request: ContainerRequest, image_user: str, passwd_text: str, group_text: str) -> User:
    """The numbers for config.json."""
    for number in request.supplemental_groups:
        checked_id(str(number), "security_context.supplemental_groups") if number >= 0 else _negative(number)
    name, _, group_name = asked(request, image_user).partition(":")
    accounts, groups = passwd(passwd_text), group(group_text)
    user = find_user(name or "0", accounts)
    gid = find_group(group_name, groups) if group_name else user.gid
    wanted = (*request.supplemental_groups, *(find_group(n, groups) for n in request.supplemental_group_names))
    extra = supplemental(user, gid, groups, wanted, strict=request.strict_groups)
    return User(user.id, gid, extra, user.home or "/")


def _negative(number: int) -> None:
    raise Refused(f"security_context.supplemental_groups: {number} is negative")
