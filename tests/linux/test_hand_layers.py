# SPDX-License-Identifier: Apache-2.0
"""diff and commit: what a container has written, and the image that is made of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.support.hand import Ketch

pytestmark = pytest.mark.needs("root")

WRITTEN = (
    "touch /root/new; echo more >> /etc/passwd; rm /etc/shadow; mkdir -p /srv/deep; echo x > /srv/deep/file;"
    "mv /var/www /var/moved; rm -r /var/log; mkdir /var/log; ln -s /etc/passwd /link; chmod 700 /home;"
    "rm /bin/yes; mkdir /bin/yes"
)


def test_diff_names_what_was_added_changed_and_deleted_and_nothing_else(ketch: Ketch) -> None:
    ketch("run", "--name", "box", "-v", "data:/data", "busybox", "sh", "-c", f"{WRITTEN}; touch /data/not-ours")
    assert ketch("diff", "box").splitlines() == [
        "C /bin",
        "C /bin/yes",
        "A /data",
        "C /etc",
        "C /etc/passwd",
        "D /etc/shadow",
        "C /home",
        "A /link",
        "C /root",
        "A /root/new",
        "A /srv",
        "A /srv/deep",
        "A /srv/deep/file",
        "C /var",
        "A /var/moved",
        "D /var/www",
    ]
    ketch("run", "--name", "idle", "busybox", "true")
    assert ketch("diff", "idle") == ""


def test_what_replaced_a_folder_hides_what_was_in_it(ketch: Ketch) -> None:
    ketch("run", "--name", "box", "busybox", "sh", "-c", "rm -r /etc; mkdir /etc; echo hello > /etc/motd")
    assert ketch("diff", "box").splitlines() == [
        "C /etc",
        "D /etc/group",
        "A /etc/motd",
        "D /etc/passwd",
        "D /etc/shadow",
    ]
    ketch("commit", "box", "bare")
    shown = ketch("run", "--rm", "--network", "none", "bare", "ls", "/etc").split()
    assert shown == ["hostname", "hosts", "motd", "resolv.conf"]


@pytest.mark.in_vm_too
def test_an_image_made_of_a_container_holds_what_it_wrote_and_how_it_was_run(ketch: Ketch, tmp_path: Path) -> None:
    run = ("run", "--name", "box", "-e", "A=1", "-w", "/srv", "--label", "tier=web", "busybox", "sh", "-c", WRITTEN)
    ketch(*run)
    words = ("-a", "me", "-m", "with more", "-c", 'CMD ["cat", "deep/file"]', "-c", "ENV B=2")
    image = ketch("commit", *words, "box", "mine:v2").strip()
    assert ketch("run", "--rm", "mine:v2") == "x\n"
    (described,) = ketch.json("inspect", image)
    assert described["RepoTags"] == ["mine:v2"]
    assert described["Author"] == "me"
    assert described["Config"]["Env"][-2:] == ["A=1", "B=2"]
    assert described["Config"]["WorkingDir"] == "/srv"
    assert described["Config"]["Labels"] == {"tier": "web"}
    (base,) = ketch.json("inspect", "busybox")
    assert described["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"]
    assert "with more" in ketch("history", "mine:v2", "--format", "{{.Comment}}")
    ketch("run", "--name", "again", "mine:v2", "true")
    assert ketch("diff", "again") == ""
    assert ketch(
        "run", "--rm", "mine:v2", "sh", "-c", "ls -d /etc/shadow /var/www /bin/yes /var/moved 2>/dev/null || true"
    ).split() == [
        "/bin/yes",
        "/var/moved",
    ]
    ketch("save", "-o", str(tmp_path / "a.tar"), "mine:v2")
    ketch("rm", "-f", "-a")
    ketch("rmi", "mine:v2", "busybox")
    ketch("load", "-i", str(tmp_path / "a.tar"))
    assert ketch("run", "--rm", "mine:v2") == "x\n"


def test_owners_of_a_mapped_container_are_its_own_in_the_image(ketch: Ketch) -> None:
    ketch(
        "run",
        "--name",
        "box",
        "--uidmap",
        "0:70000:65536",
        "busybox",
        "sh",
        "-c",
        "touch /f; chown 33:33 /f; chown 8 /home",
    )
    assert ketch("diff", "box").splitlines() == ["A /f", "C /home"]
    ketch("commit", "box", "mapped")
    assert ketch("run", "--rm", "mapped", "stat", "-c", "%u:%g", "/f", "/home", "/").split() == ["33:33", "8:0", "0:0"]


def test_a_container_that_swaps_a_folder_for_a_link_gets_nothing_of_this_machine_into_an_image(
    ketch: Ketch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("of the host")
    os.chmod(tmp_path, 0o755)
    swap = f"mkdir /a; echo inside > /a/secret; ln -s {tmp_path} /b; "
    swap += "while :; do mv /a /c; mv /b /a; mv /a /b; mv /c /a; done"
    ketch("run", "-d", "--name", "box", "busybox", "sh", "-c", swap)
    for number in range(12):
        done = ketch.call("commit", "--pause=false", "box", f"try{number}")
        if done.returncode == 0:
            found = ketch.call(
                "run", "--rm", "--network", "none", f"try{number}", "grep", "-rs", "of the host", "/a", "/b", "/c"
            )
            assert found.stdout == ""
        else:
            assert done.stderr.count("\n") == 1, done.stderr


def test_a_running_container_stands_still_while_its_image_is_written(ketch: Ketch) -> None:
    count = "i=0; while :; do i=$((i+1)); echo $i > /one; echo $i > /two; done"
    ketch("run", "-d", "--name", "box", "busybox", "sh", "-c", count)
    ketch("exec", "box", "sh", "-c", "until [ -s /two ]; do :; done")
    ketch("commit", "box", "still")
    assert ketch("ps", "--format", "{{.State}}") == "running\n"
    one, two = ketch("run", "--rm", "still", "sh", "-c", "cat /one; echo; cat /two").split("\n", 1)
    assert int(one or 0) - int(two.strip() or 0) in (0, 1) or not (one and two.strip())


def test_two_commits_at_once_make_two_images(ketch: Ketch) -> None:
    ketch("run", "--name", "box", "busybox", "touch", "/f")
    threads = [threading.Thread(target=ketch.call, args=("commit", "-m", name, "box", name)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ketch("run", "--rm", "one", "ls", "/f") == ketch("run", "--rm", "two", "ls", "/f") == "/f\n"
