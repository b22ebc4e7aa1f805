"""The guest's protocol, with programs in QEMU's place."""

import sys
from pathlib import Path

import pytest

from backends.linux import guest as guests
from backends.linux.guest import Guest, decode, encode, newc
from backends.linux.syscalls import Address, Buf, Done, Give, KernelGoneError, Number, Pointer, ResultOf, Syscall
from backends.linux.tools import Tool

ASK = [
    Syscall("memfd_create", (Address(0), 0), (Buf(b"x\0"),)),
    Syscall(
        "read",
        (ResultOf(0), Address(0), 4),
        (Buf(b"ab", 4, Give.TRIMMED), Buf(size=8)),
        (Pointer(1, 0, 0), Number(0, 0, 0)),
    ),
]


def test_archive() -> None:
    archive = newc([("init", 0o100755, b"hello")])
    entry = (
        b"070701"
        + b"00000001"
        + b"000081ed"
        + b"0" * 16
        + b"00000001"
        + b"0" * 8
        + b"00000005"
        + b"0" * 32
        + b"00000005"
        + b"0" * 8
    )
    assert archive.startswith(entry + b"init\0\0" + b"hello\0\0\0" + b"070701")
    assert b"TRAILER!!!\0" in archive
    assert len(archive) % 4 == 0


def test_an_ask_in_bytes() -> None:
    words = [int.from_bytes(encode(ASK, "x86_64")[at : at + 4], "little") for at in range(0, 40, 4)]
    # 2 calls; memfd_create is 319; 2 arguments: the address of buffer 0, the value 0; ...
    assert words == [2, 319, 2, 1, 0, 0, 0, 0, 0, 1]
    assert encode(ASK, "arm64")[4:8] == (279).to_bytes(4, "little")


def test_an_answer() -> None:
    answer = (3).to_bytes(8, "little") + (-9).to_bytes(8, "little", signed=True) + (2).to_bytes(4, "little") + b"ab"
    assert decode(answer, ASK) == [Done(3, {}), Done(-9, {0: b"ab"})]


@pytest.mark.parametrize("answer", [b"", b"\0" * 8, b"\0" * 19, b"\0" * 21])
def test_an_answer_that_is_none(answer: bytes) -> None:
    with pytest.raises(ValueError, match="the guest's answer"):
        decode(answer, ASK)


# Finds its end of the channel as QEMU does, in the argument `socket,id=port,fd=N`.
HEAD = """
import os, re, socket, struct, sys, time
port = socket.socket(fileno=int(re.search(r"id=port,fd=([0-9]+)", " ".join(sys.argv)).group(1)))
def say(data): port.sendall(struct.pack("<I", len(data)) + data)
def hear():
    size, = struct.unpack("<I", port.recv(4, socket.MSG_WAITALL))
    return port.recv(size, socket.MSG_WAITALL)
"""
CLOSE = [Syscall("close", (7,))]


def boot(body: str, tmp_path: Path) -> Guest:
    program = tmp_path / "qemu.py"
    program.write_text(HEAD + body, encoding="utf-8")
    return Guest("x86_64", tmp_path / "image", Tool((sys.executable, str(program))), b"agent")


def test_a_guest_that_answers(tmp_path: Path) -> None:
    guest = boot("say(b'ready')\nwhile True:\n    hear()\n    say(struct.pack('<q', -9))\n", tmp_path)
    assert guest.batch(CLOSE) == guest.batch(CLOSE) == [Done(-9, {})]
    folder, process = guest._folder, guest._process
    guest.close()
    assert not folder.exists()
    assert process.poll() is not None


BROKEN = {
    "it ends at once": ("print('no such machine')\nsys.exit(1)", "status is 1.*no such machine"),
    "its first words are others": ("say(b'hello')\ntime.sleep(60)", "first words"),
    "it is silent": ("time.sleep(60)", "silent"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_guest_that_does_not_come_up(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, words = BROKEN[name]
    monkeypatch.setattr(guests, "BOOT_SECONDS", 0.5)
    with pytest.raises(KernelGoneError, match=f"(?s){words}"):
        boot(body, tmp_path)


DYING = {
    "it dies": (
        "hear()\nprint('panic')\nsys.stdout.flush()\nos._exit(3)",
        "the guest crashed; QEMU's status is 3.*panic",
    ),
    "it hangs": ("hear()\ntime.sleep(60)", "silent"),
    "it answers too little": ("hear()\nsay(b'xyz')\ntime.sleep(60)", "answer ends after 3 bytes"),
    "it answers too much": ("hear()\nsay(bytes(9))\ntime.sleep(60)", "answer has 9 bytes"),
}


@pytest.mark.parametrize("name", DYING)
def test_a_guest_that_dies_of_a_batch(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, words = DYING[name]
    monkeypatch.setattr(guests, "ANSWER_SECONDS", 0.5)
    guest = boot("say(b'ready')\n" + body, tmp_path)
    with pytest.raises(KernelGoneError, match=f"(?s){words}"):
        guest.batch(CLOSE)
    guest.close()
