# SPDX-License-Identifier: Apache-2.0
"""The pure parts of the door for people: words, notations, tables, manifests."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from cri.hand import commands, grammar, manifest, manual, options, tables, templates
from cri.hand.errors import HandError, UsageError
from cri.hand.terminal import detach_keys

RUN = next(command for command in commands.ALL if command.words == "run")
LOGS = next(command for command in commands.ALL if command.words == "logs")


def test_everything_after_the_image_belongs_to_the_container() -> None:
    arguments = grammar.parse(RUN, ["-it", "--rm", "-e", "A=1", "-eB=2", "image", "sh", "-c", "--rm"])
    assert arguments.words == ["image", "sh", "-c", "--rm"]
    assert arguments.flag("interactive")
    assert arguments.flag("tty")
    assert arguments.many("env") == ["A=1", "B=2"]


def test_other_commands_take_options_anywhere() -> None:
    arguments = grammar.parse(LOGS, ["web", "-f", "--tail=5"])
    assert (arguments.words, arguments.flag("follow"), arguments.text("tail")) == (["web"], True, "5")


def test_flags_can_be_said_to_be_false() -> None:
    assert not grammar.parse(RUN, ["--rm=false", "image"]).flag("rm")


def test_every_command_names_a_function_that_exists() -> None:
    from cri.hand.cli import function_of

    for command in commands.ALL:
        assert callable(function_of(command)), command.words


def test_no_command_gives_two_options_one_name() -> None:
    for command in commands.ALL:
        names = [option.long for option in command.options] + [o.short for o in command.options if o.short]
        assert len(names) == len(set(names)), command.words


@pytest.mark.parametrize(("shell", "text"), [("bash", manual.bash()), ("zsh", manual.zsh()), ("fish", manual.fish())])
def test_completion_scripts_are_valid(shell: str, text: str) -> None:
    program = shutil.which(shell)
    if program is not None:
        done = subprocess.run([program, "-n"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "ps" in text


def test_every_man_page_has_its_parts() -> None:
    for command in commands.ALL:
        page = manual.man_page(command)
        assert page.startswith(".TH")
        assert ".SH SYNOPSIS" in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [("tcp", 80, 0, "")]),
        ("8080:80", [("tcp", 80, 8080, "")]),
        ("127.0.0.1:8080:80/udp", [("udp", 80, 8080, "127.0.0.1")]),
        ("127.0.0.1::80", [("tcp", 80, 0, "127.0.0.1")]),
        ("[::1]:8080:80", [("tcp", 80, 8080, "::1")]),
        ("8000-8001:80-81", [("tcp", 80, 8000, ""), ("tcp", 81, 8001, "")]),
    ],
)
def test_ports_are_read_as_docker_reads_them(text: str, expected: list[tuple[str, int, int, str]]) -> None:
    assert [
        (m.protocol, m.container_port, m.host_port, m.host_ip) for m in options.ports("--publish", text)
    ] == expected


@pytest.mark.parametrize("text", ["", "x:80", "80:x", "1:2:3:4", "0:80", "80/icmp", "8000-8002:80-81", "81-80:1-2"])
def test_senseless_ports_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        options.ports("--publish", text)


@pytest.mark.parametrize(
    ("text", "count"), [("512m", 512 << 20), ("2g", 2 << 30), ("1.5GiB", 3 << 29), ("100", 100), ("64K", 65536)]
)
def test_sizes(text: str, count: int) -> None:
    assert options.size("--memory", text) == count


PORTS = {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "90/udp": None}
SHOWN: object = {
    "A": {"B": 1},
    "L": [{"N": "x"}, {"N": "y"}],
    "M": {"k": "v"},
    "T": True,
    "Empty": [],
    "NetworkSettings": {"Ports": PORTS, "Networks": {"bridge": {"IPAddress": "172.17.0.2"}}},
    "Cmd": ["sh", "-c"],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ('{{.A.B}} {{range .L}}{{.N}},{{end}} {{json .A}} {{index .M "k"}} {{.t}}', '1 x,y, {"B": 1} v true'),
        # docker's manual of inspect has these
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "172.17.0.2"),
        ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
        (
            "{{range $p, $conf := .NetworkSettings.Ports}} {{$p}} -> "
            "{{if $conf}}{{(index $conf 0).HostPort}}{{else}}-{{end}}{{end}}",
            " 80/tcp -> 8080 90/udp -> -",
        ),
        ('{{join .Cmd " "}} {{len .Cmd}} {{.A | json}}', 'sh -c 2 {"B": 1}'),
        ("{{range .Empty}}{{.N}}{{else}}none{{end}} {{if eq .A.B 1}}one{{else if .T}}two{{end}}", "none one"),
        ('{{with .A}}{{.B}} {{$.T}}{{end}} {{printf "%s=%v" .M.k .A.B}} {{upper .M.k}}', "1 true v=1 V"),
        ("a {{- .T -}} b {{$x := .A.B}}{{$x}}{{/* said nowhere */}}", "atrueb 1"),
    ],
)
def test_templates_print_what_go_prints(template: str, text: str) -> None:
    assert templates.fill_template(template, SHOWN) == text


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{.X}}", r"there is no \.X"),
        ("{{.A", "without"),
        ("{{range .L}}x", "end}} is missing"),
        ("{{end}}", "without a beginning"),
        ("{{nosuch .A}}", "is not there|no function|there is no"),
        ("{{index .Cmd 7}}", "range"),
        ("{{}}", "empty"),
    ],
)
def test_a_wrong_template_is_one_sentence(template: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        templates.fill_template(template, SHOWN)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (75, "About a minute"), (600, "10 minutes")],
)
def test_ages_are_docker_s_words(seconds: float, words: str) -> None:
    assert tables.age(seconds) == words


def test_the_keys_that_leave() -> None:
    assert detach_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert detach_keys("a") == b"a"


def read(text: str) -> list[manifest.PodPlan]:
    return manifest.read(text, "pod.yaml", lambda: manifest.Directories("id", "/v", "/s", "/c"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "not YAML"),
        ("kind: Pod\nmetadata: {name: x}\nspec:\n  contaners: []", "pod.yaml:4:14: spec.contaners: unknown field"),
        ("kind: Pod\nmetadata: {name: x}\nspec: {containers: []}", "containers is missing"),
        ("kind: Deployment\nmetadata: {name: x}", "'Deployment' is not offered by hand"),
        ("kind: Pod\nspec: {containers: [{name: a, image: i}]}", "metadata.name is missing"),
        (
            "kind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n"
            "  - {name: a, image: i, ports: [{containerPort: http}]}",
            "pod.yaml:5:49: spec.containers[0].ports[0].containerPort: expected a whole number, got 'http'",
        ),
        (
            "kind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n"
            "  - {name: a, image: i, volumeMounts: [{name: v, mountPath: /x}]}",
            "there is no volume 'v'",
        ),
        (
            "kind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n"
            "  - {name: a, image: i, resources: {limits: {memory: 64Q}}}",
            "'64Q' is not a quantity",
        ),
    ],
)
def test_what_is_wrong_in_a_manifest_is_said_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(HandError) as caught:
        read(text)
    assert sentence in str(caught.value)


def test_a_manifest_s_values_arrive_where_they_belong() -> None:
    (plan,) = read(
        "kind: Pod\nmetadata: {name: x, labels: {a: b}}\nspec:\n  hostNetwork: true\n  restartPolicy: Always\n"
        "  containers:\n  - name: c\n    image: i\n    command: [run, $(WHO)]\n"
        "    env: [{name: WHO, value: me}]\n    resources: {limits: {cpu: 500m, memory: 64Mi}}\n"
    )
    (container,) = plan.containers
    assert container.command == ("run", "me")
    assert (container.resources.cpu_quota, container.resources.memory_limit_bytes) == (50_000, 64 << 20)
    assert plan.pod.namespaces.network == "node"
    assert plan.told == ("restartPolicy: Always",)
