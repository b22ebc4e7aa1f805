"""AArch64 insns to words, one row each. Arm ARM (DDI 0487), chapter C6.2.

Suffix: r register, i immediate, m memory [xn, #imm], x memory [xn, xm]. A row with both widths is indexed by 32 or 64.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SP = ZR = 31  # which of the two register 31 is, the field says


class EncodeError(ValueError):
    """A value that a field does not hold; the message names the insn's text."""


@dataclass(frozen=True, slots=True)
class Gpr:
    """A register number at bit `lo`. `sp`: 31 is SP, not the zero register. `bits`: its width, where not the row's."""

    lo: int
    sp: bool = False
    bits: int | None = None

    def bits_of(self, value: int) -> int | None:
        """The field's bits in place, or None where it does not hold the value."""
        return value << self.lo if 0 <= value <= 31 else None


@dataclass(frozen=True, slots=True)
class Field:
    """An immediate of `width` bits at bit `lo`; the value is a multiple of `scale`."""

    lo: int
    width: int
    scale: int = 1
    signed: bool = False

    @property
    def lowest(self) -> int:
        """The smallest value it holds."""
        return -(self.scale << self.width - 1) if self.signed else 0

    @property
    def highest(self) -> int:
        """The largest value it holds."""
        return self.lowest + self.scale * ((1 << self.width) - 1)

    def bits_of(self, value: int) -> int | None:
        """The field's bits in place, or None where it does not hold the value."""
        if not self.lowest <= value <= self.highest or value % self.scale:
            return None
        return (value // self.scale & (1 << self.width) - 1) << self.lo


@dataclass(frozen=True, slots=True)
class Bitmask:
    """A logical immediate of `size_bits` bits, N:immr:imms at bit 10. Arm ARM, "DecodeBitMasks"."""

    size_bits: int

    def bits_of(self, value: int) -> int | None:
        """The field's bits in place, or None where `value` (unsigned) is no repeated, rotated run of ones."""
        if not 0 < value < (1 << self.size_bits) - 1:
            return None
        element_bits = _period(value, self.size_bits)
        mask = (1 << element_bits) - 1
        element = value & mask
        ones = element.bit_count()
        run = (1 << ones) - 1
        for immr in range(element_bits):
            if (run >> immr | run << element_bits - immr) & mask == element:
                n = element_bits >> 6
                imms = (-2 * element_bits & 0x3F) | ones - 1
                return (n << 12 | immr << 6 | imms) << 10
        return None


def _period(value: int, size_bits: int) -> int:
    """The shortest length, a power of two and at least 2, of which `value` is a repetition."""
    while size_bits > 2:
        half = size_bits // 2
        if value >> half != value & (1 << half) - 1:
            break
        value, size_bits = value >> half, half
    return size_bits


AnyField = Gpr | Field | Bitmask
Fields = tuple[AnyField, ...]


@dataclass(frozen=True, slots=True)
class Insn:
    """One native insn: its text with a place per field, the width of its registers, the fixed bits, the fields."""

    text: str
    bits: int
    word: int
    fields: Fields

    def __call__(self, *values: int) -> int:
        """The word. Raises EncodeError."""
        word = self.word
        for field, value in zip(self.fields, values, strict=True):
            bits = field.bits_of(value)
            if bits is None:
                raise EncodeError(f"{value:#x} does not fit `{self.text}`")
            word |= bits
        return word


def _x(text: str, word: int, *fields: AnyField) -> Insn:
    return Insn(text, 64, word, fields)


def _w(text: str, word: int, *fields: AnyField) -> Insn:
    return Insn(text, 32, word, fields)


def _sized(
    text: str, word: int, *fields: AnyField, wide: int = 1 << 31, w: Fields = (), x: Fields = ()
) -> Mapping[int, Insn]:
    """Both widths; `wide` are the bits that the 64-bit word has more, `w` and `x` the last fields where they differ."""
    return {32: _w(text, word, *fields, *w), 64: _x(text, word | wide, *fields, *x)}


RD, RN, RM, RA = Gpr(lo=0), Gpr(lo=5), Gpr(lo=16), Gpr(lo=10)
RD_SP, RN_SP = Gpr(lo=0, sp=True), Gpr(lo=5, sp=True)
BASE, INDEX = Gpr(lo=5, sp=True, bits=64), Gpr(lo=16, bits=64)
TARGET, STATUS = Gpr(lo=5, bits=64), Gpr(lo=16, bits=32)
IMM12, IMM12_HIGH = Field(lo=10, width=12), Field(lo=10, width=12, scale=0x1000)
IMM16, COND = Field(lo=5, width=16), Field(lo=0, width=4)
OFF_B, OFF_H = Field(lo=10, width=12), Field(lo=10, width=12, scale=2)
OFF_W, OFF_X = Field(lo=10, width=12, scale=4), Field(lo=10, width=12, scale=8)
PAIR_OFF = Field(lo=15, width=7, scale=8, signed=True)
DISP19 = Field(lo=5, width=19, scale=4, signed=True)  # displacements in bytes
DISP26 = Field(lo=0, width=26, scale=4, signed=True)
LSL_W, LSL_X = (Field(lo=21, width=1, scale=16),), (Field(lo=21, width=2, scale=16),)
IMMR_S_W = (Field(lo=16, width=5), Field(lo=10, width=5))
IMMR_S_X = (Field(lo=16, width=6), Field(lo=10, width=6))
MASK_W, MASK_X = (Bitmask(32),), (Bitmask(64),)

# C4.1, "Condition codes".
EQ, NE, CS, CC, HI, LS, GE, LT, GT, LE = 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xA, 0xB, 0xC, 0xD

add_rri = _sized("add {}, {}, #{}", 0x1100_0000, RD_SP, RN_SP, IMM12)
add_rri12 = _sized("add {}, {}, #{}, lsl #12", 0x1140_0000, RD_SP, RN_SP, IMM12_HIGH)
sub_rri = _sized("sub {}, {}, #{}", 0x5100_0000, RD_SP, RN_SP, IMM12)
sub_rri12 = _sized("sub {}, {}, #{}, lsl #12", 0x5140_0000, RD_SP, RN_SP, IMM12_HIGH)
cmp_ri = _sized("cmp {}, #{}", 0x7100_001F, RN_SP, IMM12)
cmp_ri12 = _sized("cmp {}, #{}, lsl #12", 0x7140_001F, RN_SP, IMM12_HIGH)
cmn_ri = _sized("cmn {}, #{}", 0x3100_001F, RN_SP, IMM12)
cmn_ri12 = _sized("cmn {}, #{}, lsl #12", 0x3140_001F, RN_SP, IMM12_HIGH)
and_rri = _sized("and {}, {}, #{}", 0x1200_0000, RD_SP, RN, w=MASK_W, x=MASK_X)
orr_rri = _sized("orr {}, {}, #{}", 0x3200_0000, RD_SP, RN, w=MASK_W, x=MASK_X)
eor_rri = _sized("eor {}, {}, #{}", 0x5200_0000, RD_SP, RN, w=MASK_W, x=MASK_X)
tst_ri = _sized("tst {}, #{}", 0x7200_001F, RN, w=MASK_W, x=MASK_X)

movn_ri = _sized("movn {}, #{}, lsl #{}", 0x1280_0000, RD, IMM16, w=LSL_W, x=LSL_X)
movz_ri = _sized("movz {}, #{}, lsl #{}", 0x5280_0000, RD, IMM16, w=LSL_W, x=LSL_X)
movk_ri = _sized("movk {}, #{}, lsl #{}", 0x7280_0000, RD, IMM16, w=LSL_W, x=LSL_X)
sbfm_rrii = _sized("sbfm {}, {}, #{}, #{}", 0x1300_0000, RD, RN, wide=1 << 31 | 1 << 22, w=IMMR_S_W, x=IMMR_S_X)
ubfm_rrii = _sized("ubfm {}, {}, #{}, #{}", 0x5300_0000, RD, RN, wide=1 << 31 | 1 << 22, w=IMMR_S_W, x=IMMR_S_X)

add_rrr = _sized("add {}, {}, {}", 0x0B00_0000, RD, RN, RM)
sub_rrr = _sized("sub {}, {}, {}", 0x4B00_0000, RD, RN, RM)
cmp_rr = _sized("cmp {}, {}", 0x6B00_001F, RN, RM)
and_rrr = _sized("and {}, {}, {}", 0x0A00_0000, RD, RN, RM)
orr_rrr = _sized("orr {}, {}, {}", 0x2A00_0000, RD, RN, RM)
eor_rrr = _sized("eor {}, {}, {}", 0x4A00_0000, RD, RN, RM)
tst_rr = _sized("tst {}, {}", 0x6A00_001F, RN, RM)
mov_rr = _sized("mov {}, {}", 0x2A00_03E0, RD, RM)  # orr with the zero register
mvn_rr = _sized("mvn {}, {}", 0x2A20_03E0, RD, RM)
udiv_rrr = _sized("udiv {}, {}, {}", 0x1AC0_0800, RD, RN, RM)
sdiv_rrr = _sized("sdiv {}, {}, {}", 0x1AC0_0C00, RD, RN, RM)
lslv_rrr = _sized("lslv {}, {}, {}", 0x1AC0_2000, RD, RN, RM)
lsrv_rrr = _sized("lsrv {}, {}, {}", 0x1AC0_2400, RD, RN, RM)
asrv_rrr = _sized("asrv {}, {}, {}", 0x1AC0_2800, RD, RN, RM)
madd_rrrr = _sized("madd {}, {}, {}, {}", 0x1B00_0000, RD, RN, RM, RA)
msub_rrrr = _sized("msub {}, {}, {}, {}", 0x1B00_8000, RD, RN, RM, RA)
rev16_rr = _sized("rev16 {}, {}", 0x5AC0_0400, RD, RN)
rev_rr = _sized("rev {}, {}", 0x5AC0_0800, RD, RN, wide=1 << 31 | 1 << 10)

strb_rm = _w("strb {}, [{}, #{}]", 0x3900_0000, RD, BASE, OFF_B)
strh_rm = _w("strh {}, [{}, #{}]", 0x7900_0000, RD, BASE, OFF_H)
strw_rm = _w("str {}, [{}, #{}]", 0xB900_0000, RD, BASE, OFF_W)
str_rm = _x("str {}, [{}, #{}]", 0xF900_0000, RD, BASE, OFF_X)
ldrb_rm = _w("ldrb {}, [{}, #{}]", 0x3940_0000, RD, BASE, OFF_B)
ldrh_rm = _w("ldrh {}, [{}, #{}]", 0x7940_0000, RD, BASE, OFF_H)
ldrw_rm = _w("ldr {}, [{}, #{}]", 0xB940_0000, RD, BASE, OFF_W)
ldr_rm = _x("ldr {}, [{}, #{}]", 0xF940_0000, RD, BASE, OFF_X)
ldrsb_rm = _x("ldrsb {}, [{}, #{}]", 0x3980_0000, RD, BASE, OFF_B)
ldrsh_rm = _x("ldrsh {}, [{}, #{}]", 0x7980_0000, RD, BASE, OFF_H)
ldrsw_rm = _x("ldrsw {}, [{}, #{}]", 0xB980_0000, RD, BASE, OFF_W)
strb_rx = _w("strb {}, [{}, {}]", 0x3820_6800, RD, BASE, INDEX)
strh_rx = _w("strh {}, [{}, {}]", 0x7820_6800, RD, BASE, INDEX)
strw_rx = _w("str {}, [{}, {}]", 0xB820_6800, RD, BASE, INDEX)
str_rx = _x("str {}, [{}, {}]", 0xF820_6800, RD, BASE, INDEX)
ldrb_rx = _w("ldrb {}, [{}, {}]", 0x3860_6800, RD, BASE, INDEX)
ldrh_rx = _w("ldrh {}, [{}, {}]", 0x7860_6800, RD, BASE, INDEX)
ldrw_rx = _w("ldr {}, [{}, {}]", 0xB860_6800, RD, BASE, INDEX)
ldr_rx = _x("ldr {}, [{}, {}]", 0xF860_6800, RD, BASE, INDEX)
ldrsb_rx = _x("ldrsb {}, [{}, {}]", 0x38A0_6800, RD, BASE, INDEX)
ldrsh_rx = _x("ldrsh {}, [{}, {}]", 0x78A0_6800, RD, BASE, INDEX)
ldrsw_rx = _x("ldrsw {}, [{}, {}, sxtx]", 0xB8A0_E800, RD, BASE, INDEX)
stp_push = _x("stp {}, {}, [{}, #{}]!", 0xA980_0000, RD, RA, BASE, PAIR_OFF)
ldp_pop = _x("ldp {}, {}, [{}], #{}", 0xA8C0_0000, RD, RA, BASE, PAIR_OFF)

ldxr_rm = _sized("ldxr {}, [{}]", 0x885F_7C00, RD, BASE, wide=1 << 30)
stxr_rrm = _sized("stxr {}, {}, [{}]", 0x8800_7C00, STATUS, RD, BASE, wide=1 << 30)
stlxr_rrm = _sized("stlxr {}, {}, [{}]", 0x8800_FC00, STATUS, RD, BASE, wide=1 << 30)
ldarb_rm = _w("ldarb {}, [{}]", 0x08DF_FC00, RD, BASE)
ldarh_rm = _w("ldarh {}, [{}]", 0x48DF_FC00, RD, BASE)
ldar_rm = _sized("ldar {}, [{}]", 0x88DF_FC00, RD, BASE, wide=1 << 30)
stlrb_rm = _w("stlrb {}, [{}]", 0x089F_FC00, RD, BASE)
stlrh_rm = _w("stlrh {}, [{}]", 0x489F_FC00, RD, BASE)
stlr_rm = _sized("stlr {}, [{}]", 0x889F_FC00, RD, BASE, wide=1 << 30)
stadd_rm = _sized("stadd {}, [{}]", 0xB820_001F, RM, BASE, wide=1 << 30)
stclr_rm = _sized("stclr {}, [{}]", 0xB820_101F, RM, BASE, wide=1 << 30)
steor_rm = _sized("steor {}, [{}]", 0xB820_201F, RM, BASE, wide=1 << 30)
stset_rm = _sized("stset {}, [{}]", 0xB820_301F, RM, BASE, wide=1 << 30)
ldaddal_rrm = _sized("ldaddal {}, {}, [{}]", 0xB8E0_0000, RM, RD, BASE, wide=1 << 30)
ldclral_rrm = _sized("ldclral {}, {}, [{}]", 0xB8E0_1000, RM, RD, BASE, wide=1 << 30)
ldeoral_rrm = _sized("ldeoral {}, {}, [{}]", 0xB8E0_2000, RM, RD, BASE, wide=1 << 30)
ldsetal_rrm = _sized("ldsetal {}, {}, [{}]", 0xB8E0_3000, RM, RD, BASE, wide=1 << 30)
swpal_rrm = _sized("swpal {}, {}, [{}]", 0xB8E0_8000, RM, RD, BASE, wide=1 << 30)
casal_rrm = _sized("casal {}, {}, [{}]", 0x88E0_FC00, RM, RD, BASE, wide=1 << 30)

b_i = _x("b #{}", 0x1400_0000, DISP26)
bl_i = _x("bl #{}", 0x9400_0000, DISP26)
bcond_i = _x("b.{} #{}", 0x5400_0000, COND, DISP19)
cbz_ri = _sized("cbz {}, #{}", 0x3400_0000, RD, DISP19)
cbnz_ri = _sized("cbnz {}, #{}", 0x3500_0000, RD, DISP19)
br_r = _x("br {}", 0xD61F_0000, TARGET)
blr_r = _x("blr {}", 0xD63F_0000, TARGET)
ret = _x("ret", 0xD65F_03C0)
ret_r = _x("ret {}", 0xD65F_0000, TARGET)
adr_i = _x("adr {}, #{}", 0x1000_0000, RD, DISP19)  # a multiple of 4
nop = _x("nop", 0xD503_201F)
bti_j = _x("bti j", 0xD503_249F)
bti_jc = _x("bti jc", 0xD503_24DF)
paciasp = _x("paciasp", 0xD503_233F)
autiasp = _x("autiasp", 0xD503_23BF)
dmb_ish = _x("dmb ish", 0xD503_3BBF)
