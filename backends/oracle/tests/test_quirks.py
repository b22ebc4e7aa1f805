"""Known differences of compilers, each on a prototype of its own: where the document puts things, and where the compiler does."""

import pytest

from backends.abi import OnStack, Piece
from backends.arm64 import abi as arm64
from backends.oracle.compilers import Compiler
from backends.oracle.quirks import QUIRKS, Quirk, models, of_types
from backends.tests.abi_rows import found
from backends.x86_64 import abi as x86_64
from harness.isa.proto import parse_proto

FIVE = "u64 a, u64 b, u64 c, u64 d, u64 e"
NINE = "double a, double b, double c, double d, double e, double f, double g, double h, double i"
EIGHT = "double a, double b, double c, double d, double e, double f, double g, double h"
IN_XMM = "xmm0 xmm1 xmm2 xmm3 xmm4 xmm5 xmm6"
SECOND = "struct second {int :30; double x;};"
PACKED7 = "struct p {u32 a; u8 b[3];} __attribute__((packed));"
ROWS = [
    # Quirk, declarations, parameters, places by the document, by the compiler; offsets from the first stacked argument.
    ("D-1", "clang", "", f"{FIVE}, __int128 f, u64 g, u64 h", "rdi rsi rdx rcx r8 [0] r9 [16]", "rdi rsi rdx rcx r8 [0] [16] [24]"),
    ("D-1", "clang", "", f"{FIVE}, __int128 f, struct {{u16 x; double y;}} g", "rdi rsi rdx rcx r8 [0] r9,xmm0", "rdi rsi rdx rcx r8 [0] [16],xmm0"),
    ("D-2", "clang", "", f"{FIVE}, __int128 f, u64 g", "rdi rsi rdx rcx r8 [0] r9", "rdi rsi rdx rcx r8 r9,[0] [8]"),
    ("D-2", "clang", "", f"{FIVE}, u64 f, u64 g, __int128 h", "rdi rsi rdx rcx r8 r9 [0] [16]", "rdi rsi rdx rcx r8 r9 [0] [8]"),
    ("D-3", "gcc", PACKED7, "struct {struct p x[2];} a, u64 b", "[0] rdi", "rdi,rsi rdx"),
    ("D-4", "clang", "", "struct {u32 x; struct {u32 y;} __attribute__((aligned(8))) z; u16 w;} __attribute__((packed)) a, u64 b", "rdi,rsi rdx", "[0] rdi"),
    ("D-4a", "clang", "typedef u64 low __attribute__((aligned(4)));", "struct {u32 x; low y;} a, u64 b", "[0] rdi", "rdi rsi"),
    ("D-7", "gcc", "", "struct {u64 :44; char *x;} a, u64 b", "rdi rsi", "rdi,rsi rdx"),
    ("D-22", "gcc", "", "union {float x; int :0;} a, u64 b", "xmm0 rdi", "rdi rsi"),
    ("D-22", "gcc", "", "struct {u8 x; union {u8 y; long z:9;} __attribute__((packed)) w;} a, u64 b", "rdi rsi", "[0] rdi"),
    ("D-22", "gcc", "", "struct {u8 x; union {u8 y; long z:7;} __attribute__((packed)) w;} a, u64 b", "rdi rsi", "rdi rsi"),
    ("D-8", "gcc", "", "struct {float x; int y[0];} a", "xmm0", "rdi"),
    ("D-15", "gcc", "", f"{FIVE}, u64 f, struct {{short :16;}} g, ..., u64 h", "rdi rsi rdx rcx r8 r9 - [0]", "rdi rsi rdx rcx r8 r9 - [8]"),
    ("D-16", "gcc", "", "struct {u8 x; struct {u32 y:32;} z;} __attribute__((packed)) a, u64 b", "rdi rsi", "[0] rdi"),
    ("D-17", "clang", "", "struct {struct {int x[0];} y; float z;} a", "x0", "v0"),
    ("D-19", "clang", "", f"{FIVE}, u64 f, ..., struct {{int :5;}} g, u64 h", "rdi rsi rdx rcx r8 r9 - [0]", "rdi rsi rdx rcx r8 r9 - [8]"),
    ("D-9", "clang", "", "struct {_Float16 x, y; _Float16 z __attribute__((aligned(8)));} a", "xmm0,xmm1", "rdi,xmm0"),
    ("D-10", "clang", "", "union {struct {float x; double y;} s; double d;} a", "xmm0,xmm1", "xmm0,xmm1"),
    ("D-11", "clang", "", "union {__int128 :121; u64 x;} a, u64 b", "rdi rsi", "rdi,rsi rdx"),
    ("D-5", "gcc", "", "u64 a, struct {__int128 x:59; u64 y;} __attribute__((packed)) b", "x0 x1,x2", "x0 x2,x3"),
    ("D-24", "gcc", "", "u64 a, ..., struct {__int128 x:30;} __attribute__((packed)) b", "x0 x1", "x0 x2"),
    ("D-5", "gcc", "", "u64 a, ..., struct {__int128 x:30;} __attribute__((packed)) b", "x0 x1", "x0 x1"),
    ("D-12", "clang", "", "struct {int :5;} a, u64 b", "x0 x1", "- x0"),
    ("D-13", "gcc", "", "union {float x; short :0;} a, struct {float x; short :0; } b", "v0 v1", "x0 v0"),
    ("D-13", "clang", "", "union {float x; short :0;} a, struct {float x; short :0; } b", "v0 v1", "x0 x1"),
    ("D-20", "clang", "", f"{NINE}, struct {{long double x;}} __attribute__((packed)) j", "v0 v1 v2 v3 v4 v5 v6 v7 [0] [8]", "v0 v1 v2 v3 v4 v5 v6 v7 [0] [16]"),
    ("D-17", "clang", "", "union {double x; struct {long :61;} y;} a", "x0", "v0"),
    ("D-23", "clang", "", f"{NINE}, ..., struct {{double x, y, z, w __attribute__((aligned(32)));}} j, struct {{double x __attribute__((aligned(32))); double y, z, w;}} k", "v0 v1 v2 v3 v4 v5 v6 v7 [0] &x0 [16]", "v0 v1 v2 v3 v4 v5 v6 v7 [0] &x0 [32]"),
    ("D-14", "gcc", "", "struct {double _Complex x; char y[0];} a, struct {float x; char y[0];} b", "x0,x1 x2", "v0,v1 x0"),
    ("D-25", "clang", "struct none {long double x[0];};", "int a, ..., struct none b, int c, struct none d, int e", "x0 - x1 - x2", "x0 - x2 - x4"),
    ("D-25", "clang", "struct none {long double x[0];};", f"{FIVE}, u64 f, u64 g, u64 h, ..., u64 i, struct none j, int k", "x0 x1 x2 x3 x4 x5 x6 x7 [0] - [8]", "x0 x1 x2 x3 x4 x5 x6 x7 [0] - [16]"),
    ("D-25", "clang", "struct bits {int :5;};", "int a, struct bits b, ..., struct bits c, int d", "x0 x1 x2 x3", "x0 - - x2"),
    ("D-25", "clang", "", "int a, struct {long double x[0];} b, ..., struct {long x[0];} c, struct {} __attribute__((aligned(16))) d, int e", "x0 - - - x1", "x0 - - - x1"),
    ("D-26", "clang", "", f"{FIVE}, u64 f, u64 g, __int128 h, ..., __int128 i", "rdi rsi rdx rcx r8 r9 [0] [16] [32]", "rdi rsi rdx rcx r8 r9 [0] [8] [32]"),
    ("D-26", "clang", "struct mixed {u64 x; double y;};", f"{FIVE}, __int128 f, ..., struct mixed g, __int128 h", "rdi rsi rdx rcx r8 [0] r9,xmm0 [16]", "rdi rsi rdx rcx r8 r9,[0] [8] [32]"),
    ("D-26", "clang", "", f"{FIVE}, ..., __int128 f, u64 g, u64 h, __int128 i", "rdi rsi rdx rcx r8 [0] r9 [16] [32]", "rdi rsi rdx rcx r8 [0] r9 [16] [32]"),
    ("D-27", "clang", "struct mixed {u64 x; double y;};", f"{FIVE}, __int128 f, ..., struct mixed g, u64 h", "rdi rsi rdx rcx r8 [0] r9,xmm0 [16]", "rdi rsi rdx rcx r8 [0] [16] [32]"),
    ("D-27", "clang", "struct mixed {u64 x; double y;};", f"{FIVE}, __int128 f, struct mixed g, ..., u64 h", "rdi rsi rdx rcx r8 [0] r9,xmm0 [16]", "rdi rsi rdx rcx r8 [0] [16],xmm0 [24]"),
    ("D-27", "clang", "struct mixed {u64 x; double y;};", f"{FIVE}, ..., __int128 f, struct mixed g", "rdi rsi rdx rcx r8 [0] r9,xmm0", "rdi rsi rdx rcx r8 [0] r9,xmm0"),
    ("D-28", "clang", SECOND, f"{EIGHT}, struct second i, double j", f"{IN_XMM} xmm7 [0] [16]", f"{IN_XMM} xmm7 [0] [8]"),
    ("D-28", "clang", SECOND, f"struct second z, {EIGHT}, struct {{double x;}} i", f"{IN_XMM} xmm7 [0] [8]", f"{IN_XMM} xmm7 [0] [8]"),
    ("D-28", "clang", SECOND, "double a, double b, double c, double d, double e, double f, struct second g, struct {double x, y;} h, double i", f"{IN_XMM} [0] xmm7", f"{IN_XMM} xmm7,[0] [8]"),
    ("D-28", "clang", SECOND, "double a, double b, double c, double d, double e, double f, double g, struct second h, float _Complex i, double j", f"{IN_XMM} xmm7 [0] [8]", f"{IN_XMM} xmm7 [0] [16]"),
    ("D-28", "clang", "", f"{EIGHT}, struct {{double x; int :30;}} i, struct {{float x, y, z;}} j, double k", f"{IN_XMM} xmm7 [0] [16] [32]", f"{IN_XMM} xmm7 [0] [16] [32]"),
    ("D-28", "clang", "", f"{FIVE}, u64 f, struct {{int :30; u64 x;}} g, u64 h", "rdi rsi rdx rcx r8 r9 [0] [16]", "rdi rsi rdx rcx r8 r9 [0] [16]"),
    ("D-29", "clang", SECOND, "u64 a, ..., struct second b, double c", "rdi xmm0 xmm1", "rdi [0] xmm0"),
    ("D-29", "clang", SECOND, f"{EIGHT}, struct second i, ..., double j", f"{IN_XMM} xmm7 [0] [16]", f"{IN_XMM} xmm7 [0] [8]"),
    ("D-29", "clang", "", "u64 a, ..., struct {double x; int :30;} b, struct {int :30; u64 x;} c, double d", "rdi xmm0 rsi xmm1", "rdi xmm0 rsi xmm1"),
    ("D-30", "clang", SECOND, "u64 a, ..., struct {int :30; u64 x;} b, u64 c, struct second d, double e", "rdi rsi rdx xmm0 xmm1", "rdi - rdx - xmm1"),
    ("D-30", "clang", "", f"struct {{int :30; u64 x;}} z, {FIVE}, ..., struct {{int :30; u64 x;}} f, u64 g", "rdi rsi rdx rcx r8 r9 [0] [16]", "rdi rsi rdx rcx r8 r9 [0] [16]"),
    ("D-30", "clang", "", "u64 a, ..., struct {u64 x; int :30;} b, struct {u64 x; int y:30;} c", "rdi rsi rdx,rcx", "rdi rsi rdx,rcx"),
]  # fmt: skip


def quirk_of(name: str, family: str) -> Quirk:
    return next(quirk for quirk in QUIRKS if (quirk.id, quirk.family) == (name, family))


@pytest.mark.parametrize(("name", "family", "declarations", "params", "document", "compiler"), ROWS)
def test_a_quirk(name: str, family: str, declarations: str, params: str, document: str, compiler: str) -> None:
    quirk = quirk_of(name, family)
    assert quirk.rules
    module = arm64 if quirk.arch == "arm64" else x86_64
    proto = parse_proto(f"{declarations}void f({params})")
    assert found(module.layout(proto)) == document.split()
    assert found(module.layout(proto, quirk.rules)) == compiler.split()


def test_what_a_union_loses() -> None:
    quirk = quirk_of("D-10", "clang")
    assert quirk.rules
    assert issubclass(quirk.rules, x86_64.Passing)
    for text, sizes in (
        ("union {struct {float a; double b;} s; double d;}", [4, 8]),
        ("union {struct {float a;} s; double d;}", [8]),
        ("union {float a[2]; double d;}", [8]),
        ("union {struct {_Float16 a; float b;} s; float c[2];}", [8]),
        ("struct {float a; double b;}", [4, 8]),
    ):
        layout = x86_64.layout(parse_proto(f"void f({text} u)"), quirk.rules)
        assert [piece.size for piece in layout.args[0].pieces] == sizes


def test_what_is_passed_after_padding() -> None:
    """Where no register is left: by the psABI the whole, by clang the second eightbyte."""
    quirk = quirk_of("D-28", "clang")
    assert quirk.rules
    assert issubclass(quirk.rules, x86_64.Passing)
    proto = parse_proto(f"{SECOND}void f({EIGHT}, struct second i)")
    assert x86_64.layout(proto).args[8].pieces == (Piece(0, 16, OnStack(0, "rsp")),)
    assert x86_64.layout(proto, quirk.rules).args[8].pieces == (Piece(8, 8, OnStack(0, "rsp")),)


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("struct {float a; struct {} b[1]; double c[0];}", True),
        ("struct {struct {struct {int z[0];} x[2];} a; float b;}", True),
        ("struct {float a; struct {} b[0]; struct {} c;}", False),
    ],
)
def test_types_that_clang_fails_on(text: str, fails: bool) -> None:
    ctype = parse_proto(f"void f({text} a)").params[0].type
    clang = Compiler("clang", (22, 1, 8), "x86_64", ("clang",))
    assert of_types(clang, [ctype], fails=True) == (("D-21",) if fails else ())


def test_every_quirk_has_a_row() -> None:
    assert {(name, family) for name, family, *_ in ROWS} == {
        (quirk.id, quirk.family) for quirk in QUIRKS if quirk.rules
    }


@pytest.mark.parametrize(
    ("text", "is_laid_out_otherwise"),
    [
        ("struct {bool a; long b:35 __attribute__((aligned(4))); u64 c;}", True),
        ("struct {struct {int a:3 __attribute__((aligned(2)));} b[2];}", True),
        ("struct {bool a; long b:35; u64 c __attribute__((aligned(4)));}", False),
        ("long", False),
    ],
)
def test_types_that_clang_lays_out_otherwise(text: str, is_laid_out_otherwise: bool) -> None:
    ctype = parse_proto(f"void f({text} a)").params[0].type
    assert of_types(Compiler("clang", (22, 1, 8), "arm64", ("clang",)), [ctype]) == (
        ("D-18",) if is_laid_out_otherwise else ()
    )
    assert of_types(Compiler("gcc", (12, 2, 0), "arm64", ("gcc",)), [ctype]) == ()


def test_models_of_a_compiler() -> None:
    compiler = Compiler("clang", (14, 0, 6), "arm64", ("clang",))
    found = [" ".join(quirk.id for quirk in quirks) for quirks, _ in models(compiler)]
    assert found[:7] == ["D-12", "D-13", "D-17", "D-20", "D-23", "D-25", "D-12 D-13"]
    assert found[-1] == "D-20 D-23 D-25"
    assert "D-12 D-25" not in found  # one contains the other
    assert len(found) == 6 + 14 + 16
