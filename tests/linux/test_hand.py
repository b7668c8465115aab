# SPDX-License-Identifier: Apache-2.0
"""`ketch` as people use it: docker's steps, in docker's order, on the real kernel."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.hand import Ketch
from tests.support.instruments import command

pytestmark = pytest.mark.needs("root")


def fetch(port: int, path: str = "/") -> str:
    """A page of this machine, as soon as somebody serves it."""
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as page:
                text: str = page.read().decode()
                return text
        except OSError:
            assert time.monotonic() < deadline, f"nobody serves port {port}"
            time.sleep(0.05)


def test_a_container_prints_ends_with_its_code_and_leaves_nothing(ketch: Ketch) -> None:
    done = ketch.call("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert ketch.left() == []


def test_stdin_reaches_the_container_and_its_end_too(ketch: Ketch) -> None:
    text = "a line\n" * 20_000
    assert ketch("run", "--rm", "-i", "busybox", "md5sum", stdin=text).split()[0] == _md5(text)


def _md5(text: str) -> str:
    from hashlib import md5

    return md5(text.encode()).hexdigest()


def test_a_web_server_in_the_background_from_run_to_rm(ketch: Ketch) -> None:
    script = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"
    identity = ketch("run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", script).strip()
    assert fetch(8080) == "hello\n"
    row = ketch("ps", "--format", "{{.ID}} {{.Image}} {{.State}} {{.Ports}} {{.Names}}").strip()
    assert row == f"{identity[:12]} busybox running 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp web"
    assert ketch("port", "web", "80") == "0.0.0.0:8080\n[::]:8080\n"
    assert ketch("exec", "web", "cat", "/www/index.html") == "hello\n"
    assert ketch("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web").startswith("172.17.0.")
    assert ketch("stop", "-t", "0", "web") == "web\n"
    assert ketch("ps", "-q") == ""
    assert "Exited (137)" in ketch("ps", "-a")
    ketch("start", identity[:6])
    assert fetch(8080) == "hello\n"  # its files are still there
    assert "is running" in ketch.refused("rm", "web")
    assert ketch("rm", "-f", "web") == "web\n"
    assert ketch.left() == []


def test_the_hostname_is_the_short_id_and_names_are_unique(ketch: Ketch) -> None:
    identity = ketch("run", "-d", "--name", "one", "busybox", "sleep", "60").strip()
    assert ketch("exec", "one", "hostname").strip() == identity[:12]
    assert "the name 'one' is taken" in ketch.refused("run", "--name", "one", "busybox", "true")
    ketch("rename", "one", "two")
    assert ketch("ps", "--format", "{{.Names}}") == "two\n"


def test_logs_come_back_by_line_with_times_and_from_the_end(ketch: Ketch) -> None:
    ketch("run", "--name", "talker", "busybox", "sh", "-c", "seq 1 1000; printf unfinished; echo wrong >&2")
    assert ketch("logs", "--tail", "3", "talker").splitlines()[-1] == "unfinished"
    assert ketch("logs", "talker").splitlines()[:2] == ["1", "2"]
    assert ketch.call("logs", "talker").stderr == "wrong\n"
    stamp = ketch("logs", "-t", "--tail", "2", "talker").split()[0]  # either stream may be last
    assert stamp[:4].isdigit()
    assert stamp.endswith("Z")
    ketch("run", "-d", "--name", "slow", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done")
    assert ketch("logs", "-f", "slow") == "1\n2\n3\n"


def test_a_volume_outlives_its_containers_and_begins_with_the_images_files(ketch: Ketch) -> None:
    ketch(
        "run", "--rm", "--mount", "source=myvolume,target=/app", "busybox", "sh", "-c", "echo test > /app/hello_world"
    )
    assert ketch("run", "--rm", "-v", "myvolume:/newapp:ro", "busybox", "cat", "/newapp/hello_world") == "test\n"
    assert ketch("volume", "ls", "-q") == "myvolume\n"
    (described,) = ketch.json("volume", "inspect", "myvolume")
    assert sorted(described) == ["CreatedAt", "Driver", "Labels", "Mountpoint", "Name", "Options", "Scope"]
    assert "Read-only" in ketch.call("run", "--rm", "-v", "myvolume:/v:ro", "busybox", "touch", "/v/x").stderr
    ketch("run", "--rm", "-v", "bins:/bin", "busybox", "true")
    assert "busybox" in os.listdir(ketch.root / "volumes/bins/_data")
    ketch("volume", "rm", "myvolume", "bins")
    assert ketch("volume", "ls", "-q") == ""


def test_networks_are_as_docker_shows_them(ketch: Ketch) -> None:
    rows = [line.split()[1:] for line in ketch("network", "ls").splitlines()[1:]]
    assert rows == [["bridge", "bridge", "local"], ["host", "host", "local"], ["none", "null", "local"]]
    assert ketch("run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net") == "lo\n"
    eth0 = ketch("run", "--rm", "busybox", "ip", "-4", "addr", "show", "eth0")
    assert "/16 brd 172.17.255.255" in eth0
    assert "default via 172.17.0.1 dev eth0" in ketch("run", "--rm", "busybox", "ip", "route")


def test_members_of_a_network_find_each_other_by_name_and_nobody_else_reaches_them(ketch: Ketch) -> None:
    ketch("network", "create", "mynet")
    ketch("run", "-d", "--name", "db", "--network", "mynet", "busybox", "sleep", "60")
    assert "1 packets received" in ketch("run", "--rm", "--network", "mynet", "busybox", "ping", "-c1", "db")
    address = ketch("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "db").strip()
    assert ketch.call("run", "--rm", "busybox", "ping", "-c1", "-W1", address).returncode == 1
    assert "in use by db" in ketch.refused("network", "rm", "mynet")
    ketch("rm", "-f", "db")
    assert "bad address" in ketch.call("run", "--rm", "--network", "mynet", "busybox", "ping", "-c1", "db").stderr
    ketch("network", "rm", "mynet")


def test_a_port_that_is_taken_is_refused_with_the_name_of_who_has_it(ketch: Ketch) -> None:
    ketch("run", "-d", "--name", "first", "-p", "8081:80", "busybox", "sleep", "60")
    assert "port 8081/tcp of this machine is taken by container first" in ketch.refused(
        "run", "-p", "8081:80", "busybox", "true"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        sentence = ketch.refused("run", "-p", f"{port}:80", "busybox", "true")
    assert f"taken by {Path('/proc/self/comm').read_text().strip()} (process " in sentence
    ketch("rm", "-f", "first")
    assert ketch.left() == []


@pytest.mark.in_vm_too
def test_limits_are_what_the_cgroup_enforces(ketch: Ketch) -> None:
    words = (
        "run",
        "--name",
        "hungry",
        "-m",
        "16m",
        "busybox",
        "sh",
        "-c",
        "dd if=/dev/zero of=/dev/shm/x bs=20M count=1",
    )
    assert ketch.call(*words).returncode == 137
    assert ketch("inspect", "-f", "{{.State.OOMKilled}}", "hungry") == "true\n"
    assert "the kernel killed it: it wanted more memory than its limit of 16MiB" in ketch("why", "hungry")


def test_files_are_copied_both_ways_and_never_past_the_containers_root(ketch: Ketch, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    link = f"ln -s {secret} /stolen; mkdir -p /d/sub; echo deep > /d/sub/file; sleep 60"
    ketch("run", "-d", "--name", "box", "busybox", "sh", "-c", link)
    ketch("exec", "box", "sh", "-c", "until [ -f /d/sub/file ]; do sleep 0.05; done")
    (tmp_path / "in").write_text("into")
    ketch("cp", str(tmp_path / "in"), "box:/d/")
    assert ketch("exec", "box", "cat", "/d/in") == "into"
    ketch("cp", "box:/d", str(tmp_path / "out"))
    assert (tmp_path / "out/sub/file").read_text() == "deep\n"
    ketch.call("cp", "box:/stolen", str(tmp_path / "got"))
    assert not (tmp_path / "got").exists()
    ketch.call("cp", str(tmp_path / "in"), "box:/stolen")
    assert secret.read_text() == "of the host"


def test_a_container_of_rm_in_the_background_is_gone_when_it_has_ended(ketch: Ketch) -> None:
    ketch("run", "-d", "--rm", "--name", "brief", "busybox", "sleep", "0.3")
    deadline = time.monotonic() + 10
    while ketch.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ketch.left() == []


@pytest.mark.in_vm_too
def test_pause_top_stats_and_wait_tell_what_is(ketch: Ketch) -> None:
    ketch("run", "-d", "--name", "c", "busybox", "sleep", "60")
    ketch("pause", "c")
    assert ketch("ps", "--format", "{{.State}}") == "paused\n"
    ketch("unpause", "c")
    assert ketch("top", "c").splitlines()[1].endswith("sleep 60")
    assert ketch("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}") == "c 1\n"
    ketch("kill", "c")
    assert ketch("wait", "c") == "137\n"


def test_docker_s_exit_codes_for_what_cannot_be_run(ketch: Ketch) -> None:
    assert ketch.call("run", "--rm", "busybox", "nonsense").returncode == 127
    assert ketch.call("run", "--rm", "busybox", "/etc").returncode == 126
    assert ketch.call("run", "--nonsense", "busybox").returncode == 125
    assert ketch.call("run", "--rm", "--pull", "never", "nosuch", "true").returncode == 125
    assert ketch.left() == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "--memroy", "1g", "busybox"), "unknown option --memroy (did you mean '--memory'?)"),
        (("rnu", "busybox"), "unknown command 'rnu' (did you mean 'run'?)"),
        (("run", "-m", "1k", "busybox"), "--memory: 1k is too little for any process (at least 6m)"),
        (("run", "-m", "lots", "busybox"), "--memory: 'lots' is not a size such as 512m or 2g"),
        (("run", "-p", "99999:80", "busybox"), "'99999' is not a port between 1 and 65535"),
        (("run", "--cap-add", "NET_ADMN", "busybox"), "unknown capability 'NET_ADMN' (did you mean 'NET_ADMIN'?)"),
        (("run", "--network", "brigde", "busybox", "true"), "no such network: brigde (did you mean 'bridge'?)"),
        (("run", "--mount", "type=bind,source=/nowhere,target=/x", "busybox", "true"), "cannot mount /nowhere"),
        (("run", "-v", "/x:relative", "busybox"), "'relative' is not an absolute path"),
        (("run", "--restart", "always", "busybox"), "needs a process that keeps it"),
        (("run", "--pull", "never", "busibox", "true"), "no such image here: busibox"),
        (("logs", "nobody"), "no such container: nobody"),
        (("run",), "run: IMAGE missing"),
        (("volume", "rm", "nothing"), "no such volume: nothing"),
        (("network", "create", "--subnet", "10.0.0.1/8", "n"), "--subnet: 10.0.0.1/8 has host bits set"),
        (("ps", "--format", "{{.Nmae}}"), "there is no .Nmae"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence_and_changes_nothing(
    ketch: Ketch, words: tuple[str, ...], sentence: str
) -> None:
    if words[0] == "ps":
        ketch("run", "-d", "busybox", "sleep", "60")
    assert sentence in ketch.refused(*words)
    ketch("rm", "-f", "-a")
    assert ketch.left() == []


POD = """
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {index.html: from the map}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: sesame}
---
apiVersion: v1
kind: Pod
metadata: {name: hello, labels: {app: hello}}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
    - {name: site, emptyDir: {}}
    - {name: words, configMap: {name: words}}
    - {name: key, secret: {secretName: key, defaultMode: 0400}}
  initContainers:
    - name: prepare
      image: busybox
      command: [cp, /words/index.html, /site/]
      volumeMounts: [{name: site, mountPath: /site}, {name: words, mountPath: /words}]
  containers:
    - name: web
      image: busybox
      command: [httpd, -f, -p, "80", -h, /site]
      ports: [{containerPort: 80, hostPort: 8082}]
      volumeMounts: [{name: site, mountPath: /site}]
    - name: other
      image: busybox
      command: [sleep, "60"]
      env:
        - {name: WHERE, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
        - {name: BOTH, value: "$(LABEL)-$(WHERE)"}
      securityContext: {runAsUser: 1000, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: key, mountPath: /key}]
      livenessProbe: {exec: {command: ["true"]}}
"""


def test_a_kubernetes_pod_runs_from_its_yaml_and_goes_without_a_trace(ketch: Ketch, tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text(POD)
    done = ketch.call("pod", "apply", "-f", str(tmp_path / "pod.yaml"))
    assert done.stdout == "pod/hello created\n", done.stderr
    assert "not kept by hand yet: livenessProbe" in done.stderr
    assert fetch(8082) == "from the map"
    assert ketch("pod", "ls", "--format", "{{.Name}} {{.Ready}} {{.Status}}") == "hello 2/2 Running\n"
    exec_ = ("pod", "exec", "hello", "-c", "other", "--", "sh", "-c")
    assert ketch(*exec_, "wget -q -O - http://localhost/") == "from the map"
    address = ketch("pod", "ls", "--format", "{{.IP}}").strip()
    assert ketch(*exec_, "echo $BOTH; id -u; hostname") == f"hello-{address}\n1000\nhello\n"
    assert "Read-only" in ketch.call(*exec_, "touch /x").stderr
    assert "CapEff:\t0000000000000000" in ketch(*exec_, "cat /proc/self/status")
    assert "there is a pod hello already" in ketch.call("pod", "apply", "-f", str(tmp_path / "pod.yaml")).stderr
    ketch("pod", "delete", "-f", str(tmp_path / "pod.yaml"))
    assert ketch.left() == []


def test_an_init_container_that_fails_stops_the_pod_and_why_says_so(ketch: Ketch) -> None:
    broken = POD.replace("[cp, /words/index.html, /site/]", "[cp, /words/nothing, /site/]")
    done = ketch.call("pod", "apply", "-f", "-", stdin=broken)
    assert "init container prepare ended with 1" in done.stderr
    assert (
        "can't stat '/words/nothing'"
        in ketch("pod", "logs", "hello", "-c", "prepare") + ketch.call("pod", "logs", "hello", "-c", "prepare").stderr
    )
    assert "hello/prepare: cp" in ketch("why", "hello")


def test_the_same_image_makes_the_round_trip_through_an_archive(ketch: Ketch, tmp_path: Path) -> None:
    before = ketch("images", "-q", "--no-trunc")
    ketch("tag", "busybox", "mine:v1")
    ketch("rmi", "busybox")
    ketch("save", "-o", str(tmp_path / "a.tar"), "mine:v1")
    ketch("rmi", "-f", "mine:v1")
    assert ketch("images", "-q") == ""
    assert ketch("load", "-i", str(tmp_path / "a.tar")) == "Loaded image: mine:v1\n"
    assert ketch("images", "-q", "--no-trunc") == before


def test_explain_has_no_effect_and_names_what_would_be(ketch: Ketch) -> None:
    text = ketch("explain", "run", "-p", "80:80", "-m", "64m", "--read-only", "-v", "data:/data", "busybox", "true")
    for phrase in (
        "new network namespace",
        "limit memory",
        "hostPort tcp 80 -> 80",
        "make the root file system read-only",
    ):
        assert phrase in text, text
    assert ketch("volume", "ls", "-q") == ""
    assert ketch.left() == []


def test_what_a_killed_command_left_half_made_is_gone_with_the_next_one(ketch: Ketch) -> None:
    chance = random.Random(3)
    for _ in range(8):
        with subprocess.Popen([command("ketch"), "create", "busybox", "true"], env=ketch.environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as made:  # fmt: skip
            time.sleep(chance.uniform(0.02, 0.5))
            made.kill()
    ketch("create", "--name", "last", "busybox", "true")
    whole = ketch("ps", "-a", "-q").split()
    ketch("rm", "-f", *whole)
    assert ketch.left() == []


def test_a_pid_namespace_and_groups_by_name_are_shared_as_docker_shares_them(ketch: Ketch) -> None:
    ketch("run", "-d", "--name", "seen", "busybox", "sleep", "77")
    assert "sleep 77" in ketch("run", "--rm", "--pid", "container:seen", "busybox", "ps")
    ketch("stop", "-t", "0", "seen")
    assert "is not running" in ketch.refused("run", "--rm", "--pid", "container:seen", "busybox", "true")
    assert "not in the image's /etc/group" in ketch.refused("run", "--rm", "--group-add", "video", "busybox", "id")
    assert ketch("run", "--rm", "--group-add", "0", "--group-add", "44", "busybox", "id", "-G").split() == ["0", "44"]


def test_a_mac_address_is_made_of_the_address(ketch: Ketch) -> None:
    mac, address = ketch("run", "--rm", "busybox", "sh", "-c", "cat /sys/class/net/eth0/address; hostname -i").split()
    assert mac == "02:42:" + ":".join(f"{int(octet):02x}" for octet in address.split("."))
