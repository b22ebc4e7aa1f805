"""Sizes, alignments and offsets, typed by hand from the documents and from what GCC 12, clang 14 and clang 22 say."""

import pytest

from harness.isa.ctypes import (
    ARM64,
    X86_64,
    CStruct,
    IncompleteError,
    align_of,
    bare,
    leaves,
    natural_of,
    size_of,
    struct_layout,
)
from harness.isa.proto import parse_proto

SCALARS = [
    # AAPCS64, "Fundamental Data Types"; psABI figure 3.1.
    ("bool", 1), ("char", 1), ("short", 2), ("int", 4), ("enum e", 4), ("long", 8), ("long long", 8), ("__int128", 16),
    ("void *", 8), ("int (*)(void)", 8), ("_Float16", 2), ("float", 4), ("double", 8), ("long double", 16),
    ("__float128", 16), ("float __attribute__((vector_size(8)))", 8), ("u8 __attribute__((vector_size(16)))", 16),
]  # fmt: skip


@pytest.mark.parametrize(("text", "size"), SCALARS)
def test_scalars_are_aligned_to_their_size(text: str, size: int) -> None:
    ctype = parse_proto(f"void f({text})").params[0].type
    for model in (ARM64, X86_64):
        assert (size_of(ctype, model), align_of(ctype, model), natural_of(ctype, model)) == (size, size, size)


COMPOSITES = [
    # text, size, alignment, natural alignment. Empty structs of GNU C have size 0.
    ("struct {}", 0, 1, 1),
    ("struct {} __attribute__((aligned(16)))", 0, 16, 1),
    ("float _Complex", 8, 4, 4),
    ("long double _Complex", 32, 16, 16),
    ("struct {u8 a; s16 b; s32 c; s64 d;}", 16, 8, 8),
    ("struct {u32 a[3];}", 12, 4, 4),
    ("struct {u8 a; u64 b;} __attribute__((packed))", 9, 1, 1),
    ("struct {u8 a; u64 b __attribute__((packed)); u16 c;}", 12, 2, 2),
    ("union {u8 a; u64 b[2]; u32 c[5];}", 24, 8, 8),
    ("struct {char n; char t[];}", 1, 1, 1),
    ("struct {char n; long t[];}", 8, 8, 8),
    # An attribute on the whole counts for the alignment, one on a member for the natural alignment as well.
    ("struct {u64 a, b;} __attribute__((aligned(16)))", 16, 16, 8),
    ("struct {u64 a __attribute__((aligned(16))); u64 b;}", 16, 16, 16),
    ("struct {struct {u64 a, b;} __attribute__((aligned(16))) s;}", 16, 16, 16),
    ("struct {__int128 v;} __attribute__((packed))", 16, 1, 1),
    ("struct {__int128 v __attribute__((aligned(16)));} __attribute__((packed))", 16, 16, 16),
    ("struct {__int128 v;} __attribute__((packed, aligned(16)))", 16, 16, 1),
    ("struct {__int128 v:100;}", 16, 16, 16),
    ("struct {u64 a, b; int z[0] __attribute__((aligned(16)));}", 16, 16, 16),
    ("struct {long x;} __attribute__((aligned(2)))", 8, 8, 8),
    # Bit-fields.
    ("struct {char c; int x:5; int y:30; char d;}", 12, 4, 4),
    ("struct {char c; int x:5; int y:30; char d;} __attribute__((packed))", 7, 1, 1),
    ("struct {char c; long x:33; char d;}", 8, 8, 8),
    ("struct {char c; int x:5 __attribute__((aligned(8))); char d;}", 16, 8, 8),
    ("struct {char c; int x:5 __attribute__((aligned(8))); char d;} __attribute__((packed))", 16, 8, 8),
    ("struct {char c; int x:5 __attribute__((aligned(2))); int y:27; char d;}", 12, 4, 4),
    ("struct {char c:3; bool b:1; unsigned short s:9; unsigned t:9;}", 4, 4, 4),
    ("struct {char c; u64 v:60 __attribute__((packed));}", 9, 1, 1),
    ("struct {int a:3; int x __attribute__((packed)); char d;}", 8, 4, 4),
    ("struct {char d; int e:20 __attribute__((packed)); int f:20;}", 8, 4, 4),
]


@pytest.mark.parametrize(("text", "size", "align", "natural"), COMPOSITES)
def test_composites(text: str, size: int, align: int, natural: int) -> None:
    ctype = parse_proto(f"void f({text} a)").params[0].type
    for model in (ARM64, X86_64):
        assert (size_of(ctype, model), align_of(ctype, model), natural_of(ctype, model)) == (size, align, natural)


@pytest.mark.parametrize(
    ("text", "on_arm64", "on_x86_64"),
    [
        # Unnamed bit-fields count for the alignment on arm64 only; one of width 0 keeps to its type when packed, too.
        ("struct {char c; int :0; char d;}", (8, 4), (5, 1)),
        ("struct {char c; int :0; char d;} __attribute__((packed))", (8, 4), (5, 1)),
        ("struct {char c; int :5; char d;}", (4, 4), (3, 1)),
        ("struct {char c; short :9;}", (4, 2), (4, 1)),
        ("union {char c; int :9;}", (4, 4), (2, 1)),
        ("union {char c; long :0;}", (8, 8), (1, 1)),
        ("struct {int x:5; long :0; char c;}", (16, 8), (12, 4)),
        ("struct {int :0 __attribute__((aligned(16))); char d;}", (16, 16), (1, 1)),
    ],
)
def test_unnamed_bit_fields(text: str, on_arm64: tuple[int, int], on_x86_64: tuple[int, int]) -> None:
    ctype = parse_proto(f"void f({text} a)").params[0].type
    assert (size_of(ctype, ARM64), align_of(ctype, ARM64)) == on_arm64
    assert (size_of(ctype, X86_64), align_of(ctype, X86_64)) == on_x86_64


def test_a_typedef_may_lower_an_alignment_in_a_struct() -> None:
    proto = parse_proto(
        "typedef __int128 low __attribute__((aligned(8))); typedef u64 high __attribute__((aligned(16)));"
        "void f(low a, high b, struct {low v;} c, struct {char n; low v;} d)"
    )
    found = [(size_of(p.type, ARM64), align_of(p.type, ARM64), natural_of(p.type, ARM64)) for p in proto.params]
    assert found == [(16, 8, 16), (8, 16, 8), (16, 8, 8), (24, 8, 8)]


def test_offsets() -> None:
    struct = bare(
        parse_proto("void f(struct {u8 a; struct {u16 x; u8 y[3];} b[2]; int c:4, :3, d:20; double e;} s)")
        .params[0]
        .type
    )
    found = [(leaf.path, leaf.at_bit, leaf.size_bits) for leaf in leaves(struct, X86_64)]
    # b begins at byte 2, its elements have 6 bytes; c at byte 14; d would cross a boundary of int at 128 bits, so it begins there.
    assert found == [
        (".a", 0, 8), (".b[0].x", 16, 16), (".b[0].y[0]", 32, 8), (".b[0].y[1]", 40, 8), (".b[0].y[2]", 48, 8),
        (".b[1].x", 64, 16), (".b[1].y[0]", 80, 8), (".b[1].y[1]", 88, 8), (".b[1].y[2]", 96, 8), (".c", 112, 4),
        (".d", 128, 20), (".e", 192, 64),
    ]  # fmt: skip
    assert isinstance(struct, CStruct)
    assert struct_layout(struct, X86_64).size == 32


def test_structs_within_structs_are_laid_out_once() -> None:
    """Laid out anew for each struct around it, forty levels would take for ever."""
    text = "u32"
    for _ in range(40):
        text = f"struct {{{text} x;}}"
    ctype = parse_proto(f"void f({text} a)").params[0].type
    assert [leaf.path for leaf in leaves(ctype, ARM64)] == [".x" * 40]
    assert (size_of(ctype, X86_64), align_of(ctype, X86_64), natural_of(ctype, ARM64)) == (4, 4, 4)


def test_what_has_no_size() -> None:
    proto = parse_proto("void f(struct unknown s, void *p)")
    with pytest.raises(IncompleteError, match="the members of struct unknown are not given"):
        size_of(proto.params[0].type, ARM64)
    with pytest.raises(IncompleteError, match="void has no size"):
        size_of(proto.result, ARM64)
    with pytest.raises(IncompleteError, match="the members of struct unknown"):
        list(leaves(proto.params[0].type, ARM64))
