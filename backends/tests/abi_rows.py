"""The worked examples of argument layout: prototypes, and where AAPCS64 and the psABI put each argument.

Notation: `u64*7` seven of them; a comma between arguments; in places `;` between arguments (a space between those of `*n`), a comma
between registers of one; `[n]` bytes from the first stacked argument; `&` before a place: the address of a copy; `-` no place.
Checked with gcc 12.2 and 16.2, clang 19.1.7 and 23.1.4, caller and callee.
"""

import re
from typing import Final, NamedTuple

from backends.abi import InReg, Layout, Piece
from harness.isa.proto import Proto, parse_proto


class Row(NamedTuple):
    """`rule`: what it is about; `bytes`: of the stacked arguments."""

    number: int
    arguments: str
    rule: str
    arm64: str
    arm64_bytes: int
    x86_64: str
    x86_64_bytes: int


TYPES: Final = {
    "i128": "__int128",
    "ptr": "void *",
    "P": "struct {u64 a, b;}",
    "P12": "struct {u64 a; u32 b;}",
    "H": "struct {u8 a; s16 b; s32 c; s64 d;}",
    "J": "struct {u32 a[3];}",
    "C3": "struct {u8 c[3];}",
    "S9": "struct {u8 a; u64 b;} __attribute__((packed))",
    "K16": "struct {u8 a; u64 b; u8 c[7];} __attribute__((packed))",
    "KA": "struct {u64 a, b;} __attribute__((packed))",
    "KQ": "struct {__int128 v;} __attribute__((packed))",
    "Q": "struct {__int128 v;}",
    "M": "struct {u64 a __attribute__((aligned(16))); u64 b;}",
    "A": "struct {u64 a, b;} __attribute__((aligned(16)))",
    "N": "struct {struct {u64 a, b;} __attribute__((aligned(16))) s;}",
    "U": "union {u8 a; u64 b[2];}",
    "E": "struct {}",
    "T": "struct {u64 a, b, c;}",
    "L": "struct {u64 a __attribute__((aligned(32)));}",
    "D": "struct {double a, b;}",
    "F": "struct {float a[4];}",
    "X": "struct {double a; u64 b;}",
    "DA": "struct {double a __attribute__((aligned(16))); double b;}",
}

ROWS: Final = (
    Row(1, "u8, s8, u16, s16, u32, s32, u64, ptr", "C.9", "x0; x1; x2; x3; x4; x5; x6; x7", 0, "rdi; rsi; rdx; rcx; r8; r9; [0]; [8]", 16),
    Row(2, "u64*8, u8", "C.9, C.16", "x0 x1 x2 x3 x4 x5 x6 x7; [0]", 8, "rdi rsi rdx rcx r8 r9 [0] [8]; [16]", 24),
    Row(3, "u64*8, u8, u16, u32, u64", "C.16: a slot each", "x0 x1 x2 x3 x4 x5 x6 x7; [0]; [8]; [16]; [24]", 32, "rdi rsi rdx rcx r8 r9 [0] [8]; [16]; [24]; [32]; [40]", 48),
    Row(4, "s8*12", "C.16", "x0 x1 x2 x3 x4 x5 x6 x7 [0] [8] [16] [24]", 32, "rdi rsi rdx rcx r8 r9 [0] [8] [16] [24] [32] [40]", 48),
    Row(5, "bool*9", "C.9 bool, C.16", "x0 x1 x2 x3 x4 x5 x6 x7 [0]", 8, "rdi rsi rdx rcx r8 r9 [0] [8] [16]", 24),
    Row(6, "i128, u64", "C.11", "x0,x1; x2", 0, "rdi,rsi; rdx", 0),
    Row(7, "u64, i128, u64", "C.10: x1 skipped", "x0; x2,x3; x4", 0, "rdi; rsi,rdx; rcx", 0),
    Row(8, "u64*6, i128", "C.11 last pair", "x0 x1 x2 x3 x4 x5; x6,x7", 0, "rdi rsi rdx rcx r8 r9; [0]", 16),
    Row(9, "u64*7, i128", "C.10 to 8, C.11 fails, C.13", "x0 x1 x2 x3 x4 x5 x6; [0]", 16, "rdi rsi rdx rcx r8 r9 [0]; [16]", 32),
    Row(10, "u64*7, i128, u8", "C.13: nothing after goes back", "x0 x1 x2 x3 x4 x5 x6; [0]; [16]", 24, "rdi rsi rdx rcx r8 r9 [0]; [16]; [32]", 40),
    Row(11, "u64*9, i128", "C.14 hole", "x0 x1 x2 x3 x4 x5 x6 x7 [0]; [16]", 32, "rdi rsi rdx rcx r8 r9 [0] [8] [16]; [32]", 48),
    Row(12, "u64*9, i128, u64, i128", "C.14 twice", "x0 x1 x2 x3 x4 x5 x6 x7 [0]; [16]; [32]; [48]", 64, "rdi rsi rdx rcx r8 r9 [0] [8] [16]; [32]; [48]; [64]", 80),
    Row(13, "u64*10, i128", "C.14, no hole", "x0 x1 x2 x3 x4 x5 x6 x7 [0] [8]; [16]", 32, "rdi rsi rdx rcx r8 r9 [0] [8] [16] [24]; [32]", 48),
    Row(14, "u64*5, i128, u64", "C.10; x86 backfill", "x0 x1 x2 x3 x4; x6,x7; [0]", 8, "rdi rsi rdx rcx r8; [0]; r9", 16),
    Row(15, "u64, P, u64", "C.12", "x0; x1,x2; x3", 0, "rdi; rsi,rdx; rcx", 0),
    Row(16, "u64*6, P", "C.12 fills x6,x7", "x0 x1 x2 x3 x4 x5; x6,x7", 0, "rdi rsi rdx rcx r8 r9; [0]", 16),
    Row(17, "u64*7, P", "C.12 fails, C.13: x7 unused", "x0 x1 x2 x3 x4 x5 x6; [0]", 16, "rdi rsi rdx rcx r8 r9 [0]; [8]", 24),
    Row(18, "u64*7, P, u8", "C.13, then small int on the stack", "x0 x1 x2 x3 x4 x5 x6; [0]; [16]", 24, "rdi rsi rdx rcx r8 r9 [0]; [8]; [24]", 32),
    Row(19, "u64*5, P, u64", "x86 backfill", "x0 x1 x2 x3 x4; x5,x6; x7", 0, "rdi rsi rdx rcx r8; [0]; r9", 16),
    Row(20, "u64*9, P", "C.14 with 8", "x0 x1 x2 x3 x4 x5 x6 x7 [0]; [8]", 24, "rdi rsi rdx rcx r8 r9 [0] [8] [16]; [24]", 40),
    Row(21, "u64*9, Q", "C.14 with 16", "x0 x1 x2 x3 x4 x5 x6 x7 [0]; [16]", 32, "rdi rsi rdx rcx r8 r9 [0] [8] [16]; [32]", 48),
    Row(22, "u64*7, Q, u64", "C.14 with 16, C.13", "x0 x1 x2 x3 x4 x5 x6; [0]; [16]", 24, "rdi rsi rdx rcx r8 r9 [0]; [16]; [32]", 40),
    Row(23, "u64, Q, u64", "C.10 composite", "x0; x2,x3; x4", 0, "rdi; rsi,rdx; rcx", 0),
    Row(24, "u64*5, Q, u64", "C.10, C.13; x86 backfill", "x0 x1 x2 x3 x4; x6,x7; [0]", 8, "rdi rsi rdx rcx r8; [0]; r9", 16),
    Row(25, "u64*9, Q, u8, Q", "C.14: hole, none, hole", "x0 x1 x2 x3 x4 x5 x6 x7 [0]; [16]; [32]; [48]", 64, "rdi rsi rdx rcx r8 r9 [0] [8] [16]; [32]; [48]; [64]", 80),
    Row(26, "u64, A, u64", "B.6: whole aligned(16), natural 8", "x0; x1,x2; x3", 0, "rdi; rsi,rdx; rcx", 0),
    Row(27, "u64*9, A, u64", "B.6 + C.14: natural 8", "x0 x1 x2 x3 x4 x5 x6 x7 [0]; [8]; [24]", 32, "rdi rsi rdx rcx r8 r9 [0] [8] [16]; [32]; [48]", 56),
    Row(28, "u64, M, u64", "member aligned(16): natural 16", "x0; x2,x3; x4", 0, "rdi; rsi,rdx; rcx", 0),
    Row(29, "u64*9, M, u64", "C.14: natural 16", "x0 x1 x2 x3 x4 x5 x6 x7 [0]; [16]; [32]", 40, "rdi rsi rdx rcx r8 r9 [0] [8] [16]; [32]; [48]", 56),
    Row(30, "u64*9, N, u64", "inner struct aligned(16): natural 16", "x0 x1 x2 x3 x4 x5 x6 x7 [0]; [16]; [32]", 40, "rdi rsi rdx rcx r8 r9 [0] [8] [16]; [32]; [48]", 56),
    Row(31, "u64, KA, u64", "packed, fields at aligned offsets", "x0; x1,x2; x3", 0, "rdi; rsi,rdx; rcx", 0),
    Row(32, "u64*9, KA, u64", "packed 16 bytes, alignment 1", "x0 x1 x2 x3 x4 x5 x6 x7 [0]; [8]; [24]", 32, "rdi rsi rdx rcx r8 r9 [0] [8] [16]; [24]; [40]", 48),
    Row(33, "u64*9, KQ, u64", "packed __int128: natural 1", "x0 x1 x2 x3 x4 x5 x6 x7 [0]; [8]; [24]", 32, "rdi rsi rdx rcx r8 r9 [0] [8] [16]; [24]; [40]", 48),
    Row(34, "u64, KQ, u64", "packed __int128: no C.10", "x0; x1,x2; x3", 0, "rdi; rsi,rdx; rcx", 0),
    Row(35, "u64, K16, u64", "packed, misaligned field", "x0; x1,x2; x3", 0, "rdi; [0]; rsi", 16),
    Row(36, "u64, S9, u64", "packed, 9 bytes: B.5", "x0; x1,x2; x3", 0, "rdi; [0]; rsi", 16),
    Row(37, "u64*7, S9, u64", "B.5 + C.13", "x0 x1 x2 x3 x4 x5 x6; [0]; [16]", 24, "rdi rsi rdx rcx r8 r9 [0]; [8]; [24]", 32),
    Row(38, "C3, u64", "B.5: 3 bytes", "x0; x1", 0, "rdi; rsi", 0),
    Row(39, "u64*8, C3, u64", "C.15 with 3 bytes", "x0 x1 x2 x3 x4 x5 x6 x7; [0]; [8]", 16, "rdi rsi rdx rcx r8 r9 [0] [8]; [16]; [24]", 32),
    Row(40, "u64*7, J, u64", "12 bytes", "x0 x1 x2 x3 x4 x5 x6; [0]; [16]", 24, "rdi rsi rdx rcx r8 r9 [0]; [8]; [24]", 32),
    Row(41, "u64*5, P12, u32", "tail padding inside", "x0 x1 x2 x3 x4; x5,x6; x7", 0, "rdi rsi rdx rcx r8; [0]; r9", 16),
    Row(42, "E, u64", "empty struct (GNU C)", "-; x0", 0, "-; rdi", 0),
    Row(43, "u64*8, E, u64", "empty struct among stacked", "x0 x1 x2 x3 x4 x5 x6 x7; -; [0]", 8, "rdi rsi rdx rcx r8 r9 [0] [8]; -; [16]", 24),
    Row(44, "T, u64", "B.4: reference", "&x0; x1", 0, "[0]; rdi", 24),
    Row(45, "u64*8, T, u64", "B.4: reference on the stack", "x0 x1 x2 x3 x4 x5 x6 x7; &[0]; [8]", 16, "rdi rsi rdx rcx r8 r9 [0] [8]; [16]; [40]", 48),
    Row(46, "u64*8, L, u64", "B.4; x86 alignment 32", "x0 x1 x2 x3 x4 x5 x6 x7; &[0]; [8]", 16, "rdi rsi rdx rcx r8 r9 [0] [8]; [32]; [64]", 72),
    Row(47, "u64, U, u64", "union", "x0; x1,x2; x3", 0, "rdi; rsi,rdx; rcx", 0),
    Row(48, "P12*4, s16, P12", "four pairs, then C.13 twice (selftest 10)", "x0,x1 x2,x3 x4,x5 x6,x7; [0]; [8]", 24, "rdi,rsi rdx,rcx r8,r9 [0]; [16]; [24]", 40),
    Row(49, "u64, ptr, s16, s32, ptr, s8, s16, H, s64", "selftest 9", "x0; x1; x2; x3; x4; x5; x6; [0]; [16]", 24, "rdi; rsi; rdx; rcx; r8; r9; [0]; [8]; [24]", 32),
    Row(50, "u64*7, Q, u64", "selftest int128_stack", "x0 x1 x2 x3 x4 x5 x6; [0]; [16]", 24, "rdi rsi rdx rcx r8 r9 [0]; [16]; [32]", 40),
    Row(51, "u64*5, P, u64*2, Q", "selftest int128_backfill", "x0 x1 x2 x3 x4; x5,x6; x7 [0]; [16]", 32, "rdi rsi rdx rcx r8; [0]; r9 [16]; [32]", 48),
    Row(52, "double, u64, float, P", "C.1 and C.9 count apart", "v0; x0; v1; x1,x2", 0, "xmm0; rdi; xmm1; rsi,rdx", 0),
    Row(53, "D, u64, F", "HFA C.2; x86 SSE", "v0,v1; x0; v2,v3,v4,v5", 0, "xmm0,xmm1; rdi; xmm2,xmm3", 0),
    Row(54, "X, u64", "not an HFA", "x0,x1; x2", 0, "xmm0,rdi; rsi", 0),
    Row(55, "double*7, D, double", "C.2 fails, C.3, C.4", "v0 v1 v2 v3 v4 v5 v6; [0]; [16]", 24, "xmm0 xmm1 xmm2 xmm3 xmm4 xmm5 xmm6; [0]; xmm7", 16),
    Row(56, "float*9, double", "C.5: float slot is 8", "v0 v1 v2 v3 v4 v5 v6 v7 [0]; [8]", 16, "xmm0 xmm1 xmm2 xmm3 xmm4 xmm5 xmm6 xmm7 [0]; [8]", 16),
    Row(57, "double*9, DA, u64", "C.4 with 16", "v0 v1 v2 v3 v4 v5 v6 v7 [0]; [16]; x0", 32, "xmm0 xmm1 xmm2 xmm3 xmm4 xmm5 xmm6 xmm7 [0]; [16]; rdi", 32),
)  # fmt: skip


def prototype(row: Row) -> Proto:
    """The arguments of a row as a prototype without a result."""
    params: list[str] = []
    for argument in row.arguments.split(", "):
        name, _, count = argument.partition("*")
        params += [f"{TYPES.get(name, name)} p{len(params) + n}" for n in range(int(count or 1))]
    return parse_proto(f"void f({', '.join(params)})")


def expected(places: str) -> list[str]:
    """One place for each argument."""
    return re.split(r"[; ]+", places)


def found(layout: Layout) -> list[str]:
    """A layout in the notation of the rows."""
    return [("&" if arg.by_reference else "") + (",".join(map(_piece, arg.pieces)) or "-") for arg in layout.args]


def _piece(piece: Piece) -> str:
    return piece.where.reg if isinstance(piece.where, InReg) else f"[{piece.where.off}]"
