# SPDX-License-Identifier: Apache-2.0
"""Every command of crictl against ketch-cri and containerd, both on one machine at once: the same words and shapes.

What cannot be equal is masked before texts are compared: ids, times, addresses, sizes, the runtimes' own names. Of JSON
the keys are compared; `info` is each runtime's own and is left out. `config` and `completion` never reach a runtime.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conformance import table
from tests.conformance.table import Result
from tests.e2e import go_build, image_set, registry
from tests.e2e.machine import Machine, power_on
from tests.e2e.runtimes import RUNTIMES, Network, write

HERE = Path(__file__).parent
REGISTRY = f"127.0.0.1:{registry.PORT}"
IMAGE = "registry.k8s.io/e2e-test-images/busybox:1.29-2"
POD = {"metadata": {"name": "p", "namespace": "n", "uid": "u", "attempt": 1}, "linux": {}, "labels": {"app": "x"}}
LOOP = "trap 'exit 0' TERM; echo started; while :; do sleep 0.2; done"
CONTAINER = {
    "metadata": {"name": "c"},
    "image": {"image": IMAGE},
    "command": ["sh", "-c", LOOP],
    "log_path": "c.log",
    "linux": {"resources": {"memory_limit_in_bytes": 64 << 20}},
}
MASKS = (
    (re.compile(r"sha256:[0-9a-f]{64}"), "DIGEST"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "ID"),
    (re.compile(r"\b[0-9a-f]{13}\b"), "ID"),
    (re.compile(r"\b10\.8\d\.\d+\.\d+\b"), "ADDRESS"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ][0-9:.]+(Z| ?[+-]\d\d:?\d\d( [A-Z]+)?)?"), "TIME"),
    (re.compile(r"(About an?|Less than an?|\d+) (second|minute|hour)s?( ago)?"), "AGE"),
    (re.compile(r"\b\d+(\.\d+)? ?([kMG]i?)?B\b"), "SIZE"),
    (re.compile(r"\b\d+\.\d+\b"), "NUMBER"),
    (re.compile(r"\b(ketch|containerd)\b"), "RUNTIME"),
    (re.compile(r"\bv?(\d+\.)?NUMBER(\.\d+)?(\+\w+)?\b"), "VERSION"),
    (re.compile(r" {2,}"), "  "),
)


def masked(text: str) -> str:
    for pattern, instead in MASKS:
        text = pattern.sub(instead, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def shape(value: Any, at: str = "") -> set[str]:
    """The paths of all keys; of a list the keys of its entries together. What is free text under a key is one key."""
    if isinstance(value, dict):
        found = set()
        for key, held in value.items():
            if key in ("info", "labels", "annotations"):
                continue
            found |= {f"{at}.{key}"} | shape(held, f"{at}.{key}")
        return found
    if isinstance(value, list):
        return {path for entry in value for path in shape(entry, f"{at}[]")}
    return set()


class Session:
    """One runtime under crictl: each command's exit status and output, under a name."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        self.folder = f"/run/crictl-{name}"
        self.said: dict[str, tuple[int, str]] = {}
        self._base = [str(go_build.program("crictl")), "--timeout=20s", f"-r={RUNTIMES[name].endpoint}"]
        write(machine, f"{self.folder}/pod.json", json.dumps({**POD, "log_directory": f"{self.folder}/logs"}))
        write(machine, f"{self.folder}/container.json", json.dumps(CONTAINER))

    def run(self, name: str, *words: str, given: str = "", seconds: float = 60) -> str:
        done = self.machine.run(*self._base, *words, given=given, check=False, seconds=seconds)
        if name:
            self.said[name] = (done.returncode, done.stdout + "".join(f"! {line}\n" for line in errors(done.stderr)))
        return done.stdout.strip()

    def everything(self) -> None:
        """The commands in an order in which each finds what it needs."""
        pod_file, container_file = f"{self.folder}/pod.json", f"{self.folder}/container.json"
        for command in ("version", "info", "runtime-config", "images", "imagefsinfo", "metricdescs"):
            self.run(command, command)
        self.run("update-runtime-config", "update-runtime-config", "10.99.0.0/16")
        self.run("pull", "pull", IMAGE)
        self.run("pull of an unknown image", "pull", f"{REGISTRY}/nothing:here")
        pod = self.run("runp", "runp", pod_file)
        container = self.run("create", "create", pod, container_file, pod_file)
        self.run("start", "start", container)
        self.run("create twice", "create", pod, container_file, pod_file)
        for name, words in self.questions(pod, container):
            self.run(name, *words)
        self.run("exec -i", "exec", "-i", container, "cat", given="through stdin\n")
        self.streams(pod)
        self.run("update", "update", "--memory", str(128 << 20), container)
        self.run("run", "run", "--no-pull", *self.second())
        for name, words in (
            ("stop", ("stop", container)),
            ("start of an ended container", ("start", container)),
            ("exec in an ended container", ("exec", container, "true")),
            ("rm", ("rm", container)),
            ("rm twice", ("rm", container)),
            ("stopp", ("stopp", pod)),
            ("stopp twice", ("stopp", pod)),
            ("rmp", ("rmp", pod)),
            ("rmp -fa", ("rmp", "-fa")),
            ("inspect of nothing", ("inspect", "0" * 64)),
            ("inspectp of nothing", ("inspectp", "0" * 64)),
            ("inspecti of nothing", ("inspecti", "nothing:here")),
            ("rmi", ("rmi", IMAGE)),
            ("rmi of nothing", ("rmi", "nothing:here")),
            ("pods at the end", ("pods",)),
            ("ps at the end", ("ps", "-a")),
            ("images at the end", ("images",)),
        ):
            self.run(name, *words)

    def streams(self, pod: str) -> None:
        """Commands that go on until something happens, each with what makes it end."""
        short = {**CONTAINER, "metadata": {"name": "short"}, "command": ["sh", "-c", "sleep 3; echo bye"]}
        web = {**CONTAINER, "metadata": {"name": "web"}, "command": ["httpd", "-f", "-p", "80", "-h", "/etc"]}
        made = {}
        for name, config in (("short", short), ("web", web)):
            write(self.machine, f"{self.folder}/{name}.json", json.dumps(config))
            made[name] = self.run("", "create", pod, f"{self.folder}/{name}.json", f"{self.folder}/pod.json")
            self.run("", "start", made[name])
        self.run("attach", "attach", made["short"])
        crictl = " ".join(self._base)
        script = (
            f"timeout 5 {crictl} port-forward {pod} 18080:80 & sleep 2; wget -qO- http://127.0.0.1:18080/group; wait"
        )
        self.shell("port-forward", script)
        script = f"timeout 4 {crictl} events & sleep 2; {crictl} stop {made['web']}; {crictl} rm {made['web']}; wait"
        self.shell("events", script)

    def shell(self, name: str, script: str) -> None:
        done = self.machine.run("sh", "-c", script, check=False)
        self.said[name] = (0, "\n".join(sorted(shape_of_lines(done.stdout))))

    def second(self) -> tuple[str, str]:
        """Another pod and its container, for `run`."""
        pod = {**POD, "metadata": {**POD["metadata"], "name": "q", "uid": "v"}}  # type: ignore[dict-item]
        write(self.machine, f"{self.folder}/q.json", json.dumps({**pod, "log_directory": f"{self.folder}/logs-q"}))
        return f"{self.folder}/container.json", f"{self.folder}/q.json"

    def questions(self, pod: str, container: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """What a running container and its pod are asked."""
        yield "pods", ("pods",)
        yield "pods -v", ("pods", "-v")
        yield "pods --label", ("pods", "--label", "app=x", "-q")
        yield "pods -o json", ("pods", "-o", "json")
        yield "ps", ("ps",)
        yield "ps -o json", ("ps", "-o", "json")
        yield "ps --state", ("ps", "--state", "exited", "-q")
        yield "inspect", ("inspect", container)
        yield "inspectp", ("inspectp", pod)
        yield "inspecti", ("inspecti", IMAGE)
        yield "images -o json", ("images", "-o", "json")
        yield "images -v", ("images", "-v")
        yield "logs", ("logs", container)
        yield "logs --tail", ("logs", "--tail", "1", container)
        yield "exec", ("exec", container, "echo", "hello")
        yield "exec -s", ("exec", "-s", container, "echo", "hello")
        yield "exec that fails", ("exec", container, "sh", "-c", "exit 3")
        yield "exec -s that fails", ("exec", "-s", container, "sh", "-c", "exit 3")
        yield "exec of nothing", ("exec", container, "/nothing")
        yield "stats", ("stats", "-o", "json", container)
        yield "statsp", ("statsp", "-o", "json", "--id", pod)
        yield "metricsp", ("metricsp",)
        yield "checkpoint", ("checkpoint", "--export=/tmp/x.tar", container)


def shape_of_lines(text: str) -> Iterator[str]:
    """Lines as they are; a line or a block of JSON by its type and keys, once."""
    for block in re.split(r"\n(?=\{)|(?<=\n\})\n", text):
        try:
            event = json.loads(block)
        except ValueError:
            yield from (masked(line) for line in block.splitlines())
        else:
            yield f"{event.get('containerEventType')} {' '.join(sorted(event))}"


def errors(text: str) -> list[str]:
    """Of what goes to stderr, whether there was any error and its code; the words are each runtime's own."""
    return re.findall(r"code = (\w+)", text)[-1:] or (["error"] if "level=fatal" in text or "FATA" in text else [])


def compare(ours: Session, theirs: Session) -> Iterator[Result]:
    for name, (status, text) in theirs.said.items():
        our_status, our_text = ours.said.get(name, (-1, ""))
        problems = [] if status == our_status else [f"status {our_status}, containerd {status}"]
        problems += list(differences(our_text, text))
        yield Result(name, "failed" if problems else "passed", said="; ".join(problems))


def differences(ours: str, theirs: str) -> Iterator[str]:
    try:
        our_shape, their_shape = shape(json.loads(ours)), shape(json.loads(theirs))
    except ValueError:
        if masked(ours) != masked(theirs):
            yield f"says {masked(ours)[:300]!r}, containerd {masked(theirs)[:300]!r}"
        return
    for missing in sorted(their_shape - our_shape):
        yield f"lacks {missing}"


def at_once(machine: Machine, storage: Path) -> tuple[Session, Session]:
    """Both serve, on the same network configuration and the same address store, while the commands take turns."""
    settings = machine.folder / "registry.yml"
    settings.write_text(registry.configuration(storage, REGISTRY))
    machine.start("registry", *registry.command(settings))
    names = ("ketch", "containerd")
    for name in names:
        RUNTIMES[name].start(machine, REGISTRY)
    RUNTIMES["ketch"].add_network(machine, Network("10.88.0.0/16"))
    ours, theirs = (Session(machine, name) for name in names)
    return ours, theirs


def verdict(name: str, is_true: object, seen: object) -> Result:
    return Result(name, "passed" if is_true else "failed", said=str(seen))


def neighbours(ours: Session, theirs: Session) -> Iterator[Result]:
    """Neither sees, stops or takes the address of what the other runs, also when either is restarted."""
    pods = {}
    for session in (ours, theirs):
        session.run("", "pull", IMAGE)
        pod = session.run("", "runp", f"{session.folder}/pod.json")
        files = (f"{session.folder}/container.json", f"{session.folder}/pod.json")
        container = session.run("", "create", pod, *files)
        session.run("", "start", container)
        pods[session.name] = (pod, container)
    seen = {s.name: s.run("", "pods", "-q").split() for s in (ours, theirs)}
    expected = {name: [pod] for name, (pod, _) in pods.items()}
    yield verdict("each lists its own pods only", seen == expected, seen)
    addresses = [json.loads(s.run("", "inspectp", pods[s.name][0]))["status"]["network"]["ip"] for s in (ours, theirs)]
    yield Result(
        "each pod has its own address", "passed" if len(set(addresses)) == 2 else "failed", said=str(addresses)
    )
    for name in ("ketch", "containerd"):
        ours.machine.stop(name)
        RUNTIMES[name].restart(ours.machine)
    answers = {}
    for session in (ours, theirs):
        reached = session.run("", "exec", "-s", pods[session.name][1], "ping", "-c", "1", "-W", "5", addresses[0])
        answers[session.name] = "1 packets received" in reached
    held = ours.machine.read("sh", "-c", "ls /var/lib/cni/networks/pods")
    answers["addresses held"] = all(address in held for address in addresses)
    yield Result(
        "both live on when both are restarted", "passed" if all(answers.values()) else "failed", said=str(answers)
    )
    for session in (ours, theirs):
        session.run("", "rmp", "-fa")
    yield from gone(ours.machine)


def gone(machine: Machine) -> Iterator[Result]:
    held = machine.read("sh", "-c", "ls /var/lib/cni/networks/pods | grep ^10.88 || true").split()
    yield verdict("both give their addresses back", not held, held)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="crictl", description=__doc__)
    parser.add_argument("--keep", type=Path, help="where logs and outputs go (default: a new folder below /tmp)")
    wanted = parser.parse_args(words)
    folder = wanted.keep or Path(tempfile.mkdtemp(prefix="ketch-crictl-"))
    storage = registry.storage(image_set.FOR_CRITEST)
    machine = power_on("crictl", folder / "crictl")
    try:
        ours, theirs = at_once(machine, storage)
        results = list(neighbours(ours, theirs))
        for session in (theirs, ours):
            session.everything()
    finally:
        machine.power_off()
    results += compare(ours, theirs)
    for session in (ours, theirs):
        (folder / f"{session.name}.json").write_text(json.dumps(session.said, indent=1))
    expected = table.parse_expected((HERE / "crictl-ketch.expected").read_text())
    text, status = table.report(results, expected, is_whole_suite=True)
    print(f"crictl on ketch beside containerd: {text}\noutputs: {folder}")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.TimeoutExpired as late:
        sys.exit(f"crictl: {late}")
