# SPDX-License-Identifier: Apache-2.0
"""Missing, wrong, huge and hostile fields in every RPC: a status with a sentence, nothing changed, the daemon lives."""

import os
import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor

from proto import cri_pb2 as pb
from tests.support.needs import needs
from tests.support.pod_driver import BUSYBOX, METHODS, Daemon, daemon

pytestmark = needs("root", "overlay", "veth", "bridge", "nft", "busybox")
MESSAGES = int(os.environ.get("KETCH_MUTATIONS", "600"))
TEXTS = (
    "",
    "x",
    "..",
    "/",
    "../../etc",
    "\0",
    "\n",
    "a" * 5000,
    "\N{RIGHT-TO-LEFT OVERRIDE}",
    "-1",
    "%s%n",
    "/proc/self/root",
    BUSYBOX,
)
NUMBERS = (0, 1, -1, 2, 7, 99, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
# They answer for as long as somebody listens.
ENDLESS = frozenset({"GetContainerEvents"})


@pytest.fixture
def cri(tmp_path: Path) -> Iterator[Daemon]:
    yield from daemon(tmp_path)


def mutated(message: Any, chance: random.Random, depth: int = 0) -> Any:
    """Each field absent, plausible or absurd."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.5:
            continue
        repeated = field.is_repeated
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(getattr(message, field.name), field, chance)
        elif field.message_type is not None:
            if depth < 6:
                held = getattr(message, field.name)
                target = held.add() if repeated else held
                target.SetInParent()
                mutated(target, chance, depth + 1)
        elif repeated:
            getattr(message, field.name).extend(_value(field, chance) for _ in range(chance.randrange(3)))
        else:
            setattr(message, field.name, _value(field, chance))
    return message


def _fill_map(held: Any, field: FieldDescriptor, chance: random.Random) -> None:
    for _ in range(chance.randrange(3)):
        held[chance.choice(TEXTS)] = chance.choice(TEXTS)


def _value(field: FieldDescriptor, chance: random.Random) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = chance.choice(TEXTS)
        return text.encode() + b"\xff" if field.type == FieldDescriptor.TYPE_BYTES else text
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_DOUBLE:
        return 0.5
    number = chance.choice(NUMBERS)
    if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM):
        return max(-(2**31), min(2**31 - 1, number))
    if kind == FieldDescriptor.CPPTYPE_UINT32:
        return number % 2**32
    return number % 2**64 if kind == FieldDescriptor.CPPTYPE_UINT64 else number


def memory_kib(cri: Daemon) -> int:
    assert cri.process is not None
    status = Path(f"/proc/{cri.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


def aimed(message: Any, method: str, pod: str, container: str, chance: random.Random) -> Any:
    """Half of the messages name something that is there, so that more than the first check is met."""
    for field, value in (("pod_sandbox_id", pod), ("container_id", container)):
        spared = method in ("RemovePodSandbox", "StopPodSandbox")
        if field in message.DESCRIPTOR.fields_by_name and not spared and chance.random() < 0.5:
            setattr(message, field, value)
    if method == "RemoveImage" and BUSYBOX in message.image.image:
        message.image.image = "absent"  # the others stand on it
    return message


def outcome(cri: Daemon, method: str, message: Any) -> Any:
    """The refusal, if it was one."""
    try:
        answer = cri.call(method, message, deadline=20)
        if hasattr(answer, "__next__"):
            list(answer)
    except grpc.RpcError as error:
        return error
    return None


@pytest.mark.timeout(600 + MESSAGES // 20)
def test_no_message_makes_the_daemon_stumble(cri: Daemon) -> None:
    seed = int(os.environ.get("KETCH_SEED", "7"))
    chance = random.Random(seed)
    pod = cri.run_pod("victim")
    lives = pod.start("sleep", "100000", name="lives")
    names = sorted(set(METHODS) - ENDLESS)
    before, codes = 0, set()
    target = pod.create("sleep", "1000", name="t")
    for number in range(MESSAGES):
        method = chance.choice(names)
        kind = getattr(pb, METHODS[method][1].input_type.name)
        identity = target.id if "Container" in method else lives.id
        message = aimed(mutated(kind(), chance), method, pod.id, identity, chance)
        refusal = outcome(cri, method, message)
        if refusal is not None:
            codes.add(refusal.code())
            assert refusal.code() != grpc.StatusCode.INTERNAL, (method, message, refusal.details())
            assert refusal.details(), (method, message)
            assert "Traceback" not in refusal.details()
        if "Container" in method and chance.random() < 0.1:  # what it has been through until then is part of the test
            target.remove()
            target = pod.create("sleep", "1000", name=f"t{number}")
        if number == MESSAGES // 3:
            before = memory_kib(cri)
    log = cri.log.read_text()
    assert "a mistake of ours" not in log, log[log.index("a mistake of ours") :][:3000]
    assert "CRITICAL" not in log
    assert memory_kib(cri) < before + 20_000
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
    assert lives.sh("echo alive") == "alive\n"


def test_garbage_on_the_socket_is_refused_and_hangs_nothing(cri: Daemon) -> None:
    chance = random.Random(3)
    for size in (1, 24, 1000, 100_000):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(cri.socket))
            raw.settimeout(5)
            try:
                raw.sendall(chance.randbytes(size))
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65536):
                    pass
            except OSError:
                continue
    assert cri.call("Version").runtime_name == "ketch"
