"""bpf(2): the commands that a back end needs, as system calls. Linux include/uapi/linux/bpf.h, union bpf_attr."""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from backends.linux.syscalls import Address, Buf, Done, Give, Link, Number, Pointer, Syscall
from harness.isa.maps import RDONLY_PROG, TYPES, Map

MAP_CREATE, MAP_UPDATE_ELEM, MAP_DELETE_ELEM, MAP_FREEZE, MAP_LOOKUP_BATCH = 0, 2, 3, 22, 24
PROG_LOAD, PROG_TEST_RUN, LINK_CREATE, OBJ_GET_INFO_BY_FD, BTF_LOAD, BTF_GET_FD_BY_ID, BTF_GET_NEXT_ID = (
    5,
    10,
    28,
    15,
    18,
    19,
    23,
)
PROG_TYPES: Final[Mapping[str, int]] = {"syscall": 31, "tracing": 26, "struct_ops": 27}
# enum bpf_attach_type: BPF_TRACE_FENTRY, BPF_TRACE_FEXIT, BPF_MODIFY_RETURN, BPF_TRACE_FSESSION
ATTACH_TYPES: Final[Mapping[str, int]] = {"": 0, "fentry": 24, "fexit": 25, "fmod_ret": 26, "fsession": 58}
F_SLEEPABLE: Final = 1 << 4
LOG_LEVEL1, LOG_LEVEL2, LOG_STATS = 1, 2, 4
LOG_BYTES: Final = 1 << 18
MAX_LOG_BYTES: Final = 1 << 24  # Linux kernel/bpf/log.c takes up to 2^30
INFO_BYTES: Final = 232
MAX_JITED_BYTES: Final = 1 << 16
MAX_FUNCS: Final = 256
_LICENSE: Final = b"GPL\0"


def _command(
    command: int, attr: bytes, bufs: Sequence[Buf] = (), links: Sequence[Link] = (), *, back: bool = False
) -> Syscall:
    """The attr is buffer 0, `bufs` come after it."""
    first = Buf(attr, give=Give.TRIMMED if back else Give.NOTHING)
    return Syscall("bpf", (command, Address(0), len(attr)), (first, *bufs), tuple(links))


def btf_load(blob: bytes) -> Syscall:
    """BPF_BTF_LOAD with a log; the log is buffer 2."""
    attr = bytearray(28)
    struct.pack_into("<III", attr, 16, len(blob), LOG_BYTES, 1)
    bufs = (Buf(blob), Buf(size=LOG_BYTES, give=Give.TEXT))
    return _command(BTF_LOAD, bytes(attr), bufs, (Pointer(0, 0, 1), Pointer(0, 8, 2)))


def map_create(map_: Map) -> Syscall:
    """BPF_MAP_CREATE."""
    flags = RDONLY_PROG if map_.rdonly else 0
    name = re.sub(r"[^A-Za-z0-9_.]", "_", map_.name).encode()[:15]
    sizes = (TYPES[map_.type], map_.key_size, map_.value_size, map_.max_entries, flags, 0, 0)
    return _command(MAP_CREATE, struct.pack("<7I", *sizes) + name.ljust(16, b"\0"))


def prog_array() -> Syscall:
    """BPF_MAP_CREATE of a BPF_MAP_TYPE_PROG_ARRAY with one entry, which is not set."""
    return _command(MAP_CREATE, struct.pack("<7I", 3, 4, 4, 1, 0, 0, 0))


def struct_ops_map(btf_call: int, value_type: int, module_btf: int, size: int) -> Syscall:
    """BPF_MAP_CREATE of a struct_ops type of a module; call `btf_call` gives any BTF of ours. BPF_F_LINK: nobody is told of what it holds."""
    attr = bytearray(struct.pack("<5I", 26, 4, size, 1, 1 << 15 | 1 << 13).ljust(76, b"\0"))
    struct.pack_into("<I", attr, 60, value_type)
    struct.pack_into("<I", attr, 72, module_btf)
    return _command(MAP_CREATE, bytes(attr), (), (Number(0, 48, btf_call),))


def struct_ops_update(map_call: int, prog_call: int, size: int) -> Syscall:
    """BPF_MAP_UPDATE_ELEM of a map whose only member is a program, the last 8 bytes of its value."""
    links: list[Link] = [
        Number(0, 0, map_call), Pointer(0, 8, 1), Pointer(0, 16, 2), Number(2, size - 8, prog_call),
    ]  # fmt: skip
    return _command(MAP_UPDATE_ELEM, bytes(32), (Buf(bytes(4)), Buf(bytes(size))), links)


def map_update(map_call: int, key: bytes, value: bytes) -> Syscall:
    """BPF_MAP_UPDATE_ELEM."""
    links: list[Link] = [Number(0, 0, map_call), Pointer(0, 8, 1), Pointer(0, 16, 2)]
    return _command(MAP_UPDATE_ELEM, bytes(32), (Buf(key), Buf(value)), links)


def map_update_prog(map_call: int, key: bytes, prog_call: int) -> Syscall:
    """BPF_MAP_UPDATE_ELEM of a prog array: the value is the descriptor of a program."""
    links: list[Link] = [Number(0, 0, map_call), Pointer(0, 8, 1), Pointer(0, 16, 2), Number(2, 0, prog_call)]
    return _command(MAP_UPDATE_ELEM, bytes(32), (Buf(key), Buf(bytes(4))), links)


def map_delete(map_call: int, key: bytes) -> Syscall:
    """BPF_MAP_DELETE_ELEM."""
    return _command(MAP_DELETE_ELEM, bytes(32), (Buf(key),), [Number(0, 0, map_call), Pointer(0, 8, 1)])


def map_freeze(map_call: int) -> Syscall:
    """BPF_MAP_FREEZE."""
    return _command(MAP_FREEZE, bytes(4), (), (Number(0, 0, map_call),))


def map_lookup_all(map_call: int, map_: Map) -> Syscall:
    """BPF_MAP_LOOKUP_BATCH of every entry. It fails with ENOENT at the end, which is where it has to end."""
    attr = bytearray(56)
    struct.pack_into("<I", attr, 32, map_.max_entries + 1)
    count = map_.max_entries
    bufs = (
        Buf(size=map_.key_size + 8),  # where it goes on, which nobody asks
        Buf(size=count * map_.key_size, give=Give.TRIMMED),
        Buf(size=count * map_.value_size, give=Give.TRIMMED),
    )
    links: list[Link] = [Number(0, 36, map_call), Pointer(0, 8, 1), Pointer(0, 16, 2), Pointer(0, 24, 3)]
    return _command(MAP_LOOKUP_BATCH, bytes(attr), bufs, links, back=True)


def map_entries(done: Done, map_: Map) -> tuple[tuple[bytes, bytes], ...]:
    """What it found, sorted by key."""
    count = struct.unpack_from("<I", done.bufs[0].ljust(56, b"\0"), 32)[0]
    keys = done.bufs[2].ljust(count * map_.key_size, b"\0")
    values = done.bufs[3].ljust(count * map_.value_size, b"\0")
    rows = (
        (keys[n * map_.key_size :][: map_.key_size], values[n * map_.value_size :][: map_.value_size])
        for n in range(count)
    )
    return tuple(sorted(rows))


@dataclass(frozen=True, slots=True)
class Load:
    """BPF_PROG_LOAD. `btf_call` is the call of the batch that gave the BTF's fd.

    `fd_array` has the BTF of kfuncs from index 1 on; the fds of maps, given by `map_calls`, come after it.
    `attach_btf`: descriptor of a module's BTF, and the id of the function there.
    """

    prog_type: str
    insns: bytes
    btf_call: int | None = None
    func_info: bytes = b""
    line_info: bytes = b""
    fd_array: tuple[int, ...] = ()
    map_calls: tuple[int, ...] = ()
    log_level: int = LOG_LEVEL1 | LOG_STATS
    log_bytes: int = LOG_BYTES
    attach_type: str = ""
    attach_btf: tuple[int, int] = (0, 0)


def prog_load(load: Load) -> Syscall:
    """The log is buffer 3."""
    attr = bytearray(152)
    struct.pack_into("<II", attr, 0, PROG_TYPES[load.prog_type], len(load.insns) // 8)
    struct.pack_into("<II", attr, 24, load.log_level, load.log_bytes)
    if load.prog_type == "syscall":
        struct.pack_into("<I", attr, 44, F_SLEEPABLE)  # the only way to load one
    struct.pack_into("<I", attr, 68, ATTACH_TYPES[load.attach_type])
    struct.pack_into("<II", attr, 108, load.attach_btf[1], load.attach_btf[0])
    bufs = [Buf(load.insns), Buf(_LICENSE), Buf(size=load.log_bytes, give=Give.TEXT)]
    links: list[Link] = [Pointer(0, 8, 1), Pointer(0, 16, 2), Pointer(0, 32, 3)]
    if load.btf_call is not None:
        links.append(Number(0, 72, load.btf_call))
    for data, size, at in ((load.func_info, 8, 76), (load.line_info, 16, 92)):
        if data:
            struct.pack_into("<I", attr, at, size)
            struct.pack_into("<I", attr, at + 12, len(data) // size)
            bufs.append(Buf(data))
            links.append(Pointer(0, at + 4, len(bufs)))
    if load.fd_array or load.map_calls:
        fds = [*load.fd_array, *(0 for _ in load.map_calls)]
        bufs.append(Buf(struct.pack(f"<{len(fds)}i", *fds)))
        links += [Number(len(bufs), 4 * index, call) for index, call in enumerate(load.map_calls, len(load.fd_array))]
        links.append(Pointer(0, 120, len(bufs)))
    return _command(PROG_LOAD, bytes(attr), bufs, links)


def link_create(prog_call: int, attach_type: str, cookie: int) -> Syscall:
    """BPF_LINK_CREATE: attaches a tracing program to what it was loaded for."""
    attr = bytearray(32)
    struct.pack_into("<I", attr, 8, ATTACH_TYPES[attach_type])
    struct.pack_into("<Q", attr, 24, cookie)
    return _command(LINK_CREATE, bytes(attr), (), (Number(0, 0, prog_call),))


def load_log(done: Done) -> str:
    """The verifier's log."""
    return done.bufs[3].decode(errors="replace")


def test_run(prog_call: int, ctx: bytes) -> Syscall:
    """BPF_PROG_TEST_RUN of a SYSCALL prog: the kernel writes the context back to where it was read."""
    attr = bytearray(76)
    struct.pack_into("<I", attr, 40, len(ctx))
    bufs = (Buf(ctx, give=Give.TRIMMED),) if ctx else ()
    links: list[Link] = [Number(0, 0, prog_call)]
    if ctx:
        links.append(Pointer(0, 48, 1))
    return _command(PROG_TEST_RUN, bytes(attr), bufs, links, back=True)


def test_run_result(done: Done, size: int) -> tuple[int, bytes]:
    """(retval, unsigned 32 bits; the context afterwards) of a run that was made."""
    attr = done.bufs[0].ljust(76, b"\0")
    return struct.unpack_from("<I", attr, 4)[0], done.bufs.get(1, b"").ljust(size, b"\0")


@dataclass(frozen=True, slots=True)
class ProgInfo:
    """struct bpf_prog_info. `funcs`: address and native code of each function, the main prog first.

    `lines`: (insn after the rewrites, line number, native address), as given by the line_info of the load.
    """

    xlated: bytes
    verified_insns: int
    funcs: tuple[tuple[int, bytes], ...]
    lines: tuple[tuple[int, int, int], ...]


# Where each array's length and pointer stand in struct bpf_prog_info, and the bytes of one element.
_ARRAYS: Final = ((16, 24, 1), (20, 32, 1), (104, 112, 8), (108, 120, 4), (148, 152, 16), (168, 160, 8))


def _room(max_insns: int) -> tuple[int, ...]:
    """Elements of each array that there is room for."""
    return (MAX_JITED_BYTES + 128 * max_insns, 64 * max_insns + 4096, MAX_FUNCS, MAX_FUNCS, max_insns, max_insns)


def prog_info(prog_call: int, max_insns: int) -> Syscall:
    """BPF_OBJ_GET_INFO_BY_FD, with room for everything; the info is buffer 1."""
    info = bytearray(INFO_BYTES)
    bufs, links = list[Buf](), list[Link]()
    for (count_at, pointer_at, size), count in zip(_ARRAYS, _room(max_insns), strict=True):
        struct.pack_into("<I", info, count_at, count)
        bufs.append(Buf(size=count * size, give=Give.TRIMMED))
        links.append(Pointer(1, pointer_at, 1 + len(bufs)))
    for at, value in ((172, 16), (176, 8)):  # sizes of the records of line_info and jited_line_info
        struct.pack_into("<I", info, at, value)
    attr = bytearray(16)
    struct.pack_into("<I", attr, 4, INFO_BYTES)
    first = Buf(bytes(info), give=Give.TRIMMED)
    return _command(
        OBJ_GET_INFO_BY_FD, bytes(attr), (first, *bufs), (Number(0, 0, prog_call), Pointer(0, 8, 1), *links)
    )


def prog_id(done: Done) -> int:
    """The program's id, of what `prog_info` gave."""
    return int(struct.unpack_from("<I", done.bufs[1].ljust(INFO_BYTES, b"\0"), 4)[0])


def read_prog_info(done: Done, max_insns: int) -> ProgInfo:
    """What the kernel filled in. Raises ValueError where it has more than there was room for."""
    info = done.bufs[1].ljust(INFO_BYTES, b"\0")
    arrays: list[bytes] = []
    for index, ((count_at, _, size), room) in enumerate(zip(_ARRAYS, _room(max_insns), strict=True)):
        count = struct.unpack_from("<I", info, count_at)[0]
        if count > room:
            raise ValueError(
                f"the kernel has {count * size} bytes of array {index} of bpf_prog_info, more than {room * size}"
            )
        arrays.append(done.bufs[2 + index].ljust(count * size, b"\0")[: count * size])
    code, xlated, addresses, lengths, lines, line_addresses = arrays
    funcs: list[tuple[int, bytes]] = []
    at = 0
    for (address,), (length,) in zip(
        struct.iter_unpack("<Q", addresses), struct.iter_unpack("<I", lengths), strict=True
    ):
        funcs.append((address, code[at : at + length]))
        at += length
    rows = zip(struct.iter_unpack("<IIII", lines), struct.iter_unpack("<Q", line_addresses), strict=False)
    where = tuple((insn, column >> 10, address) for (insn, _, _, column), (address,) in rows)
    return ProgInfo(xlated, struct.unpack_from("<I", info, 216)[0], tuple(funcs), where)


def next_btf_id(after: int) -> Syscall:
    """BPF_BTF_GET_NEXT_ID; the answer's id is at 4 of buffer 0."""
    return _command(BTF_GET_NEXT_ID, struct.pack("<III", after, 0, 0), back=True)


def btf_fd(btf_id: int) -> Syscall:
    """BPF_BTF_GET_FD_BY_ID."""
    return _command(BTF_GET_FD_BY_ID, struct.pack("<III", btf_id, 0, 0))


def btf_info(fd: int) -> Syscall:
    """BPF_OBJ_GET_INFO_BY_FD of BTF: the name is buffer 2. struct bpf_btf_info."""
    attr = struct.pack("<IIQ", fd, 32, 0)
    bufs = (Buf(struct.pack("<QIIQII", 0, 0, 0, 0, 64, 0)), Buf(size=64, give=Give.TEXT))
    return _command(OBJ_GET_INFO_BY_FD, attr, bufs, (Pointer(0, 8, 1), Pointer(1, 16, 2)))
