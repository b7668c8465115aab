# SPDX-License-Identifier: Apache-2.0
"""A small D-Bus client: values as the wire has them, calls that wait for their answer, signals kept until asked for."""

import _socket
import os

from runtime.linux import fdpass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

# What each basic type is: its size, which is also its alignment, and whether it has a sign.
_FIXED = {
    "y": (1, False),
    "b": (4, False),
    "n": (2, True),
    "q": (2, False),
    "i": (4, True),
    "u": (4, False),
    "x": (8, True),
    "t": (8, False),
    "h": (4, False),
}
_ALIGNMENT = {name: size for name, (size, _) in _FIXED.items()} | {
    "d": 8,
    "s": 4,
    "o": 4,
    "g": 1,
    "a": 4,
    "v": 1,
    "(": 8,
    "{": 8,
}
CALL, ANSWER, ERROR, SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_HEADER = "yyyyuua(yv)"
MOST_BYTES = 1 << 27  # of the specification


class Variant:
    """A value that carries its type."""

    __slots__ = ("signature", "value")

    def __init__(self, signature: str, value: "Any") -> None:
        self.signature = signature
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variant) and (self.signature, self.value) == (other.signature, other.value)

    def __hash__(self) -> int:
        return hash(self.signature)

    def __repr__(self) -> str:
        return f"Variant({self.signature!r}, {self.value!r})"


class DBusError(Exception):
    """The other side answered with an error, or not at all; `name` is the error's own name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message or name)
        self.name = name


def types(signature: str) -> list[str]:
    """A signature as its complete types."""
    found = []
    at = 0
    while at < len(signature):
        end = _end_of_type(signature, at)
        found.append(signature[at:end])
        at = end
    return found


def _end_of_type(signature: str, at: int) -> int:
    if at >= len(signature) or signature[at] not in _ALIGNMENT:
        raise ValueError(f"D-Bus signature {signature!r} is not valid")
    if signature[at] == "a":
        return _end_of_type(signature, at + 1)
    if signature[at] not in "({":
        return at + 1
    closing = {"(": ")", "{": "}"}[signature[at]]
    at += 1
    while at < len(signature) and signature[at] != closing:
        at = _end_of_type(signature, at)
    if at >= len(signature):
        raise ValueError(f"D-Bus signature {signature!r} is not valid")
    return at + 1


# --- to the wire ---


def _pad(out: bytearray, alignment: int) -> None:
    out += bytes(-len(out) % alignment)


def put(out: bytearray, kind: str, value: "Any") -> None:
    """Append one value of one complete type; alignment counts from the start of `out`."""
    code = kind[0]
    _pad(out, _ALIGNMENT[code])
    if code in _FIXED:
        size, signed = _FIXED[code]
        out += int(value).to_bytes(size, "little", signed=signed)
    elif code == "d":
        import struct

        out += struct.pack("<d", value)
    elif code in "so":
        data = os.fsencode(value)
        out += len(data).to_bytes(4, "little") + data + b"\0"
    elif code == "g":
        out += bytes([len(value)]) + value.encode() + b"\0"
    elif code == "v":
        put(out, "g", value.signature)
        put(out, value.signature, value.value)
    elif code == "a":
        _put_array(out, kind[1:], value)
    else:
        for part, item in zip(types(kind[1:-1]), value, strict=True):
            put(out, part, item)


def _put_array(out: bytearray, kind: str, items: "Sequence[Any]") -> None:
    length_at = len(out)
    out += bytes(4)
    _pad(out, _ALIGNMENT[kind[0]])  # not counted in the length
    start = len(out)
    for item in items:
        put(out, kind, item)
    out[length_at : length_at + 4] = (len(out) - start).to_bytes(4, "little")


def pack(signature: str, values: "Sequence[Any]") -> bytes:
    """Several values one after another."""
    out = bytearray()
    for kind, value in zip(types(signature), values, strict=True):
        put(out, kind, value)
    return bytes(out)


# --- from the wire ---


def _need(data: bytes, at: int, size: int) -> None:
    if at + size > len(data):
        raise ValueError("a value is longer than its message")


def take(data: bytes, at: int, kind: str) -> "tuple[Any, int]":
    """One value and where the next begins."""
    code = kind[0]
    at += -at % _ALIGNMENT[code]
    if code in _FIXED:
        size, signed = _FIXED[code]
        _need(data, at, size)
        number = int.from_bytes(data[at : at + size], "little", signed=signed)
        return (bool(number) if code == "b" else number), at + size
    if code == "d":
        import struct

        _need(data, at, 8)
        return struct.unpack_from("<d", data, at)[0], at + 8
    if code in "sog":
        width = 1 if code == "g" else 4
        _need(data, at, width)
        length = int.from_bytes(data[at : at + width], "little")
        at += width
        _need(data, at, length + 1)
        return os.fsdecode(data[at : at + length]), at + length + 1
    if code == "v":
        signature, at = take(data, at, "g")
        value, at = take(data, at, signature)
        return Variant(signature, value), at
    if code == "a":
        return _take_array(data, at, kind[1:])
    values = []
    for part in types(kind[1:-1]):
        value, at = take(data, at, part)
        values.append(value)
    return tuple(values), at


def _take_array(data: bytes, at: int, kind: str) -> "tuple[list[Any], int]":
    _need(data, at, 4)
    length = int.from_bytes(data[at : at + 4], "little")
    at += 4
    at += -at % _ALIGNMENT[kind[0]]
    end = at + length
    _need(data, at, length)
    items = []
    while at < end:
        item, at = take(data, at, kind)
        items.append(item)
    return items, at


def unpack(signature: str, data: bytes) -> "list[Any]":
    """Several values."""
    values = []
    at = 0
    for kind in types(signature):
        value, at = take(data, at, kind)
        values.append(value)
    return values


class Message:
    """One message: what kind, its header fields by number, its values."""

    __slots__ = ("fields", "kind", "serial", "values")

    def __init__(self, kind: int, serial: int, fields: "dict[int, Any]", values: "Sequence[Any]") -> None:
        self.kind = kind
        self.serial = serial
        self.fields = fields
        self.values = values

    def packed(self, signature: str) -> bytes:
        """As it is sent."""
        body = pack(signature, self.values)
        fields = [(number, Variant("o" if number == _PATH else "s", text)) for number, text in self.fields.items()]
        if signature:
            fields.append((_SIGNATURE, Variant("g", signature)))
        head = bytearray(pack(_HEADER, (ord("l"), self.kind, 0, 1, len(body), self.serial, fields)))
        _pad(head, 8)
        return bytes(head) + body

    def is_signal(self, member: str) -> bool:
        """Whether it announces that."""
        return self.kind == SIGNAL and self.fields.get(_MEMBER) == member


def _read_message(data: bytes, body_at: int) -> Message:
    _, kind, _, _, _, serial, pairs = unpack(_HEADER, data[:body_at])
    fields = {number: variant.value for number, variant in pairs}
    return Message(kind, serial, fields, unpack(fields.get(_SIGNATURE, ""), data[body_at:]))


class Connection:
    """A conversation over one socket, without a bus between or with one (`bus`: the name that owns what we call)."""

    def __init__(self, path: str, *, bus: bool, seconds: float = 30.0) -> None:
        self._socket = fdpass.connect(path, _socket.SOCK_STREAM)
        self._socket.settimeout(seconds)
        self._path = path
        self._serial = 0
        self._data = bytearray()
        self._signals: list[Message] = []
        self._bus = bus
        try:
            self._authenticate()
            if bus:
                self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the conversation."""
        self._socket.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _authenticate(self) -> None:
        """As whom the kernel says that we are: naming a uid would be wrong in a user namespace.

        BEGIN goes in the first packet, as from libsystemd. On its own socket systemd (252 at least) waits for the next
        byte before it looks at a message that it read together with BEGIN: a short call that came right behind was
        carried out when the connection closed, or never.
        """
        self._send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
        while self._data.count(b"\n") < 2:
            self._more()
        answers = bytes(self._data).split(b"\r\n")
        if not answers[1].startswith(b"OK"):
            raise DBusError("ketch.Refused", f"{self._path} does not let us in: {answers[0].decode(errors='replace')}")
        del self._data[: len(answers[0]) + len(answers[1]) + 4]

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from None

    def _more(self) -> None:
        try:
            part = self._socket.recv(65536)
        except OSError as error:
            raise self._lost(error) from None
        if not part:
            raise DBusError("ketch.Closed", f"{self._path} closed the connection")
        self._data += part

    def _lost(self, error: OSError) -> DBusError:
        if isinstance(error, TimeoutError):
            return DBusError("ketch.NoAnswer", f"no answer from {self._path} in time")
        return DBusError("ketch.Closed", f"{self._path}: {error.strerror}")

    def _receive(self) -> Message:
        while len(self._data) < 16:
            self._more()
        if self._data[0] != ord("l"):
            raise DBusError("ketch.Garbled", f"{self._path} speaks in big-endian order, or no D-Bus at all")
        body = int.from_bytes(self._data[4:8], "little")
        fields = int.from_bytes(self._data[12:16], "little")
        if body + fields > MOST_BYTES:
            raise DBusError("ketch.Garbled", f"{self._path} sent a message of {body + fields} bytes")
        start = 16 + fields + -fields % 8
        while len(self._data) < start + body:
            self._more()
        data = bytes(self._data[: start + body])
        del self._data[: start + body]
        try:
            return _read_message(data, start)
        except (ValueError, IndexError) as error:
            raise DBusError("ketch.Garbled", f"{self._path} sent what is no D-Bus message: {error}") from None

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *values: "Any"
    ) -> "Sequence[Any]":
        """Call a method and wait for its answer; signals that come before are kept."""
        self._serial += 1
        fields = {_PATH: path, _INTERFACE: interface, _MEMBER: member}
        if self._bus:
            fields[_DESTINATION] = destination
        self._send(Message(CALL, self._serial, fields, values).packed(signature))
        while True:
            message = self._receive()
            if message.kind == SIGNAL:
                self._signals.append(message)
            elif message.fields.get(_REPLY_SERIAL) == self._serial:
                if message.kind == ERROR:
                    text = message.values[0] if message.values and isinstance(message.values[0], str) else ""
                    raise DBusError(str(message.fields.get(_ERROR_NAME, "")), text)
                return message.values

    def signal(self, member: str, wanted: "Callable[[Sequence[Any]], bool]") -> "Sequence[Any]":
        """Wait for a signal of this name with the values that are wanted."""
        while True:
            message = self._signals.pop(0) if self._signals else self._receive()
            if message.is_signal(member) and wanted(message.values):
                return message.values
