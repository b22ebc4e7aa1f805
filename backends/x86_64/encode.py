"""x86-64 insns as rows: opcode bytes, /digit and operand roles. Intel SDM, volume 2, "Instruction Format"."""

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple


class Gpr(Enum):
    """A general-purpose register by its number. Intel SDM, volume 2, "Register Fields"."""

    RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
    R8, R9, R10, R11, R12, R13, R14, R15 = range(8, 16)


class Cond(Enum):
    """A condition by its code. Intel SDM, volume 2, "Condition Test (tttn)"."""

    B, AE, E, NE, BE, A = 2, 3, 4, 5, 6, 7
    L, GE, LE, G = 12, 13, 14, 15


class Mem(NamedTuple):
    """The operand `[base + disp]`."""

    base: Gpr
    disp: int


Value = Gpr | Mem | Cond | int


class EncodeError(ValueError):
    """An operand that its field does not hold."""


class _Parts:
    """One insn while its operands are put in: REX (or VEX) bits, ModRM, and the bytes after it."""

    __slots__ = ("modrm", "plus", "rex", "tail", "vvvv")

    def __init__(self, digit: int | None) -> None:
        self.rex = 0  # 8 W, 4 R, 2 X, 1 B; 0x40 where the prefix is needed even without bits
        self.modrm = None if digit is None else digit << 3
        self.plus = 0  # added to the last opcode byte
        self.vvvv = 0
        self.tail = b""

    def or_modrm(self, bits: int) -> None:
        """Sets bits of ModRM, which thereby is there."""
        self.modrm = (self.modrm or 0) | bits


def _gpr(value: Value) -> int:
    if not isinstance(value, Gpr):
        raise EncodeError(f"{value!r} is not a register")
    return int(value.value)


@dataclass(frozen=True, slots=True)
class InReg:
    """A register in ModRM.reg, extended by REX.R."""

    bits: int | None = None  # None: the operand size of the insn

    def put(self, value: Value, parts: _Parts) -> None:
        """Its 4 bits. A byte register 4-7 means ah-bh unless there is a REX prefix."""
        n = _gpr(value)
        parts.or_modrm((n & 7) << 3)
        parts.rex |= 4 if n > 7 else 0
        if self.bits == 8 and n > 3:
            parts.rex |= 0x40


@dataclass(frozen=True, slots=True)
class InRm:
    """A register in ModRM.rm, extended by REX.B."""

    bits: int | None = None

    def put(self, value: Value, parts: _Parts) -> None:
        """Its 4 bits, and mod 3. A byte register 4-7 means ah-bh unless there is a REX prefix."""
        n = _gpr(value)
        parts.or_modrm(0xC0 | n & 7)
        parts.rex |= n >> 3
        if self.bits == 8 and n > 3:
            parts.rex |= 0x40


@dataclass(frozen=True, slots=True)
class InMem:
    """`[base + disp]` in ModRM.rm: disp8 or disp32, never without, as Linux has it."""

    bits: int | None = None

    def put(self, value: Value, parts: _Parts) -> None:
        """Base and displacement. Base number 4 (rsp, r12) needs a SIB byte that names no index."""
        if not isinstance(value, Mem):
            raise EncodeError(f"{value!r} is not a memory operand")
        n = _gpr(value.base)
        parts.rex |= n >> 3
        short = -128 <= value.disp <= 127
        parts.or_modrm((0x40 if short else 0x80) | n & 7)
        sib = b"\x24" if n & 7 == 4 else b""
        parts.tail += sib + (IB if short else ID).to_bytes(value.disp)


@dataclass(frozen=True, slots=True)
class InOpcode:
    """A register in the low 3 bits of the opcode, extended by REX.B."""

    bits: int | None = None

    def put(self, value: Value, parts: _Parts) -> None:
        """Its 4 bits."""
        n = _gpr(value)
        parts.plus = n & 7
        parts.rex |= n >> 3


@dataclass(frozen=True, slots=True)
class InVex:
    """A register in VEX.vvvv."""

    bits: int | None = None

    def put(self, value: Value, parts: _Parts) -> None:
        """Its 4 bits; the prefix inverts them."""
        parts.vvvv = _gpr(value)


@dataclass(frozen=True, slots=True)
class InCond:
    """A condition in the low 4 bits of the opcode."""

    def put(self, value: Value, parts: _Parts) -> None:
        """Its code."""
        if not isinstance(value, Cond):
            raise EncodeError(f"{value!r} is not a condition")
        parts.plus = int(value.value)


@dataclass(frozen=True, slots=True)
class Const:
    """A number of `size` bytes after ModRM, from `low` to `high`."""

    size: int
    low: int
    high: int

    def to_bytes(self, value: int) -> bytes:
        """Little-endian, two's complement where negative."""
        if not self.low <= value <= self.high:
            raise EncodeError(f"{value:#x} does not fit: {self.low:#x} to {self.high:#x}")
        return (value & (1 << 8 * self.size) - 1).to_bytes(self.size, "little")

    def put(self, value: Value, parts: _Parts) -> None:
        """Its bytes, last."""
        if not isinstance(value, int):
            raise EncodeError(f"{value!r} is not a number")
        parts.tail += self.to_bytes(value)


Role = InReg | InRm | InMem | InOpcode | InVex | InCond | Const

IB: Final = Const(1, -(1 << 7), (1 << 7) - 1)
ID: Final = Const(4, -(1 << 31), (1 << 31) - 1)
UB: Final = Const(1, 0, (1 << 8) - 1)
UW: Final = Const(2, 0, (1 << 16) - 1)
UD: Final = Const(4, 0, (1 << 32) - 1)
UQ: Final = Const(8, 0, (1 << 64) - 1)
COUNT: Final = Const(1, 0, 63)
REL8, REL32 = IB, ID  # from the next insn
REG, REG8, REG16, REG32, REG64 = InReg(), InReg(8), InReg(16), InReg(32), InReg(64)
RM, RM8, RM16, RM32, RM64 = InRm(), InRm(8), InRm(16), InRm(32), InRm(64)
M8, M16, M32, M64 = InMem(8), InMem(16), InMem(32), InMem(64)
PLUS32, PLUS64 = InOpcode(32), InOpcode(64)
VVVV, CC = InVex(), InCond()

BOTH: Final = (32, 64)  # REX.W chooses
W64: Final = (64,)  # always with REX.W
NO_W: Final = (32,)  # never with REX.W


@dataclass(frozen=True, slots=True)
class Insn:
    """One native insn: `name` in Intel syntax, `opcode` in hex, `roles` in the order in which operands are written.

    `widths`: 64 encodes REX.W, 32 leaves it out. `digit`: ModRM.reg where no operand is in it. `prefix`: before REX.
    `vex`: VEX.pp of an insn of map 0F38 with L = 0.
    """

    name: str
    opcode: str
    roles: tuple[Role, ...] = ()
    widths: tuple[int, ...] = NO_W
    digit: int | None = None
    prefix: str = ""
    vex: int | None = None

    def __call__(self, *values: Value, bits: int | None = None) -> bytes:
        """The encoding; `bits` is 32 or 64 where the row has both. Raises EncodeError."""
        width = self.widths[0] if bits is None and len(self.widths) == 1 else bits
        if width not in self.widths or len(values) != len(self.roles):
            raise EncodeError(f"{self.name} takes {len(self.roles)} operands, widths {self.widths}")
        parts = _Parts(self.digit)
        for role, value in zip(self.roles, values, strict=True):
            role.put(value, parts)
        parts.rex |= 8 if width == 64 else 0
        opcode = bytes.fromhex(self.opcode)
        opcode = opcode[:-1] + bytes((opcode[-1] + parts.plus,))
        modrm = b"" if parts.modrm is None else bytes((parts.modrm,))
        return bytes.fromhex(self.prefix) + self._extension(parts) + opcode + modrm + parts.tail

    def _extension(self, parts: _Parts) -> bytes:
        """REX where a bit needs it, or three-byte VEX. Intel SDM, volume 2, "The VEX Prefix"."""
        if self.vex is None:
            return bytes((0x40 | parts.rex,)) if parts.rex else b""
        map_0f38, inverted_rxb = 0x02, (~parts.rex & 7) << 5
        return bytes((0xC4, inverted_rxb | map_0f38, (parts.rex & 8) << 4 | (~parts.vvvv & 15) << 3 | self.vex))


# Suffix: r register, i immediate (i8 of one byte), a the short form for rax, m memory, c the count in cl.
mov_rr = Insn("mov", "89", (RM, REG), BOTH)
add_rr = Insn("add", "01", (RM, REG), BOTH)
or_rr = Insn("or", "09", (RM, REG), BOTH)
and_rr = Insn("and", "21", (RM, REG), BOTH)
sub_rr = Insn("sub", "29", (RM, REG), BOTH)
xor_rr = Insn("xor", "31", (RM, REG), BOTH)
cmp_rr = Insn("cmp", "39", (RM, REG), BOTH)
test_rr = Insn("test", "85", (RM, REG), BOTH)
imul_rr = Insn("imul", "0FAF", (REG, RM), BOTH)

add_ri8 = Insn("add", "83", (RM, IB), BOTH, digit=0)
or_ri8 = Insn("or", "83", (RM, IB), BOTH, digit=1)
and_ri8 = Insn("and", "83", (RM, IB), BOTH, digit=4)
sub_ri8 = Insn("sub", "83", (RM, IB), BOTH, digit=5)
xor_ri8 = Insn("xor", "83", (RM, IB), BOTH, digit=6)
cmp_ri8 = Insn("cmp", "83", (RM, IB), BOTH, digit=7)
add_ri = Insn("add", "81", (RM, ID), BOTH, digit=0)
or_ri = Insn("or", "81", (RM, ID), BOTH, digit=1)
and_ri = Insn("and", "81", (RM, ID), BOTH, digit=4)
sub_ri = Insn("sub", "81", (RM, ID), BOTH, digit=5)
xor_ri = Insn("xor", "81", (RM, ID), BOTH, digit=6)
cmp_ri = Insn("cmp", "81", (RM, ID), BOTH, digit=7)
add_ai = Insn("add", "05", (ID,), BOTH)
or_ai = Insn("or", "0D", (ID,), BOTH)
and_ai = Insn("and", "25", (ID,), BOTH)
sub_ai = Insn("sub", "2D", (ID,), BOTH)
xor_ai = Insn("xor", "35", (ID,), BOTH)
test_ri = Insn("test", "F7", (RM, ID), BOTH, digit=0)
imul_rri8 = Insn("imul", "6B", (REG, RM, IB), BOTH)
imul_rri = Insn("imul", "69", (REG, RM, ID), BOTH)

neg_r = Insn("neg", "F7", (RM,), BOTH, digit=3)
div_r = Insn("div", "F7", (RM,), BOTH, digit=6)
idiv_r = Insn("idiv", "F7", (RM,), BOTH, digit=7)
cdq = Insn("cdq", "99")
cqo = Insn("cqo", "99", (), W64)
shl_r1 = Insn("shl", "D1", (RM,), BOTH, digit=4)
shr_r1 = Insn("shr", "D1", (RM,), BOTH, digit=5)
sar_r1 = Insn("sar", "D1", (RM,), BOTH, digit=7)
shl_ri = Insn("shl", "C1", (RM, COUNT), BOTH, digit=4)
shr_ri = Insn("shr", "C1", (RM, COUNT), BOTH, digit=5)
sar_ri = Insn("sar", "C1", (RM, COUNT), BOTH, digit=7)
shl_rc = Insn("shl", "D3", (RM,), BOTH, digit=4)
shr_rc = Insn("shr", "D3", (RM,), BOTH, digit=5)
sar_rc = Insn("sar", "D3", (RM,), BOTH, digit=7)
shlx_rrr = Insn("shlx", "F7", (REG, RM, VVVV), BOTH, vex=1)
sarx_rrr = Insn("sarx", "F7", (REG, RM, VVVV), BOTH, vex=2)
shrx_rrr = Insn("shrx", "F7", (REG, RM, VVVV), BOTH, vex=3)

mov_ri_zero = Insn("mov", "B8", (PLUS32, UD))  # zero-extended
mov_ri_sign = Insn("mov", "C7", (RM64, ID), W64, digit=0)  # sign-extended
movabs_ri = Insn("movabs", "B8", (PLUS64, UQ), W64)
push_r = Insn("push", "50", (PLUS64,))
pop_r = Insn("pop", "58", (PLUS64,))

movzx_rm8 = Insn("movzx", "0FB6", (REG64, M8), W64)
movzx_rm16 = Insn("movzx", "0FB7", (REG64, M16), W64)
mov_rm32 = Insn("mov", "8B", (REG32, M32))
mov_rm64 = Insn("mov", "8B", (REG64, M64), W64)
movsx_rr8 = Insn("movsx", "0FBE", (REG, RM8), BOTH)
movsx_rr16 = Insn("movsx", "0FBF", (REG, RM16), BOTH)
movsxd_rr32 = Insn("movsxd", "63", (REG64, RM32), W64)
movsx_rm8 = Insn("movsx", "0FBE", (REG64, M8), W64)
movsx_rm16 = Insn("movsx", "0FBF", (REG64, M16), W64)
movsxd_rm32 = Insn("movsxd", "63", (REG64, M32), W64)
movzx_rr16 = Insn("movzx", "0FB7", (REG32, RM16))
ror_ri16 = Insn("ror", "C1", (RM16, COUNT), digit=1, prefix="66")
bswap_r = Insn("bswap", "0FC8", (InOpcode(),), BOTH)

# With a LOCK prefix; `xchg` of memory locks by itself.
lock_add_mr = Insn("lock add", "01", (InMem(), REG), BOTH, prefix="F0")
lock_or_mr = Insn("lock or", "09", (InMem(), REG), BOTH, prefix="F0")
lock_and_mr = Insn("lock and", "21", (InMem(), REG), BOTH, prefix="F0")
lock_xor_mr = Insn("lock xor", "31", (InMem(), REG), BOTH, prefix="F0")
lock_xadd_mr = Insn("lock xadd", "0FC1", (InMem(), REG), BOTH, prefix="F0")
lock_cmpxchg_mr = Insn("lock cmpxchg", "0FB1", (InMem(), REG), BOTH, prefix="F0")
xchg_mr = Insn("xchg", "87", (InMem(), REG), BOTH)

mov_m8r = Insn("mov", "88", (M8, REG8))
mov_m16r = Insn("mov", "89", (M16, REG16), prefix="66")
mov_m32r = Insn("mov", "89", (M32, REG32))
mov_m64r = Insn("mov", "89", (M64, REG64), W64)
mov_m8i = Insn("mov", "C6", (M8, UB), digit=0)
mov_m16i = Insn("mov", "C7", (M16, UW), digit=0, prefix="66")
mov_m32i = Insn("mov", "C7", (M32, ID), digit=0)
mov_m64i = Insn("mov", "C7", (M64, ID), W64, digit=0)

lea_rm = Insn("lea", "8D", (REG64, M64), W64)
cmp_m64i8 = Insn("cmp", "83", (M64, IB), W64, digit=7)

jmp_short = Insn("jmp", "EB", (REL8,))
jmp_near = Insn("jmp", "E9", (REL32,))
jcc_short = Insn("j", "70", (CC, REL8))
jcc_near = Insn("j", "0F80", (CC, REL32))
call_near = Insn("call", "E8", (REL32,))
leave = Insn("leave", "C9")
ret = Insn("ret", "C3")
int3 = Insn("int3", "CC")
endbr64 = Insn("endbr64", "F30F1EFA")

# Intel SDM, volume 2, NOP, "Recommended Multi-Byte Sequence of NOP Instruction"; 10 and 11 as Linux 7.2 has them.
NOPS: Final = {
    0: b"",
    2: bytes.fromhex("6690"),
    3: bytes.fromhex("0F1F00"),
    4: bytes.fromhex("0F1F4000"),
    5: bytes.fromhex("0F1F440000"),
    6: bytes.fromhex("660F1F440000"),
    7: bytes.fromhex("0F1F8000000000"),
    8: bytes.fromhex("0F1F840000000000"),
    9: bytes.fromhex("2E0F1F840000000000"),
    10: bytes.fromhex("662E0F1F840000000000"),
    11: bytes.fromhex("66662E0F1F840000000000"),
}
