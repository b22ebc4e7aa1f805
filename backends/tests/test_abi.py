"""The layout functions against places typed by hand from the ABI documents."""

import ast
from pathlib import Path

import pytest

from backends import abi
from backends.abi import Abi, LayoutError, OnStack, Placed
from backends.arm64 import abi as arm64
from backends.tests.abi_rows import ROWS, Row, expected, found, prototype
from backends.x86_64 import abi as x86_64
from harness.isa.proto import parse_bpf_proto, parse_proto

TWELVE = "u64 f(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h, u64 i, u64 j, u64 k, u64 l)"

# AAPCS64, stage C: eight registers, then 8 bytes each from SP. psABI 3.2.3: six, then 8 bytes each from rsp at the call.
BPF = [
    ("u64 f(u64 a)", "x0", "rdi", 0, 0),
    ("u64 f(u64 a, u64 b, u64 c, u64 d, u64 e)", "x0 x1 x2 x3 x4", "rdi rsi rdx rcx r8", 0, 0),
    ("u64 f(u8 a, s8 b, u16 c, s16 d, u32 e, s32 f, u64 g, void *h)", "x0 x1 x2 x3 x4 x5 x6 x7", "rdi rsi rdx rcx r8 r9 [rsp] [rsp+8]", 0, 16),
    ("u64 f(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h, u8 i)", "x0 x1 x2 x3 x4 x5 x6 x7 [sp]", "rdi rsi rdx rcx r8 r9 [rsp] [rsp+8] [rsp+16]", 8, 24),
    (TWELVE, "x0 x1 x2 x3 x4 x5 x6 x7 [sp] [sp+8] [sp+16] [sp+24]", "rdi rsi rdx rcx r8 r9 [rsp] [rsp+8] [rsp+16] [rsp+24] [rsp+32] [rsp+40]", 32, 48),
]  # fmt: skip


@pytest.mark.parametrize(("text", "on_arm64", "on_x86_64", "arm64_bytes", "x86_64_bytes"), BPF)
def test_bpf_arguments(text: str, on_arm64: str, on_x86_64: str, arm64_bytes: int, x86_64_bytes: int) -> None:
    proto = parse_bpf_proto(text)
    for module, wanted, size in ((arm64, on_arm64, arm64_bytes), (x86_64, on_x86_64, x86_64_bytes)):
        layout = module.layout(proto)
        assert " ".join(str(piece.where) for placed in layout.args for piece in placed.pieces) == wanted
        assert layout.stack_bytes == size
        assert [placed.name for placed in layout.args] == [param.name for param in proto.params]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))
def test_worked_examples(row: Row) -> None:
    on_arm64, on_x86_64 = arm64.layout(prototype(row)), x86_64.layout(prototype(row))
    assert (found(on_arm64), on_arm64.stack_bytes) == (expected(row.arm64), row.arm64_bytes)
    assert (found(on_x86_64), on_x86_64.stack_bytes) == (expected(row.x86_64), row.x86_64_bytes)


def places(placed: Placed | None, of: Abi) -> str:
    assert placed is not None
    return ",".join(f"{of.at_entry(piece.where)}={piece.at}+{piece.size}" for piece in placed.pieces)


RESULTS = [
    # AAPCS64, "Result return"; psABI, "Returning of Values". Register = first byte of the object + bytes in it.
    ("u8", "x0=0+1", "rax=0+1"),
    ("void *", "x0=0+8", "rax=0+8"),
    ("__int128", "x0=0+8,x1=8+8", "rax=0+8,rdx=8+8"),
    ("struct {u64 a; u32 b;}", "x0=0+8,x1=8+8", "rax=0+8,rdx=8+8"),
    ("struct {u64 a, b;} __attribute__((aligned(16)))", "x0=0+8,x1=8+8", "rax=0+8,rdx=8+8"),
    ("struct {u8 c[3];}", "x0=0+3", "rax=0+3"),
    ("struct {u8 a; u64 b;} __attribute__((packed))", "x0=0+8,x1=8+1", "rdi=0+8"),
    ("struct {u8 c[17];}", "x8=0+8", "rdi=0+8"),
    ("struct {u64 a __attribute__((aligned(32)));}", "x8=0+8", "rdi=0+8"),
    ("struct {double a, b;}", "v0=0+8,v1=8+8", "xmm0=0+8,xmm1=8+8"),
    ("struct {float a[4];}", "v0=0+4,v1=4+4,v2=8+4,v3=12+4", "xmm0=0+8,xmm1=8+8"),
    ("struct {float a[5];}", "x8=0+8", "rdi=0+8"),
    ("struct {double a[4];}", "v0=0+8,v1=8+8,v2=16+8,v3=24+8", "rdi=0+8"),
    ("struct {double a; u64 b;}", "x0=0+8,x1=8+8", "xmm0=0+8,rax=8+8"),
    ("struct {u64 a; float b;}", "x0=0+8,x1=8+8", "rax=0+8,xmm0=8+8"),
    ("float", "v0=0+4", "xmm0=0+4"),
    ("_Float16", "v0=0+2", "xmm0=0+2"),
    ("long double", "v0=0+16", "st0=0+10"),
    ("struct {long double a;}", "v0=0+16", "st0=0+10"),
    ("struct {long double a[2];}", "v0=0+16,v1=16+16", "rdi=0+8"),
    ("float _Complex", "v0=0+4,v1=4+4", "xmm0=0+8"),
    ("double _Complex", "v0=0+8,v1=8+8", "xmm0=0+8,xmm1=8+8"),
    ("long double _Complex", "v0=0+16,v1=16+16", "st0=0+10,st1=16+10"),
    ("__float128", "v0=0+16", "xmm0=0+16"),
    ("float __attribute__((vector_size(8)))", "v0=0+8", "xmm0=0+8"),
    ("u8 __attribute__((vector_size(16)))", "v0=0+16", "xmm0=0+16"),
    ("struct {}", "", ""),
]


@pytest.mark.parametrize(("text", "on_arm64", "on_x86_64"), RESULTS)
def test_results(text: str, on_arm64: str, on_x86_64: str) -> None:
    declared = (
        f"typedef {text} t;" if "vector" not in text else f"typedef {text.split(' ', 1)[0]} t {text.split(' ', 1)[1]};"
    )
    proto = parse_proto(f"{declared} t f(u64 a)")
    assert places(arm64.layout(proto).result, arm64.ABI) == on_arm64
    assert places(x86_64.layout(proto).result, x86_64.ABI) == on_x86_64
    # x8 is no argument register; rdi is.
    assert places(arm64.layout(proto).args[0], arm64.ABI) == "x0=0+8"
    assert places(x86_64.layout(proto).args[0], x86_64.ABI) == ("rsi=0+8" if on_x86_64.startswith("rdi") else "rdi=0+8")


def test_no_result() -> None:
    proto = parse_proto("void f(void)")
    assert arm64.layout(proto).result is None
    assert x86_64.layout(proto).result is None


VECTORS = [
    # C.2 and C.3: an HVA of three does not fit behind six; a scalar v register is gone then, too. C.4: 16 bytes.
    ("struct {u8 a __attribute__((vector_size(16)));} s, struct {float a __attribute__((vector_size(8))), b __attribute__((vector_size(8)));} t, double d", "v0; v1,v2; v3", "xmm0; xmm1,xmm2; xmm3"),
    ("double a, double b, double c, double d, double e, double f, float g __attribute__((vector_size(8))), struct {u8 a[3] __attribute__((vector_size(16)));} s, double h", "v0; v1; v2; v3; v4; v5; v6; [0]; [48]", "xmm0; xmm1; xmm2; xmm3; xmm4; xmm5; xmm6; [0]; xmm7"),
    # Vectors of different sizes are no HVA; natural alignment 16 then, so C.10 and B.4.
    ("int a, struct {u8 a __attribute__((vector_size(16)));} s, struct {u8 a __attribute__((vector_size(8))); float b;} t, int b", "x0; v0; x1,x2; x3", "rdi; xmm0; xmm1,xmm2; rsi"),
    # Unions: the widest member counts; members of different types are none.
    ("union {float a[3]; float b;} s, union {float a; int b;} t, union {float a; double b;} u", "v0,v1,v2; x0; x1", "xmm0,xmm1; rdi; xmm2"),
    # No HFA: five members, a gap, another type. Half, single and quad precision.
    ("struct {_Float16 a[5];} s, struct {float a; float b __attribute__((aligned(8)));} t, _Float16 h, long double q", "x0,x1; x2,x3; v0; v1", "xmm0,xmm1; xmm2,xmm3; xmm4; [0]"),
    ("struct {struct {} e; float a; struct {} f[3]; struct {float b;} g;} s, double _Complex c", "v0,v1; v2,v3", "xmm0; xmm1,xmm2"),
    # psABI figures 3.5 and 3.6, without the 64-byte vector on arm64.
    ("long double a, union {long double a; int b;} u, long double _Complex c", "v0; x0,x1; v1,v2", "[0]; [16]; [32]"),
]  # fmt: skip


@pytest.mark.parametrize(("params", "on_arm64", "on_x86_64"), VECTORS)
def test_floats_and_vectors(params: str, on_arm64: str, on_x86_64: str) -> None:
    proto = parse_proto(f"void f({params})")
    assert found(arm64.layout(proto)) == on_arm64.split("; ")
    assert found(x86_64.layout(proto)) == on_x86_64.split("; ")


def test_the_example_of_the_psabi() -> None:
    """Figures 3.5 and 3.6; offsets from the first stacked argument."""
    layout = x86_64.layout(parse_proto(
        "typedef struct {int a, b; double d;} structparm; typedef float m256 __attribute__((vector_size(32)));"
        "typedef float m512 __attribute__((vector_size(64)));"
        "void func(int e, int f, structparm s, int g, int h, long double ld, double m, m256 y, m512 z, double n, int i, int j, int k)"
    ))  # fmt: skip
    wanted = "rdi; rsi; rdx,xmm0; rcx; r8; [0]; xmm1; ymm2; zmm3; xmm4; r9; [16]; [24]"
    assert (found(layout), layout.stack_bytes) == (wanted.split("; "), 32)


def test_variadic() -> None:
    """Anonymous arguments are placed like named ones; AL counts vector registers, at least those in use."""
    types = "struct P {long a, b;}; struct Q {__int128 v;};"
    proto = parse_proto(f"{types} void v(int n, ..., char, short, long, struct P, struct Q, int, int)")
    assert found(arm64.layout(proto)) == ["x0", "x1", "x2", "x3", "x4,x5", "x6,x7", "[0]", "[8]"]
    assert found(x86_64.layout(proto)) == ["rdi", "rsi", "rdx", "rcx", "r8,r9", "[0]", "[16]", "[24]"]
    assert x86_64.layout(proto).vector_args == 0
    assert x86_64.layout(parse_proto("void v(double a, ..., float, struct {float x[3];})")).vector_args == 4
    assert x86_64.layout(parse_proto("void v(double a)")).vector_args is None


def test_the_stack_is_aligned_for_its_arguments() -> None:
    wide = "void f(struct {long a __attribute__((aligned(64))); long b[3];} s)"
    assert x86_64.layout(parse_proto(wide)).stack_align == 64
    assert x86_64.layout(parse_proto("void f(struct {__int128 a; long b;} s)")).stack_align == 16
    assert x86_64.layout(parse_proto(TWELVE)).stack_align == 8
    assert arm64.layout(parse_proto(wide)).stack_align == 16


def test_every_step_names_its_rule() -> None:
    proto = parse_proto(
        "void f(int a, __int128 b, struct {u8 c[9];} c, struct {long a[3];} d, long e, __int128 f, float g, s8 h)"
    )
    steps = [[step.rule for step in placed.steps] for placed in arm64.layout(proto).args]
    assert steps == [
        ["C.9"],
        ["B.6", "C.10", "C.11"],
        ["B.5", "B.6", "C.12"],
        ["B.4", "C.9"],
        ["C.9"],
        ["B.6", "C.10", "C.14", "C.17"],
        ["C.1"],
        ["C.14", "C.16", "C.17"],
    ]
    assert [placed.rule for placed in arm64.layout(proto).args] == [
        "C.9",
        "C.11",
        "C.12",
        "C.9",
        "C.9",
        "C.14",
        "C.1",
        "C.14",
    ]
    steps = [[step.rule for step in placed.steps] for placed in x86_64.layout(proto).args]
    assert steps == [
        ["classification", "passing 2"],
        ["classification", "passing 2", "passing 2"],
        ["classification 4", "passing 2", "passing 2"],
        ["classification 4", "classification 5(c)", "passing 1"],
        ["classification", "passing 2"],
        ["classification", "passing, no registers", "passing, no registers"],
        ["classification", "passing 3"],
        ["classification", "passing, no registers", "passing, no registers"],
    ]


@pytest.mark.parametrize(
    ("params", "on_arm64", "on_x86_64"),
    [
        ("struct big a", "a: the members of struct big are not given", "a: the members of struct big are not given"),
        ("int a __attribute__((vector_size(4)))", "passes vectors of 8, 16 bytes, not of 4", "passes vectors of 8, 16, 32, 64 bytes, not of 4"),
        ("struct {int a __attribute__((vector_size(4)));} s", None, "not of 4"),
    ],
)  # fmt: skip
def test_what_has_no_place(params: str, on_arm64: str | None, on_x86_64: str) -> None:
    proto = parse_proto(f"void f({params})")
    if on_arm64:
        with pytest.raises(LayoutError, match=on_arm64):
            arm64.layout(proto)
    with pytest.raises(LayoutError, match=on_x86_64):
        x86_64.layout(proto)


def test_notation_at_the_call_and_at_entry() -> None:
    assert [str(OnStack(off, "rsp")) for off in (0, 8)] == ["[rsp]", "[rsp+8]"]
    assert [x86_64.ABI.at_entry(OnStack(off, "rsp")) for off in (0, 8)] == ["[rsp+8]", "[rsp+16]"]
    assert [arm64.ABI.at_entry(OnStack(off, "sp")) for off in (0, 8)] == ["[sp+0]", "[sp+8]"]


def test_register_sets() -> None:
    # AAPCS64: x19-x28 and the frame pointer are the callee's to keep; x18 is the platform's, SP apart.
    assert set(arm64.ABI.callee_saved) == {f"x{n}" for n in range(19, 30)}
    assert set(arm64.ABI.caller_saved) == {f"x{n}" for n in range(18)} | {"x30"}
    # psABI figure 3.4.
    assert set(x86_64.ABI.callee_saved) == {"rbx", "rbp", "r12", "r13", "r14", "r15"}
    assert set(x86_64.ABI.caller_saved) == {"rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"}


def test_what_is_judged_by_the_layouts_does_not_use_them() -> None:
    """The probe reads arguments where the layouts say; a JIT or trampoline that took its places from there could not be found wrong."""
    judges = {"abis.py", "external.py", "native.py", "trampoline_bench.py"}
    layouts = {"backends.abis", "backends.arm64.abi", "backends.x86_64.abi"}
    sources = [path for path in Path(abi.__file__).parent.rglob("*.py") if not {"tests", "oracle"} & set(path.parts)]
    users = {path.name for path in sources if imported(path) & layouts}
    assert users == judges


def imported(path: Path) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    return {
        name for node in nodes for alias in node.names for name in (f"{node.module}", f"{node.module}.{alias.name}")
    }
