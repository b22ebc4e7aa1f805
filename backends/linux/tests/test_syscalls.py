"""System calls as data, made by the kernel under this process: harmless ones, for which no rights are needed."""

import os
import platform
from pathlib import Path

import pytest

from backends.linux.host import MACHINES, HostKernel
from backends.linux.syscalls import (
    Address,
    Buf,
    Done,
    Give,
    Number,
    Pointer,
    ResultOf,
    Syscall,
    close,
    open_file,
    read_file,
    release_of,
)

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in MACHINES,
    reason=f"{platform.system()} on {platform.machine()} is not Linux on x86-64 or arm64",
)
ENOENT, EBADF, EISDIR = 2, 9, 21  # include/uapi/asm-generic/errno-base.h


def test_uname() -> None:
    """struct new_utsname begins with the name of the system, 65 bytes."""
    (done,) = HostKernel().batch([Syscall("uname", (Address(0),), (Buf(size=390, give=Give.TRIMMED),))])
    assert done.ret == 0
    assert done.bufs[0][:6] == b"Linux\0"
    assert release_of(HostKernel()) == os.uname().release


def test_a_call_takes_what_an_earlier_one_gave(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"seven\0\0")
    room = Buf(size=16, give=Give.TRIMMED)
    opened, read, closed, again = HostKernel().batch(
        [open_file(str(path)), Syscall("read", (ResultOf(0), Address(0), 16), (room,)), close(0), close(0)]
    )
    assert opened.ret >= 0
    assert read == Done(7, {0: b"seven"})
    assert (closed.ret, again.ret) == (0, -EBADF)


def test_a_call_that_fails_does_not_end_the_batch(tmp_path: Path) -> None:
    done = HostKernel().batch([open_file(str(tmp_path / "none")), close(0), Syscall("close", (-1,))])
    assert [one.ret for one in done] == [-ENOENT, -EBADF, -EBADF]


def test_how_much_of_a_buffer_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"ab\0cd\0")
    reads = [
        Syscall("read", (-1, Address(0), 0), (Buf(b"ab\0cd\0", 9, give),))
        for give in (Give.TRIMMED, Give.TEXT, Give.NOTHING)
    ]
    assert [done.bufs for done in HostKernel().batch(reads)] == [{0: b"ab\0cd"}, {0: b"ab"}, {}]


def test_what_is_stored_before_a_call(tmp_path: Path) -> None:
    """The address of buffer 1 at 0 and of buffer 0 at 16, the result of the first call, EBADF, at 8; 0xee elsewhere."""
    holder = Buf(b"\xee" * 24, give=Give.TRIMMED)
    links = (Pointer(0, 0, 1), Pointer(0, 16, 0), Number(0, 8, 0))
    _, done = HostKernel().batch([Syscall("close", (-1,)), Syscall("close", (-1,), (holder, Buf(b"x")), links)])
    stored = done.bufs[0].ljust(24, b"\0")
    assert stored[8:16].hex(" ", 4) == "f7ffffff eeeeeeee"
    addresses = [int.from_bytes(stored[at : at + 8], "little") for at in (0, 16)]
    assert 0 not in addresses
    assert addresses[0] != addresses[1]


def test_a_pointer_is_where_the_kernel_finds_the_buffer(tmp_path: Path) -> None:
    """What is written is the buffer with the address in it, so the file has what the process has."""
    path = tmp_path / "f"
    path.touch()
    holder = Buf(size=8, give=Give.TRIMMED)
    write = Syscall("write", (ResultOf(0), Address(0), 8), (holder, Buf(b"x")), (Pointer(0, 0, 1),))
    _, written, _ = HostKernel().batch([open_file(str(path), flags=1), write, close(0)])  # O_WRONLY
    assert written.ret == 8
    assert path.read_bytes() == written.bufs[0].ljust(8, b"\0") != bytes(8)


@pytest.mark.parametrize("content", [b"", b"\0", b"abcdefgh", b"abcdefghi\0\0\0"])
def test_a_file_in_parts(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    assert read_file(HostKernel(), str(path), chunk=4) == content


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cannot be opened"):
        read_file(HostKernel(), str(tmp_path / "none"))
    with pytest.raises(IsADirectoryError, match="cannot be read") as found:
        read_file(HostKernel(), str(tmp_path))
    assert found.value.errno == EISDIR


def test_a_file_that_cannot_be_read_is_closed(tmp_path: Path) -> None:
    opened, one = HostKernel().batch([open_file(str(tmp_path)), close(0)])
    assert one.ret == 0
    with pytest.raises(IsADirectoryError):
        read_file(HostKernel(), str(tmp_path))
    left = HostKernel().batch([Syscall("close", (opened.ret,))])[0].ret  # the lowest free number is given first
    assert left == -EBADF


def test_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="Linux on riscv64 is not Linux on x86-64 or arm64"):
        HostKernel()
