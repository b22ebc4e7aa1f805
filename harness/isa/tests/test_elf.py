"""Objects as clang makes them; the numbers are llvm-objdump's."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.isa.btf import GLOBAL, Btf
from harness.isa.btfread import BtfError, read_btf
from harness.isa.ctypes import CInt, CPtr, CVoid
from harness.isa.elf import ElfError, ElfProgram, load_object
from harness.isa.proto import parse_proto

OBJECTS = Path(__file__).with_name("objects")
CALLS = (OBJECTS / "calls.o").read_bytes()


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
    source = (OBJECTS / "calls.c").read_text(encoding="utf-8").splitlines()
    assert all(source[line.line - 1].strip() == line.text.strip() for line in lines.values())


def test_data_is_refused_by_name() -> None:
    with pytest.raises(
        ElfError, match=r"reads insn 3: \.rodata \(section \.rodata\): maps and data sections are not supported yet"
    ):
        load_object((OBJECTS / "data.o").read_bytes())


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
@given(st.lists(st.tuples(st.integers(0, len(CALLS) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_objects_are_told(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(CALLS)
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
