"""What is known of a scalar: a tnum (known bits) and bounds, unsigned and signed, at 64 or 32 bits.

Linux kernel/bpf/tnum.c and the bounds of struct bpf_reg_state; every operation here is sound, not always as exact.
"""

from dataclasses import dataclass
from typing import Self

from harness.isa import opcodes as op


@dataclass(frozen=True, slots=True)
class Tnum:
    """A number whose bits in `mask` are unknown and whose other bits are those of `value`."""

    value: int
    mask: int

    def join_with(self, other: "Tnum") -> "Tnum":
        """Both are true of one number: what is known of it. The caller sees to it that they do not contradict."""
        mask = self.mask & other.mask
        return Tnum((self.value | other.value) & ~mask, mask)

    def contradicts(self, other: "Tnum") -> bool:
        """Whether some bit is known in both and differs."""
        return bool((self.value ^ other.value) & ~(self.mask | other.mask))

    def holds(self, number: int) -> bool:
        """Whether `number` may be it."""
        return (number & ~self.mask) == self.value

    def within(self, other: "Tnum") -> bool:
        """Whether every number of this one is a number of `other`."""
        return not (self.mask & ~other.mask) and (self.value & ~other.mask) == other.value


def add_tnums(a: Tnum, b: Tnum, limit: int) -> Tnum:
    """The sum; `limit` is the mask of the width. Linux kernel/bpf/tnum.c, tnum_add()."""
    masks = a.mask + b.mask
    values = a.value + b.value
    unknown = ((masks + values) ^ values) | a.mask | b.mask
    unknown &= limit
    return Tnum(values & ~unknown & limit, unknown)


def sub_tnums(a: Tnum, b: Tnum, limit: int) -> Tnum:
    """The difference. Linux kernel/bpf/tnum.c, tnum_sub()."""
    difference = a.value - b.value
    unknown = ((difference + a.mask) ^ (difference - b.mask)) | a.mask | b.mask
    unknown &= limit
    return Tnum(difference & ~unknown & limit, unknown)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number of `bits` bits. `smin` and `smax` are signed, the others unsigned."""

    bits: int
    tnum: Tnum
    umin: int
    umax: int
    smin: int
    smax: int

    @classmethod
    def unknown(cls, bits: int = 64) -> Self:
        """Any number."""
        top = 1 << bits - 1
        return cls(bits, Tnum(0, 2 * top - 1), 0, 2 * top - 1, -top, top - 1)

    @classmethod
    def const(cls, value: int, bits: int = 64) -> Self:
        """One number, given signed or unsigned."""
        value &= (1 << bits) - 1
        return cls(bits, Tnum(value, 0), value, value, op.signed(value, bits), op.signed(value, bits))

    @property
    def limit(self) -> int:
        """The largest number of the width; its bits are all ones."""
        return (1 << self.bits) - 1

    @property
    def value(self) -> int | None:
        """The number, unsigned, where it is known."""
        return self.tnum.value if self.tnum.mask == 0 else None

    def holds(self, number: int) -> bool:
        """Whether an unsigned `number` may be it."""
        signed = op.signed(number, self.bits)
        return self.tnum.holds(number) and self.umin <= number <= self.umax and self.smin <= signed <= self.smax

    def within(self, other: "Scalar") -> bool:
        """Whether everything that this may be, `other` may be."""
        return (
            self.tnum.within(other.tnum)
            and other.umin <= self.umin
            and self.umax <= other.umax
            and other.smin <= self.smin
            and self.smax <= other.smax
        )

    def narrowed(self, tnum: Tnum, umin: int, umax: int, smin: int, smax: int) -> "Scalar | None":
        """With more facts about the same number; None where they contradict."""
        if self.tnum.contradicts(tnum):
            return None
        bounds = max(self.umin, umin), min(self.umax, umax), max(self.smin, smin), min(self.smax, smax)
        return settle(self.bits, self.tnum.join_with(tnum), *bounds)

    def at_least(self, umin: int) -> "Scalar | None":
        """Known to be `umin` or more, unsigned."""
        return self.narrowed(Tnum(0, self.limit), umin, self.limit, self.smin, self.smax)

    def at_most(self, umax: int) -> "Scalar | None":
        """Known to be `umax` or less, unsigned."""
        return self.narrowed(Tnum(0, self.limit), 0, umax, self.smin, self.smax)

    def signed_between(self, smin: int, smax: int) -> "Scalar | None":
        """Known to be in a signed range."""
        return self.narrowed(Tnum(0, self.limit), 0, self.limit, smin, smax)

    def low(self, bits: int) -> "Scalar":
        """Its low `bits` bits, as a number of that width."""
        limit = (1 << bits) - 1
        tnum = Tnum(self.tnum.value & limit, self.tnum.mask & limit)
        if self.umin >> bits == self.umax >> bits:
            return _sure(settle(bits, tnum, self.umin & limit, self.umax & limit, -(limit // 2) - 1, limit // 2))
        return _sure(settle(bits, tnum, 0, limit, -(limit // 2) - 1, limit // 2))

    def extended(self) -> "Scalar":
        """Zero-extended to 64 bits."""
        if self.bits == 64:
            return self
        return _sure(settle(64, self.tnum, self.umin, self.umax, -(1 << 63), (1 << 63) - 1))

    def with_low(self, low: "Scalar") -> "Scalar | None":
        """The same number, of whose low bits more is known."""
        high = self.limit & ~low.limit
        tnum = Tnum(low.tnum.value, low.tnum.mask | high)
        umin, umax = 0, self.limit
        if self.umin >> low.bits == self.umax >> low.bits:
            umin, umax = self.umin & high | low.umin, self.umin & high | low.umax
        return self.narrowed(tnum, umin, umax, self.smin, self.smax)


def _sure(scalar: Scalar | None) -> Scalar:
    assert scalar is not None, "facts about one number contradict each other"
    return scalar


def settle(bits: int, tnum: Tnum, umin: int, umax: int, smin: int, smax: int) -> Scalar | None:
    """Lets bits and bounds tighten each other; None where nothing is left."""
    limit, top = (1 << bits) - 1, 1 << bits - 1
    for _ in range(2):
        umin, umax = max(umin, tnum.value), min(umax, tnum.value | tnum.mask)
        if umin > umax:
            return None
        if umin >= top or umax < top:  # one sign: the unsigned range is a signed one as well
            smin, smax = max(smin, op.signed(umin, bits)), min(smax, op.signed(umax, bits))
        if smin > smax:
            return None
        if smin >= 0 or smax < 0:
            umin, umax = max(umin, smin & limit), min(umax, smax & limit)
        if umin > umax:
            return None
        unknown = (1 << (umin ^ umax).bit_length()) - 1
        common = Tnum(umin & ~unknown & limit, unknown)
        if tnum.contradicts(common):
            return None
        tnum = tnum.join_with(common)
    return Scalar(bits, tnum, umin, umax, smin, smax)


def _from_parts(a: Scalar, tnum: Tnum, unsigned: tuple[int, int], signed: tuple[int, int]) -> Scalar:
    """A result whose exact ranges may have overflowed: those that did say nothing."""
    limit, top = a.limit, 1 << a.bits - 1
    umin, umax = unsigned if unsigned[0] >= 0 and unsigned[1] <= limit else (0, limit)
    smin, smax = signed if -top <= signed[0] and signed[1] < top else (-top, top - 1)
    return _sure(settle(a.bits, tnum, umin, umax, smin, smax))


def alu(row: op.AluOp, a: Scalar, b: Scalar) -> Scalar:
    """`a OP= b` at the width that both have."""
    if row is op.NEG:
        return alu(op.SUB, Scalar.const(0, a.bits), a)
    x, y = a.value, b.value
    if row is op.MOV:
        return b
    if row in op.MOVSX:
        return _sign_extended(row, b)
    if x is not None and y is not None:
        return Scalar.const(row.sem(x, y, a.bits), a.bits)
    if row is op.ADD:
        tnum = add_tnums(a.tnum, b.tnum, a.limit)
        return _from_parts(a, tnum, (a.umin + b.umin, a.umax + b.umax), (a.smin + b.smin, a.smax + b.smax))
    if row is op.SUB:
        tnum = sub_tnums(a.tnum, b.tnum, a.limit)
        return _from_parts(a, tnum, (a.umin - b.umax, a.umax - b.umin), (a.smin - b.smax, a.smax - b.smin))
    if row in (op.AND, op.OR, op.XOR):
        return _bitwise(row, a, b)
    if row in (op.LSH, op.RSH, op.ARSH):
        return _shift(row, a, b)
    return _range(a, *_other_range(row, a, b))


def _sign_extended(row: op.AluOp, b: Scalar) -> Scalar:
    """The low `row.off` bits of `b` as a signed number."""
    if b.value is not None:
        return Scalar.const(row.sem(0, b.value, b.bits), b.bits)
    top = 1 << row.off - 1
    if b.umax < top:
        return b
    everything = Scalar.unknown(b.bits)
    return _sure(settle(b.bits, everything.tnum, 0, b.limit, -top, top - 1))


def _range(a: Scalar, umin: int, umax: int) -> Scalar:
    everything = Scalar.unknown(a.bits)
    return _sure(settle(a.bits, everything.tnum, umin, min(umax, a.limit), everything.smin, everything.smax))


def _other_range(row: op.AluOp, a: Scalar, b: Scalar) -> tuple[int, int]:
    """The unsigned range of a product, a quotient or a remainder. x / 0 is 0 and x % 0 is x."""
    if row is op.MUL:
        return (a.umin * b.umin, a.umax * b.umax) if a.umax * b.umax <= a.limit else (0, a.limit)
    if row is op.DIV:
        return (a.umin // b.umax, a.umax // b.umin) if b.umin else (0, a.umax)
    if row is op.MOD:
        return (0, min(a.umax, b.umax - 1)) if b.umin else (0, a.umax)
    return 0, a.limit


def _bitwise(row: op.AluOp, a: Scalar, b: Scalar) -> Scalar:
    one = a.tnum.value & b.tnum.value
    may = (a.tnum.value | a.tnum.mask) & (b.tnum.value | b.tnum.mask)
    if row is op.AND:
        return _from_tnum(a, Tnum(one, may & ~one), 0, min(a.umax, b.umax))
    known = a.tnum.value | b.tnum.value
    unknown = a.tnum.mask | b.tnum.mask
    if row is op.OR:
        return _from_tnum(a, Tnum(known, unknown & ~known), max(a.umin, b.umin), a.limit)
    return _from_tnum(a, Tnum((a.tnum.value ^ b.tnum.value) & ~unknown, unknown), 0, a.limit)


def _from_tnum(a: Scalar, tnum: Tnum, umin: int, umax: int) -> Scalar:
    top = 1 << a.bits - 1
    return _sure(settle(a.bits, tnum, umin, umax, -top, top - 1))


def _shift(row: op.AluOp, a: Scalar, b: Scalar) -> Scalar:
    by = b.value
    if by is None:
        return _range(a, 0, a.umax) if row is op.RSH else Scalar.unknown(a.bits)
    by &= a.bits - 1
    value, mask = a.tnum.value, a.tnum.mask
    if row is op.LSH:
        tnum = Tnum(value << by & a.limit, mask << by & a.limit)
        return _from_parts(a, tnum, (a.umin << by, a.umax << by), (a.smin << by, a.smax << by))
    if row is op.RSH:
        return _from_tnum(a, Tnum(value >> by, mask >> by), a.umin >> by, a.umax >> by)
    # Shifting both as signed numbers copies the top bit, known or not.
    mask = op.signed(mask, a.bits) >> by & a.limit
    tnum = Tnum(op.signed(value, a.bits) >> by & a.limit & ~mask, mask)
    return _from_parts(a, tnum, (0, a.limit), (a.smin >> by, a.smax >> by))


Refined = tuple[Scalar, Scalar] | None
_NEGATION = {
    op.JEQ: op.JNE, op.JNE: op.JEQ, op.JGT: op.JLE, op.JLE: op.JGT, op.JGE: op.JLT, op.JLT: op.JGE,
    op.JSGT: op.JSLE, op.JSLE: op.JSGT, op.JSGE: op.JSLT, op.JSLT: op.JSGE,
}  # fmt: skip


def branch(row: op.JmpOp, a: Scalar, b: Scalar, taken: bool) -> Refined:
    """What is known of both operands on one arm of `if a OP b`; None where that arm cannot be."""
    if row is op.JSET:
        return _jset(a, b, taken)
    return _compare(row if taken else _NEGATION[row], a, b)


def _jset(a: Scalar, b: Scalar, taken: bool) -> Refined:
    bits = b.value
    if bits is None:
        return a, b
    if not taken:
        left = a.narrowed(Tnum(0, a.limit & ~bits), 0, a.limit, a.smin, a.smax)
    elif bits & (bits - 1) == 0 and bits:
        left = a.narrowed(Tnum(bits, a.limit & ~bits), 0, a.limit, a.smin, a.smax)
    else:
        left = a if (a.tnum.value | a.tnum.mask) & bits else None
    return None if left is None else (left, b)


def _pair(a: Scalar | None, b: Scalar | None) -> Refined:
    return None if a is None or b is None else (a, b)


def _compare(row: op.JmpOp, a: Scalar, b: Scalar) -> Refined:
    match row.name:
        case "jeq":
            both = a.narrowed(b.tnum, b.umin, b.umax, b.smin, b.smax)
            return _pair(both, both)
        case "jne":
            return _pair(_without(a, b), _without(b, a))
        case "jgt":
            return _pair(a.at_least(b.umin + 1), b.at_most(a.umax - 1))
        case "jge":
            return _pair(a.at_least(b.umin), b.at_most(a.umax))
        case "jlt":
            return _pair(a.at_most(b.umax - 1), b.at_least(a.umin + 1))
        case "jle":
            return _pair(a.at_most(b.umax), b.at_least(a.umin))
        case "jsgt":
            return _pair(a.signed_between(b.smin + 1, a.smax), b.signed_between(b.smin, a.smax - 1))
        case "jsge":
            return _pair(a.signed_between(b.smin, a.smax), b.signed_between(b.smin, a.smax))
        case "jslt":
            return _pair(a.signed_between(a.smin, b.smax - 1), b.signed_between(a.smin + 1, b.smax))
        case _:
            return _pair(a.signed_between(a.smin, b.smax), b.signed_between(a.smin, b.smax))


def _without(a: Scalar, b: Scalar) -> Scalar | None:
    """`a`, known not to be `b`: a bound that it touches moves by one."""
    value = b.value
    if value is None:
        return a
    if a.value == value:
        return None
    signed = op.signed(value, a.bits)
    umin, umax = a.umin + (a.umin == value), a.umax - (a.umax == value)
    smin, smax = a.smin + (a.smin == signed), a.smax - (a.smax == signed)
    return a.narrowed(Tnum(0, a.limit), umin, umax, smin, smax)
