# SPDX-License-Identifier: Apache-2.0
"""A TCP cable to a server on loopback that counts what goes through it and breaks where a test wants it to."""

import socket
import threading


class Cable:
    """Connections to `host` lead to the port `target`. `breaks`: after so many bytes towards the server all are cut."""

    def __init__(self, target: int, breaks: list[int]) -> None:
        self.sent = 0
        self.cuts = 0
        self.connections = 0
        self._target = target
        self._breaks = sorted(breaks)
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            with self._lock:
                self.connections += 1
                self._open += [near, far]
            self._start(self._carry, near, far, True)
            self._start(self._carry, far, near, False)

    def _carry(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(65536):
                if counted and self._cut(len(data)):
                    return
                target.sendall(data)
        except OSError:
            pass
        _shut(source)
        _shut(target)

    def _cut(self, size: int) -> bool:
        with self._lock:
            if self._breaks and self.sent + size > self._breaks[0]:
                self._breaks.pop(0)
                self.cuts += 1
                for one in self._open:
                    _shut(one)
                return True
            self.sent += size
            return False

    def __enter__(self) -> "Cable":
        return self

    def __exit__(self, *_: object) -> None:
        _shut(self._listener)
        self._listener.close()
        for one in self._open:
            _shut(one)
        for thread in self._threads:
            thread.join()
        for one in self._open:
            one.close()


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
