"""A kernel image in QEMU, with guest/agent.c as its only process; nothing is attached to it but a console and one port."""

import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backends.linux.syscalls import (
    NUMBERS,
    Address,
    Arg,
    Done,
    Give,
    KernelGoneError,
    Number,
    Pointer,
    ResultOf,
    Syscall,
)  # fmt: skip
from backends.linux.tools import Tool

AGENT: Final = Path(__file__).with_name("guest") / "agent.c"
AGENT_FLAGS: Final = ("-O2", "-fno-stack-protector", "-fno-pic", "-no-pie", "-s")
BOOT_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 30.0
CONSOLE_TAIL: Final = 4000  # bytes of the console that a message quotes
MEMORY_MB: Final = 512
# Fixed addresses and plain returns: what the kernel emits depends on nothing but its version and the model of the CPU.
COMMAND_LINE: Final = "panic=-1 oops=panic loglevel=4 nokaslr mitigations=off"
_GIVE: Final = {Give.NOTHING: 0, Give.TRIMMED: 1, Give.TEXT: 2}


@dataclass(frozen=True, slots=True)
class Machine:
    """What QEMU emulates for one architecture: machine type, CPU model, console."""

    qemu_arch: str
    machine: str
    cpu: str
    console: str


# The CPU models are the fastest under emulation; arm64's has LSE atomics and no pointer authentication.
MACHINES: Final = {
    "x86_64": Machine("x86_64", "pc", "max", "ttyS0"),
    "arm64": Machine("aarch64", "virt", "neoverse-n1", "ttyAMA0"),
}


def newc(files: Sequence[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive of (name, mode, content). Linux Documentation/driver-api/early-userspace/buffer-format.rst."""
    out = bytearray()
    for number, (name, mode, content) in enumerate([*files, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08x" % value for value in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + content
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def encode(calls: Sequence[Syscall], arch: str) -> bytes:
    """The ask of guest/agent.c."""
    out = [struct.pack("<I", len(calls))]
    for call in calls:
        out.append(struct.pack("<II", NUMBERS[arch][call.name], len(call.args)))
        out += [_encode_arg(arg) for arg in call.args]
        out.append(struct.pack("<I", len(call.bufs)))
        for buf in call.bufs:
            out += [struct.pack("<III", buf.length, _GIVE[buf.give], len(buf.data)), buf.data]
        out.append(struct.pack("<I", len(call.links)))
        for link in call.links:
            match link:
                case Pointer(holder, offset, target):
                    out.append(struct.pack("<IIII", 0, holder, offset, target))
                case Number(holder, offset, earlier):
                    out.append(struct.pack("<IIII", 1, holder, offset, earlier))
    return b"".join(out)


def _encode_arg(arg: Arg) -> bytes:
    match arg:
        case Address(buf):
            return struct.pack("<IQ", 1, buf)
        case ResultOf(call):
            return struct.pack("<IQ", 2, call)
        case int():
            return struct.pack("<IQ", 0, arg & (1 << 64) - 1)


def decode(answer: bytes, calls: Sequence[Syscall]) -> list[Done]:
    """The answer of guest/agent.c. Raises ValueError where it is not what the calls ask for."""
    done: list[Done] = []
    at = 0
    try:
        for call in calls:
            (ret,) = struct.unpack_from("<q", answer, at)
            at += 8
            bufs: dict[int, bytes] = {}
            for index, buf in enumerate(call.bufs):
                if buf.give != Give.NOTHING:
                    (size,) = struct.unpack_from("<I", answer, at)
                    bufs[index] = answer[at + 4 : at + 4 + size]
                    at += 4 + size
            done.append(Done(ret, bufs))
    except struct.error as error:
        raise ValueError(f"the guest's answer ends after {len(answer)} bytes") from error
    if at != len(answer):
        raise ValueError(f"the guest's answer has {len(answer)} bytes, its parts {at}")
    return done


@dataclass(slots=True)
class Guest:
    """One boot of a kernel image. Raises KernelGoneError where it does not come up."""

    arch: str
    image: Path
    qemu: Tool
    agent: bytes
    cpu: str = ""
    command_line: str = COMMAND_LINE
    boot_seconds: float = field(default=0.0, init=False)
    _folder: Path = field(init=False)
    _process: "subprocess.Popen[bytes]" = field(init=False)
    _port: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        started = time.monotonic()
        self._folder = Path(tempfile.mkdtemp(prefix="cc-"))
        self._port, theirs = socket.socketpair()
        try:
            initrd = self._folder / "initrd"
            initrd.write_bytes(newc([("init", 0o100755, self.agent)]))
            with theirs:
                self._start(initrd, theirs.fileno())
            if self._receive(started + BOOT_SECONDS) != b"ready":
                raise KernelGoneError("the guest's first words are not what its agent says")
        except BaseException:
            self.close()
            raise
        self.boot_seconds = time.monotonic() - started

    def _start(self, initrd: Path, port: int) -> None:
        machine = MACHINES[self.arch]
        argv = [
            *self.qemu.argv, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-net", "none",
            "-machine", machine.machine, "-cpu", self.cpu or machine.cpu, "-smp", "1", "-m", str(MEMORY_MB),
            "-kernel", str(self.image), "-initrd", str(initrd),
            "-append", f"console={machine.console} {self.command_line}",
            "-serial", f"file:{self._folder / 'console'}",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=port,fd={port}",
            "-device", "virtserialport,chardev=port",
        ]  # fmt: skip
        with (self._folder / "qemu").open("wb") as words:
            try:
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=words,
                    env={**os.environ, **self.qemu.env},
                    pass_fds=(port,),
                    start_new_session=True,  # a Ctrl-C is for us; the guest ends with `close`
                )
            except OSError as error:
                raise KernelGoneError(f"{argv[0]} cannot be started: {error.strerror}") from error

    def _check_alive(self, until: float) -> None:
        if self._process.poll() is not None:
            raise KernelGoneError(f"QEMU ended with status {self._process.returncode}{self.last_words()}")
        if time.monotonic() > until:
            raise KernelGoneError(f"the guest is silent{self.last_words()}")

    def last_words(self) -> str:
        """The end of what the console and QEMU said, as part of a message."""
        said = ""
        for name in ("qemu", "console"):
            path = self._folder / name
            if path.exists():
                said += path.read_bytes()[-CONSOLE_TAIL:].decode(errors="replace").replace("\r", "").strip()
        return f"; its last words:\n{said}" if said else "; it said nothing"

    def _receive(self, until: float) -> bytes:
        (size,) = struct.unpack("<I", self._exactly(4, until))
        return self._exactly(size, until)

    def _exactly(self, size: int, until: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            readable, _, _ = select.select([self._port], [], [], min(1.0, max(0.0, until - time.monotonic())))
            if not readable:
                self._check_alive(until)
                continue
            try:
                more = self._port.recv(size - len(data))
            except ConnectionError:
                more = b""
            if not more:
                self._wait_for_end()
                raise KernelGoneError(
                    f"the guest crashed; QEMU's status is {self._process.returncode}{self.last_words()}"
                )
            data += more
        return bytes(data)

    def _wait_for_end(self) -> None:
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def batch(self, calls: Sequence[Syscall]) -> list[Done]:
        """Makes the calls in order. Raises KernelGoneError where the guest dies of it or is silent for too long."""
        ask = encode(calls, self.arch)
        self._port.settimeout(ANSWER_SECONDS)
        try:
            self._port.sendall(struct.pack("<I", len(ask)) + ask)
        except TimeoutError as error:
            raise KernelGoneError(f"the guest is silent{self.last_words()}") from error
        except OSError as error:
            self._wait_for_end()
            raise KernelGoneError(f"the guest crashed{self.last_words()}") from error
        answer = self._receive(time.monotonic() + ANSWER_SECONDS)
        try:
            return decode(answer, calls)
        except ValueError as error:
            raise KernelGoneError(str(error)) from error

    def close(self) -> None:
        """Ends the guest and removes what it left."""
        self._port.close()
        if hasattr(self, "_process"):
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
