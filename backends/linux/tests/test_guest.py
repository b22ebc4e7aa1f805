"""The guest's protocol, with programs in QEMU's place."""

import sys
import tempfile
import threading
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


def test_a_whole_archive() -> None:
    """Two entries and the trailer: header of 110 bytes, name with its 0, content; name and content end on multiples of 4."""
    zeros = "00000000"
    head = "070701{}{}" + zeros * 2 + "00000001" + zeros + "{}" + zeros * 4 + "{}" + zeros
    assert newc([("a", 0o100644, b"wxyz"), ("bcd", 0o40755, b"")]) == b"".join(
        [
            head.format("00000001", "000081a4", "00000004", "00000002").encode() + b"a\0" + b"wxyz",
            head.format("00000002", "000041ed", "00000000", "00000004").encode() + b"bcd\0\0\0",
            head.format("00000003", "00000000", "00000000", "0000000b").encode() + b"TRAILER!!!\0\0\0\0",
        ]
    )


def test_a_whole_ask_in_bytes() -> None:
    """read(result of call 0, address of buffer 0, -1) with two buffers and both kinds of links, on arm64."""
    ask = Syscall(
        "read",
        (ResultOf(0), Address(0), -1),
        (Buf(b"ab", 4, Give.TRIMMED), Buf(size=8, give=Give.TEXT)),
        (Pointer(1, 16, 0), Number(0, 4, 2)),
    )
    assert encode([ask], "arm64").hex() == "".join(
        [
            "01000000", "3f000000", "03000000",  # calls; nr 63; arguments
            "02000000 0000000000000000", "01000000 0000000000000000", "00000000 ffffffffffffffff",
            "02000000",  # buffers: size, give, given bytes
            "04000000 01000000 02000000 6162", "08000000 02000000 00000000",
            "02000000",  # links: kind, holder, offset, target
            "00000000 01000000 10000000 00000000", "01000000 00000000 04000000 02000000",
        ]
    ).replace(" ", "")  # fmt: skip


def test_no_calls() -> None:
    assert encode([], "x86_64") == bytes(4)
    assert decode(b"", []) == []


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


TELL = """
words = dict(zip(sys.argv, sys.argv[1:]))
initrd = open(words["-initrd"], "rb").read()
say(b"ready")
hear()
seen = [words[name] for name in ("-machine", "-cpu", "-kernel", "-append")] + [os.environ["CC_TEST"], initrd[110:122].decode()]
text = "|".join(seen).encode()
say(struct.pack("<qI", 0, len(text)) + text)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("arch", "cpu", "words"),
    [("x86_64", "", ["pc", "max", "ttyS0"]), ("arm64", "cortex-a57", ["virt", "cortex-a57", "ttyAMA0"])],
)
def test_what_a_guest_is_made_of(arch: str, cpu: str, words: list[str], tmp_path: Path) -> None:
    program = tmp_path / "qemu.py"
    program.write_text(HEAD + TELL, encoding="utf-8")
    tool = Tool((sys.executable, str(program)), {"CC_TEST": "its own"})
    guest = Guest(arch, tmp_path / "image", tool, b"agent", cpu, "quiet")
    (done,) = guest.batch([Syscall("read", (0,), (Buf(size=99, give=Give.TEXT),))])
    guest.close()
    machine, model, console = words
    assert done.bufs[0].decode().split("|") == [
        machine, model, str(tmp_path / "image"), f"console={console} quiet", "its own", "init\0\0agent\0",
    ]  # fmt: skip
    assert guest.boot_seconds > 0


BROKEN = {
    "it tells of a frame and ends": ("port.sendall(struct.pack('<I', 1 << 31))\nos._exit(7)", "QEMU's status is 7"),
    "it ends at once": ("print('no such machine')\nsys.exit(1)", "status is 1.*no such machine"),
    "its first words are others": ("say(b'hello')\ntime.sleep(60)", "first words"),
    "it is silent": ("time.sleep(60)", "silent"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_guest_that_does_not_come_up(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, words = BROKEN[name]
    if words == "silent":  # the others are heard whenever they come
        monkeypatch.setattr(guests, "BOOT_SECONDS", 0.2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KernelGoneError, match=f"(?s){words}"):
        boot(body, tmp_path)
    assert list(tmp_path.glob("cc-*")) == []


DYING = {
    "it dies": (
        "hear()\nprint('panic')\nsys.stdout.flush()\nos._exit(3)",
        "the guest crashed; QEMU's status is 3.*panic",
    ),
    "it hangs": ("hear()\ntime.sleep(60)", "silent"),
    "it answers too little": ("hear()\nsay(b'xyz')\ntime.sleep(60)", "answer ends after 3 bytes"),
    "it tells of a frame and dies": (
        "hear()\nport.sendall(struct.pack('<I', 1 << 31) + b'x')\nos._exit(4)",
        "QEMU's status is 4",
    ),
    "the console has the last words": (
        """hear()
console = re.search(r"file:(\\S+)", " ".join(sys.argv)).group(1)
open(console, "w").write("Kernel panic\\r\\n")
os._exit(0)""",
        "its last words:\nKernel panic$",
    ),
    "it answers too much": ("hear()\nsay(bytes(9))\ntime.sleep(60)", "answer has 9 bytes"),
}


@pytest.mark.parametrize("name", DYING)
def test_a_guest_that_dies_of_a_batch(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, words = DYING[name]
    if words == "silent":
        monkeypatch.setattr(guests, "ANSWER_SECONDS", 0.2)
    guest = boot("say(b'ready')\n" + body, tmp_path)
    with pytest.raises(KernelGoneError, match=f"(?s){words}"):
        guest.batch(CLOSE)
    guest.close()


def test_a_guest_that_ended_since(tmp_path: Path) -> None:
    guest = boot("say(b'ready')\nhear()\nsay(struct.pack('<q', 0))\n", tmp_path)
    assert guest.batch(CLOSE) == [Done(0, {})]
    guest._process.wait(10)
    with pytest.raises(KernelGoneError, match="the guest crashed"):
        guest.batch(CLOSE)
    guest.close()


@pytest.mark.parametrize("text", [None, "no program\n"])
def test_a_qemu_that_cannot_be_started(text: str | None, tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    if text is not None:
        program.write_text(text, encoding="utf-8")
        program.chmod(0o755)
    with pytest.raises(KernelGoneError, match="qemu"):
        Guest("x86_64", tmp_path / "image", Tool((str(program),)), b"agent")


def test_a_guest_that_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "ANSWER_SECONDS", 0.1)
    guest = boot("say(b'ready')\ntime.sleep(60)", tmp_path)
    end = threading.Timer(0.6, guest._process.kill)  # so that this test ends whatever the guest's time limit does
    end.start()
    try:
        with pytest.raises(KernelGoneError, match="silent"):
            guest.batch([Syscall("write", (1, Address(0), 1), (Buf(bytes(1 << 22)),))])
    finally:
        end.cancel()
        guest.close()
