"""Objects as clang makes them; the numbers are llvm-objdump's."""

import contextlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.isa.btf import GLOBAL, STATIC, Btf
from harness.isa.btfread import BtfError, read_btf
from harness.isa.ctypes import CInt, CPtr, CStruct, CVoid
from harness.isa.elf import ElfError, ElfProgram, load_object
from harness.isa.proto import parse_proto

OBJECTS = Path(__file__).with_name("objects")
OF_CASES = Path(__file__).resolve().parents[3] / "cases" / "objects"
CALLS = (OF_CASES / "calls.o").read_bytes()


def programs() -> dict[str, ElfProgram]:
    return {program.name: program for program in load_object(CALLS)}


def test_programs_and_what_they_reach() -> None:
    found = programs()
    assert {name: program.section for name, program in found.items()} == {
        "main_prog": "syscall",
        "with_kfunc": "syscall",
    }
    assert [(s.name, s.start, s.end, s.is_global) for s in found["main_prog"].prog.subprogs] == [
        ("main_prog", 0, 13, True),
        ("inner", 13, 19, False),
        ("leaf", 19, 28, False),
        ("shared", 28, 31, True),
    ]  # fmt: skip
    assert [s.name for s in found["with_kfunc"].prog.subprogs] == ["with_kfunc"]


def test_calls_are_linked() -> None:
    prog = programs()["main_prog"].prog
    calls = [(i, i + 1 + insn.imm) for i, insn in enumerate(prog.insns) if insn.opcode == 0x85]
    assert calls == [(1, 13), (6, 19), (11, 28), (16, 19)]
    assert {insn.src for insn in prog.insns if insn.opcode == 0x85} == {1}


def test_other_insns_are_as_the_compiler_made_them() -> None:
    raw = [insn.to_bytes().hex(" ") for insn in programs()["main_prog"].prog.insns]
    assert raw[0] == "bf 16 00 00 00 00 00 00"
    assert raw[4] == "b4 02 00 00 fb ff ff ff"
    assert raw[8] == "7b 06 00 00 00 00 00 00"
    assert raw[20] == "27 00 00 00 03 00 00 00"  # leaf's second


def test_prototypes_come_from_btf() -> None:
    protos = {s.name: str(s.proto) for s in programs()["main_prog"].prog.subprogs}
    assert protos == {
        "main_prog": "int main_prog(struct ctx *c)",
        "inner": "unsigned long long inner(struct ctx *c, enum color color, bool yes)",
        "leaf": "unsigned long long leaf(unsigned long long a, int b, char c)",
        "shared": "int shared(unsigned short n)",
    }


def test_an_extern_function_is_a_kfunc() -> None:
    prog = programs()["with_kfunc"].prog
    assert [str(proto) for proto in prog.kfuncs] == [
        "unsigned long long kf(unsigned long long a1, struct pair *a2)"
    ]  # clang keeps no names
    (call,) = [insn for insn in prog.insns if insn.opcode == 0x85]
    assert (call.src, call.imm) == (2, 1)


def test_lines_are_the_sources() -> None:
    lines = programs()["main_prog"].lines
    assert str(lines[1]) == "./calls.c:28: c->v[0] = inner(c, GREEN, 1) + leaf(c->v[2], -5, 'x');"
    assert str(lines[28]) == "./calls.c:21: __attribute__((noinline)) int shared(unsigned short n)"
    assert str(lines[29]) == "./calls.c:23: return n + 7;"
    source = (OF_CASES / "calls.c").read_text(encoding="utf-8").splitlines()
    assert all(source[line.line - 1].strip() == line.text.strip() for line in lines.values())


MAPS = (OF_CASES / "maps.o").read_bytes()


def test_maps_and_data_sections() -> None:
    """Those that the program names, in the order in which it names them; values are those of the source."""
    (program,) = load_object(MAPS)
    pairs, data, bss, rodata, seen = program.prog.maps
    assert (pairs.name, pairs.type, pairs.key_size, pairs.value_size, pairs.max_entries) == ("pairs", "array", 4, 16, 4)
    assert (seen.name, seen.type, seen.key_size, seen.value_size, seen.max_entries) == ("seen", "hash", 8, 8, 16)
    assert (data.name, data.content) == (".data", ((bytes(4), b"d" + bytes(7)),))
    assert (bss.name, bss.content) == (".bss", ((bytes(4), bytes(8)),))
    words = b"".join(number.to_bytes(4, "little") for number in (3, 5, 7, 11))
    assert (rodata.name, rodata.content) == (".rodata", ((bytes(4), words),))
    assert [map_.is_constant for map_ in program.prog.maps] == [False, False, False, True, False]


def test_constants_name_maps() -> None:
    """src 5: a map by its index; 6: its value, the offset in the second slot. RFC 9669, table 12."""
    (program,) = load_object(MAPS)
    rows = [(insn.src, insn.imm, after.imm) for insn, after in pairwise(program.prog.insns) if insn.opcode == 0x18]
    assert rows[:3] == [(5, 0, 0), (6, 1, 0), (6, 2, 0)]


def test_an_offset_into_data() -> None:
    (program,) = load_object((OBJECTS / "data.o").read_bytes())
    assert [map_.name for map_ in program.prog.maps] == [".rodata"]
    assert program.prog.maps[0].content[0][1].hex(" ", 4) == "01000000 02000000 03000000 04000000"


REFUSED = {
    "kconfig.o": r"section syscall, byte 0: CONFIG_HZ is a variable of \.kconfig, which is not supported",
    "pointers.o": r"reads insn 0: \.data: section \.data holds addresses, which are not supported in data",
    "callback.o": r"passes insn 1: the address of \.text \(a function\) is not supported",
    "ring.o": r"map ring: type 27 is not known here; known: hash \(1\), array \(2\)",
    "flags.o": r"map m: flags 0x1 are not known here; known: BPF_F_RDONLY_PROG \(0x80\)",
    "pinned.o": r"map m: key: expected 4 bytes, as an array has, found 8",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    with pytest.raises(ElfError, match=REFUSED[name]):
        load_object((OBJECTS / name).read_bytes())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no ELF object"),
        (b"\x7fELF", "no ELF object"),
        (CALLS[:100], "no ELF object"),
        (
            CALLS[:18] + b"\x3e\0" + CALLS[20:],
            "expected a little-endian relocatable object for EM_BPF, found EM_X86_64",
        ),
        (bytes(17 << 20), "expected at most"),
    ],
)
def test_what_is_no_object(raw: bytes, message: str) -> None:
    with pytest.raises(ElfError, match=message):
        load_object(raw)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(
    st.sampled_from([CALLS, MAPS]),
    st.lists(st.tuples(st.integers(0, min(len(CALLS), len(MAPS)) - 1), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_objects_are_told(whole: bytes, changes: list[tuple[int, int]]) -> None:
    raw = bytearray(whole)
    for at, value in changes:
        raw[at] = value
    with contextlib.suppress(ElfError):  # and nothing else
        load_object(bytes(raw))


def test_btf_that_we_write_is_read() -> None:
    types = Btf()
    text = "u64 f(u32 a, s16 b, bool c, u8 *p, void *q, struct pair *s)"
    number = types.func(parse_proto(text), GLOBAL)
    tagged = types.func(parse_proto("int g(struct ctx *c __arg_ctx)"), GLOBAL)
    read = read_btf(types.blob())
    assert str(read.proto(number)) == "u64 f(u32 a, s16 b, bool c, u8 *p, void *q, struct pair *s)"
    assert read.proto(number).is_global
    (param,) = read.proto(tagged).params
    assert isinstance(param.type, CPtr)
    assert param.type.ctx
    assert (read.ctype(0), read.ctype(types.type_id(CInt("u32", 4, False)))) == (CVoid(), CInt("u32", 4, False))


VALUES = (
    "u64 f(u32 a, struct pair {u64 lo; u64 hi;} p, __int128 v)",
    "struct three {u8 c[3];} f(union u {u64 a; u8 b[9];} u)",
    "u64 f(struct packed {u8 a; u64 b;} __attribute__((packed)) p)",
    "u64 f(struct bits {u32 a:3; u32 b:7; u64 c;} p)",
    "u64 f(struct out {struct in {u16 a; u16 b;} i[2]; u32 c;} p)",
    "u64 f(struct two {void *a; float b;} p)",
)


@pytest.mark.parametrize("text", VALUES)
def test_values_of_up_to_16_bytes_are_read_with_their_members(text: str) -> None:
    types = Btf()
    number = types.func(parse_proto(text), STATIC)
    assert str(read_btf(types.blob()).proto(number)) == text


@pytest.mark.parametrize(
    "text", ["struct large {u64 a, b, c;}", "struct odd {u64 a; u64 b __attribute__((aligned(32)));}"]
)
def test_structs_that_nobody_passes_by_value_are_read_by_name(text: str) -> None:
    types = Btf()
    number = types.func(parse_proto(f"u64 f({text} s)"), STATIC)
    (param,) = read_btf(types.blob()).proto(number).params
    assert param.type == CStruct(text.split()[1])


BROKEN = {
    "no header": b"",
    "another magic": bytes(24),
    "types outside": Btf().blob()[:8] + b"\xff\xff\0\0" + Btf().blob()[12:],
    "an unknown kind": b"\x9f\xeb\1\0\x18\0\0\0"
    + b"\0\0\0\0\x0c\0\0\0\x0c\0\0\0\1\0\0\0"
    + b"\0\0\0\0\0\0\0\x1f\0\0\0\0"
    + b"\0",
    "a type that is cut off": b"\x9f\xeb\1\0\x18\0\0\0"
    + b"\0\0\0\0\x0c\0\0\0\x0c\0\0\0\1\0\0\0"
    + b"\0\0\0\0\5\0\0\4\0\0\0\0"
    + b"\0",
}


@pytest.mark.parametrize("name", BROKEN)
def test_btf_that_cannot_be_read(name: str) -> None:
    with pytest.raises(BtfError):
        read_btf(BROKEN[name])


def test_types_in_a_circle_end() -> None:
    """A typedef of itself."""
    blob = b"\x9f\xeb\1\0\x18\0\0\0" + b"\0\0\0\0\x0c\0\0\0\x0c\0\0\0\1\0\0\0" + b"\0\0\0\0\0\0\0\x08\1\0\0\0" + b"\0"
    with pytest.raises(BtfError, match="more than 32 deep"):
        read_btf(blob).resolved(1)
