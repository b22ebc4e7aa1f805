"""BTF as C: a compiler gives every type the size and every member the offset that BTF says."""

import contextlib
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import cli
from harness.isa.btf import ENUM64, FWD, GLOBAL, STRUCT, UNION, Btf
from harness.isa.btfc import c_lines
from harness.isa.btfread import BtfError, Types, read_btf
from harness.isa.elf import load_types
from harness.isa.proto import parse_bpf_proto

ROOT = Path(__file__).resolve().parents[2]
OBJECTS, OF_CASES = ROOT / "harness" / "isa" / "tests" / "objects", ROOT / "cases" / "objects"
PATHS = [OBJECTS / "types.o", OF_CASES / "maps.o", OF_CASES / "calls.o", OBJECTS / "data.o"]
RAW = {path.stem: path.read_bytes() for path in PATHS}


def types_of(name: str) -> Types:
    return load_types(RAW[name])


def asserts(types: Types) -> list[str]:
    """What a compiler has to find of every named struct and union, from BTF's numbers alone."""
    lines: list[str] = []
    for found in types.types:
        if found.kind not in (STRUCT, UNION) or not found.name:
            continue
        name = f"{'union' if found.kind == UNION else 'struct'} {found.name}"
        lines.append(f'_Static_assert(sizeof({name}) == {found.value}, "{name}");')
        for text, _, offset in struct.iter_unpack("<III", found.rest):
            member = types.text(text)
            if member and not (found.flag and offset >> 24):
                at = (offset & 0xFFFFFF if found.flag else offset) // 8
                lines.append(f'_Static_assert(__builtin_offsetof({name}, {member}) == {at}, "{name}.{member}");')
    return lines


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("name", RAW)
def test_a_compiler_agrees(name: str, compiler: str, tmp_path: Path) -> None:
    command = shutil.which(compiler) or shutil.which(f"{compiler}-14")
    if command is None:
        pytest.skip(f"no {compiler}")
    types = types_of(name)
    path = tmp_path / "types.c"
    path.write_text("\n".join([*c_lines(types), *asserts(types)]) + "\n", encoding="utf-8")
    done = subprocess.run([command, "-fsyntax-only", "-w", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


LINES = [
    "typedef int (*compare)(const void *, const void *);",
    "\tvoid (*call)(struct list *, int);",
    "\tunsigned int a : 3;",
    "\tconst volatile int *restrict p;",
    "\tint grid[2][3];",
    "\tint (*rows)[4];",
    "\tchar *(*names)[2];",
    "\tunion also_unknown *v;",
    "} __attribute__((packed));",
    "enum small { LOW = 0, HIGH = 7 };",
    "int main_prog(struct uses *u);",
    "extern const volatile enum big large;",
    "static volatile u64 counter;",
    "/* section .data: counter */",
]


def test_what_it_looks_like() -> None:
    lines = c_lines(types_of("types"))
    assert [line for line in LINES if line not in lines] == []


def test_functions_are_prototypes() -> None:
    lines = c_lines(types_of("calls"))
    assert "static u64 leaf(u64 a, s32 b, char c);" in lines
    assert "extern u64 kf(u64, const struct pair *);" in lines


def section(*words: int, strings: bytes = b"\0a\0b\0") -> Types:
    """BTF from its words. Linux Documentation/bpf/btf.rst."""
    body = struct.pack(f"<{len(words)}I", *words)
    return read_btf(struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(strings)) + body + strings)


def test_an_enum_of_64_bits() -> None:
    """enum a { b = -1 }: kind_flag, one value, 8 bytes; name, low half, high half."""
    types = section(1, 1 << 31 | ENUM64 << 24 | 1, 8, 3, 0xFFFF_FFFF, 0xFFFF_FFFF)
    assert c_lines(types) == ["enum a { b = -1LL } __attribute__((mode(DI)));"]


def test_structs_within_structs_are_measured_once() -> None:
    """Measured anew for each struct around it, thirty levels would take for ever."""
    types = Btf()
    inner = types.type_id(parse_bpf_proto("int f(void)").result)
    for number in range(30):
        inner = types.add(STRUCT, f"s{number}", 4, struct.pack("<III", types.string("x"), inner, 0), vlen=1)
    assert c_lines(read_btf(types.blob()))[-3:] == ["struct s29 {", "\tstruct s28 x;", "};"]


def test_a_union_that_is_only_named() -> None:
    assert c_lines(section(1, 1 << 31 | FWD << 24, 0)) == ["union a;"]


def test_tags_and_prototypes_that_we_write() -> None:
    types = Btf()
    types.func(parse_bpf_proto("int f(struct c *p __arg_ctx)"), GLOBAL)
    lines = c_lines(read_btf(types.blob()))
    assert "int f(struct c *p);" in lines
    assert '/* tag "arg:ctx" on f, part 0 */' in lines


HOSTILE = {
    "a struct in itself": section(1, STRUCT << 24 | 1, 8, 3, 1, 0),
    "a typedef of itself": section(1, 8 << 24, 1),
    "an array of itself": section(0, 3 << 24, 0, 1, 1, 4),
    "a pointer to itself": section(0, 2 << 24, 1),
    "two that point to each other": section(0, 2 << 24, 2, 0, 2 << 24, 1),
    "a type that is not there": section(1, 8 << 24, 77),
    "a member that overlaps": section(0, 1 << 24, 4, 32, 1, STRUCT << 24 | 2, 8, 3, 1, 0, 3, 1, 8),
    "a string that is not there": section(1, STRUCT << 24 | 1, 4, 99, 0, 0),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_types_are_told(name: str) -> None:
    with pytest.raises(BtfError, match=r"type \d+|no string at 99"):
        c_lines(HOSTILE[name])


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=5))
def test_damaged_types_are_told(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(DATA)
    for at, value in changes:
        raw[24 + at % (len(raw) - 24)] = value
    with contextlib.suppress(BtfError):  # and nothing else
        c_lines(read_btf(bytes(raw)))


def _data() -> bytes:
    raw = RAW["types"]
    at = raw.index(b"\x9f\xeb\1\0\x18\0\0\0")
    kinds, size, text_at, text = struct.unpack_from("<IIII", raw, at + 8)
    return raw[at : at + 24 + max(kinds + size, text_at + text)]


DATA = _data()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["btf", str(OF_CASES / "maps.o")]) == 0
    assert "int note(u64 key, u64 value);" in capsys.readouterr().out
    path = tmp_path / "btf"
    path.write_bytes(DATA)
    assert cli.main(["btf", str(path)]) == 0
    capsys.readouterr()
    path.write_bytes(b"\x7fELF")
    for name in (str(path), str(tmp_path), str(tmp_path / "none"), "/dev/null"):
        assert cli.main(["btf", name]) == 2
        assert capsys.readouterr().err.startswith(f"callconv: {name}: ")
