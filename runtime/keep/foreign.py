# SPDX-License-Identifier: Apache-2.0
"""A container made by another OCI command (runc, crun, kata ...), run as any engine runs it."""

import json
import os
import socket
from typing import Any

from runtime.keep import places
from runtime.linux import fdpass


class Maker:
    """create, start, and on failure delete --force, of one container."""

    def __init__(self, request: dict[str, Any], state_dir: str) -> None:
        self._request = request
        self.id: str = request["id"]
        self.directory = places.container_dir(state_dir, self.id)
        self._log = self.directory + "/handler.log"
        self._terminal: list[int] = []
        self._created = False

    def create(self, stdio: list[int]) -> int:
        """The pid of the init, which waits for start."""
        pid_file = self.directory + "/handler.pid"
        arguments = ["create", "--bundle", self._request["bundle"], "--pid-file", pid_file]
        self._created = True  # from here on something may have been made
        if self._request["tty"]:
            self.with_terminal(arguments, self.directory + "/console.sock")
        else:
            self.run([*arguments, self.id], stdio)
        with open(pid_file, encoding="ascii") as file:
            return int(file.read())

    def start(self) -> None:
        """Let the program run."""
        self.run(["start", self.id], [])

    def descriptors(self) -> list[int]:
        """The terminal's master, if the container has one."""
        return self._terminal

    def undo(self) -> list[str]:
        """Take down what create has made; answers what went wrong."""
        if not self._created:
            return []
        try:
            self.run(["delete", "--force", self.id], [])
        except (OSError, ValueError):
            pass  # most often: nothing had been made
        return []

    def with_terminal(self, arguments: list[str], path: str) -> None:
        """Run a command that sends the master of the terminal it makes to the socket at path."""
        listener = fdpass.listen(path)
        try:
            self.run([*arguments, "--console-socket", path, self.id], [])
            connection, _ = socket.socket(fileno=listener.detach()).accept()
        finally:
            listener.close()
            os.unlink(path)
        with connection:
            _, fds = fdpass.receive(connection)
        if len(fds) != 1:
            raise ValueError(f"{self._request['handler'][0]} sent {len(fds)} descriptors for the terminal, not one")
        self._terminal = fds

    def run(self, arguments: list[str], stdio: list[int]) -> None:
        """One command; raises with its own last words."""
        handler = list(self._request["handler"])
        options = ["--log", self._log, "--log-format", "json"]
        if self._request["systemd_cgroup"]:
            options.append("--systemd-cgroup")
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio or [null, null, null])]
        try:
            child = os.posix_spawnp(handler[0], handler + options + arguments, os.environ, file_actions=actions)
        except FileNotFoundError:
            raise ValueError(f"the handler's command {handler[0]} was not found (is it installed?)") from None
        finally:
            os.close(null)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            raise ValueError(f"{handler[0]} {arguments[0]}: {self._last_words() or f'it ended with {code}'}")

    def _last_words(self) -> str:
        try:
            with open(self._log, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            return ""
        for line in reversed(lines):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("level") in ("error", "fatal"):
                return str(entry.get("msg"))
        return ""


class Joiner:
    """exec of one process into a container of a foreign command."""

    def __init__(self, record: dict[str, Any], request: dict[str, Any], state_dir: str) -> None:
        self.terminal = -1
        self._maker = Maker({**record, "tty": request["tty"]}, state_dir)
        self._process = {**request["process"], "terminal": bool(request["tty"])}

    def join(self, stdio: list[int]) -> int:
        """The pid of the program, our child: we are its subreaper."""
        base = f"{self._maker.directory}/exec-{os.getpid()}"
        try:
            with open(base + ".json", "x", encoding="utf-8") as file:
                json.dump(self._process, file)
            arguments = ["exec", "--process", base + ".json", "--detach", "--pid-file", base + ".pid"]
            if self._process["terminal"]:
                self._maker.with_terminal(arguments, base + ".sock")
                self.terminal = self._maker.descriptors()[0]
            else:
                self._maker.run([*arguments, self._maker.id], stdio)
            with open(base + ".pid", encoding="ascii") as file:
                return int(file.read())
        finally:
            for path in (base + ".json", base + ".pid"):
                if os.path.exists(path):
                    os.unlink(path)
