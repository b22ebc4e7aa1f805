"""Every encoder row against Capstone, and words typed by hand from an independent assembler."""

import re
from collections.abc import Mapping

import capstone
import pytest

from backends.arm64 import encode as a64
from backends.arm64.encode import AnyField, Bitmask, EncodeError, Field, Gpr, Insn

AT = 1 << 40  # an address that every displacement can be subtracted from
CONDITIONS = ["eq", "ne", "hs", "lo", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le", "al", "nv"]
MASK_32, MASK_64 = 0x00FF_F000, 0x0F0F_0F0F_0F0F_0F0F


def _rows() -> dict[str, Insn]:
    rows: dict[str, Insn] = {}
    for name, value in vars(a64).items():
        if isinstance(value, Insn):
            rows[name] = value
        elif isinstance(value, Mapping) and name.islower() and not name.startswith("_"):
            rows |= {f"{name}[{bits}]": row for bits, row in value.items()}
    return rows


ROWS = _rows()


def _disassemble(word: int) -> str:
    (found,) = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN).disasm_lite(
        word.to_bytes(4, "little"), AT
    )
    return f"{found[2]} {found[3]}".strip()


def _normal(text: str, bits: int) -> str:
    """Numbers in decimal and modulo the width; parts that mean nothing left out."""
    text = re.sub(r"#(-?\w+)", lambda m: f"#{int(m[1], 0) % (1 << bits)}", text)
    text = "ret" if text == "ret x30" else text
    return re.sub(r", #0\](?!!)", "]", text.removesuffix(", lsl #0"))


def _edges(field: AnyField) -> list[int]:
    match field:
        case Gpr():
            return [0, 1, 17, 30, 31]
        case Bitmask(32):
            return [1, 0x8000_0001, 0x5555_5555, MASK_32, 0xFFFF_FFFE]
        case Bitmask():
            return [1, 1 << 63 | 1, 0x5555_5555_5555_5555, MASK_64, 0xFFFF_FFFF_FFFF_FFFE]
        case Field():
            low, high, step = field.lowest, field.highest, field.scale
            return sorted({low, low + step, 0, step, high - step, high})


def _outside(field: AnyField) -> list[int]:
    match field:
        case Gpr():
            return [-1, 32]
        case Bitmask(32):
            return [-1, 0, 5, 0xFFFF_FFFF, 1 << 32, 0x1_0000_0001]
        case Bitmask():
            return [-1, 0, 5, 0xFFFF_FFFF_FFFF_FFFF, 1 << 64]
        case Field():
            inexact = [field.scale + 1, field.scale - 1] if field.scale > 1 else []
            return [field.lowest - field.scale, field.highest + field.scale, *inexact]


def _plain(row: Insn) -> list[int]:
    """Values that are no edge; registers differ from each other."""
    values = []
    for place, field in enumerate(row.fields):
        match field:
            case Gpr():
                values.append(5 + place)
            case Bitmask():
                values.append(MASK_32 if field.size_bits == 32 else MASK_64)
            case Field():
                values.append(min(3 * field.scale, field.highest))
    return values


def _text(row: Insn, values: list[int]) -> str:
    shown = []
    for field, value in zip(row.fields, values, strict=True):
        if isinstance(field, Gpr):
            bits = field.bits or row.bits
            letter = "x" if bits == 64 else "w"
            shown.append(
                ({64: "sp", 32: "wsp"}[bits] if field.sp else f"{letter}zr") if value == 31 else f"{letter}{value}"
            )
        elif field is a64.IMM12_HIGH:
            shown.append(str(value >> 12))
        elif field is a64.COND:
            shown.append(CONDITIONS[value])
        elif isinstance(field, Field) and field in (a64.DISP19, a64.DISP26):
            shown.append(str(AT + value))
        else:
            shown.append(str(value))
    return row.text.format(*shown)


def _bitfield_alias(sign: str, size: int, d: str, n: str, immr: int, imms: int) -> str:
    """Arm ARM, "SBFM" and "UBFM", alias conditions."""
    extension = {7: "xtb", 15: "xth", 31: "xtw"}.get(imms)
    is_word = imms == 31
    if immr == 0 and extension and ((size == 64 and sign == "s") or (size == 32 and not is_word)):
        return f"{sign}{extension} {d}, w{n[1:]}"
    if imms == size - 1:
        return f"{'asr' if sign == 's' else 'lsr'} {d}, {n}, #{immr}"
    if sign == "u" and immr == imms + 1:
        return f"lsl {d}, {n}, #{size - immr}"
    if imms < immr:
        return f"{sign}bfiz {d}, {n}, #{size - immr}, #{imms + 1}"
    return f"{sign}bfx {d}, {n}, #{immr}, #{imms - immr + 1}"


def _alias(row: Insn, text: str, values: list[int]) -> str:
    """The name that a disassembler prefers. Arm ARM, chapter C6.2, "Alias conditions"."""
    mnemonic, _, rest = text.partition(" ")
    operands = rest.split(", ")
    match mnemonic:
        case "lslv" | "lsrv" | "asrv":
            return f"{mnemonic[:3]} {rest}"
        case "add" if values[-1] == 0 and 31 in values[:2] and row.text == "add {}, {}, #{}":
            return f"mov {operands[0]}, {operands[1]}"
        case "orr" if values[1] == 31:
            return f"mov {operands[0]}, {operands[2]}"
        case "sub" if values[1] == 31 and row.text == "sub {}, {}, {}":
            return f"neg {operands[0]}, {operands[2]}"
        case "madd" if values[3] == 31:
            return f"mul {', '.join(operands[:3])}"
        case "msub" if values[3] == 31:
            return f"mneg {', '.join(operands[:3])}"
        case "movz" if values[1] or not values[2]:
            return f"mov {operands[0]}, #{values[1] << values[2]}"
        case "movn" if (values[1] or not values[2]) and not (row.bits == 32 and values[1] == 0xFFFF):
            return f"mov {operands[0]}, #{~(values[1] << values[2])}"
        case "sbfm" | "ubfm":
            return _bitfield_alias(mnemonic[0], row.bits, operands[0], operands[1], values[2], values[3])
        case _:
            return text


def _agrees(row: Insn, values: list[int]) -> None:
    bits = 64 if row.text.startswith("b") else row.bits
    expected = _alias(row, _text(row, values), values)
    assert _normal(_disassemble(row(*values)), bits) == _normal(expected, bits), values


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_row_agrees_with_capstone(row: Insn) -> None:
    plain = _plain(row)
    _agrees(row, plain)
    for place, field in enumerate(row.fields):
        for edge in _edges(field):
            values = [*plain]
            values[place] = edge
            _agrees(row, values)


@pytest.mark.parametrize(
    "row", [row for row in ROWS.values() if row.fields], ids=[n for n, r in ROWS.items() if r.fields]
)
def test_row_refuses_what_does_not_fit(row: Insn) -> None:
    plain = _plain(row)
    for place, field in enumerate(row.fields):
        for value in _outside(field):
            with pytest.raises(EncodeError):
                row(*plain[:place], value, *plain[place + 1 :])


def _every_bitmask(size: int) -> set[int]:
    values = set()
    for element in (n for n in (2, 4, 8, 16, 32, 64) if n <= size):
        for ones in range(1, element):
            bits = "0" * (element - ones) + "1" * ones
            for turn in range(element):
                values.add(int((bits[turn:] + bits[:turn]) * (size // element), 2))
    return values


@pytest.mark.parametrize(("size", "count"), [(32, 1302), (64, 5334)])
def test_every_logical_immediate(size: int, count: int) -> None:
    values = _every_bitmask(size)
    assert len(values) == count
    words = {a64.and_rri[size](1, 2, value): value for value in values}
    assert len(words) == count
    code = b"".join(word.to_bytes(4, "little") for word in words)
    shown = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN).disasm_lite(code, 0)
    r = "x" if size == 64 else "w"
    expected = [("and", f"{r}1, {r}2, #{value}") for value in words.values()]
    assert [(m, _normal(o, 64)) for _, _, m, o in shown] == expected


@pytest.mark.parametrize("value", [0x5, 0xB, 0x12345678, 0xF0F0_F0F1, 0x0001_0003])
def test_a_value_that_is_no_run_is_no_logical_immediate(value: int) -> None:
    assert Bitmask(32).bits_of(value) is None
    assert Bitmask(64).bits_of(value << 32 | value) is None


# Typed from an independent assembler's output.
WORDS = [
    (0xA9BF53F3, a64.stp_push(19, 20, 31, -16)),
    (0xA8C153F3, a64.ldp_pop(19, 20, 31, 16)),
    (0xA9BF5BF5, a64.stp_push(21, 22, 31, -16)),
    (0xA8C15BF5, a64.ldp_pop(21, 22, 31, 16)),
    (0xA9BF7FF3, a64.stp_push(19, 31, 31, -16)),
    (0xA8C17FF9, a64.ldp_pop(25, 31, 31, 16)),
    (0xA9BF67F3, a64.stp_push(19, 25, 31, -16)),
    (0xA9BF67F6, a64.stp_push(22, 25, 31, -16)),
    (0xA9BF7BFD, a64.stp_push(29, 30, 31, -16)),
    (0xA8C17BFD, a64.ldp_pop(29, 30, 31, 16)),
    (0xA9BF6BFF, a64.stp_push(31, 26, 31, -16)),
    (0xA9BF6BFA, a64.stp_push(26, 26, 31, -16)),
    (0x910003FD, a64.add_rri[64](29, 31, 0)),
    (0x910003FA, a64.add_rri[64](26, 31, 0)),
    (0xD10083FF, a64.sub_rri[64](31, 31, 32)),
    (0xD10803FF, a64.sub_rri[64](31, 31, 512)),
    (0x910043FF, a64.add_rri[64](31, 31, 16)),
    (0xAA1303E5, a64.mov_rr[64](5, 19)),
    (0xAA0903E7, a64.mov_rr[64](7, 9)),
    (0xF94017B6, a64.ldr_rm(22, 29, 40)),
    (0xF9000FF6, a64.str_rm(22, 31, 24)),
    (0x92A24666, a64.movn_ri[64](6, 0x1233, 16)),
    (0xF28ACF06, a64.movk_ri[64](6, 0x5678, 0)),
    (0x9AC1080A, a64.udiv_rrr[64](10, 0, 1)),
    (0x9B018140, a64.msub_rrrr[64](0, 10, 1, 0)),
    (0x1AC10C00, a64.sdiv_rrr[32](0, 0, 1)),
    (0x9AC12000, a64.lslv_rrr[64](0, 0, 1)),
    (0x13001C20, a64.sbfm_rrii[32](0, 1, 0, 7)),
    (0x93407C20, a64.sbfm_rrii[64](0, 1, 0, 31)),
    (0x5AC00400, a64.rev16_rr[32](0, 0)),
    (0x53003C00, a64.ubfm_rrii[32](0, 0, 0, 15)),
    (0x5AC00800, a64.rev_rr[32](0, 0)),
    (0xDAC00C00, a64.rev_rr[64](0, 0)),
    (0xCB0003E0, a64.sub_rrr[64](0, 31, 0)),
    (0x53007C00, a64.ubfm_rrii[32](0, 0, 0, 31)),
    (0xEB01001F, a64.cmp_rr[64](0, 1)),
    (0xB100041F, a64.cmn_ri[64](0, 1)),
    (0xF140041F, a64.cmp_ri12[64](0, 0x1000)),
    (0xF2401C1F, a64.tst_ri[64](0, 0xFF)),
    (0x927CEC00, a64.and_rri[64](0, 0, 0xFFFF_FFFF_FFFF_FFF0)),
    (0x2A0103E0, a64.mov_rr[32](0, 1)),
    (0xF833029F, a64.stadd_rm[64](19, 20)),
    (0xF8F30293, a64.ldaddal_rrm[64](19, 19, 20)),
    (0xF8EB1293, a64.ldclral_rrm[64](11, 19, 20)),
    (0xAA3303EB, a64.mvn_rr[64](11, 19)),
    (0xF8F38293, a64.swpal_rrm[64](19, 19, 20)),
    (0xC8E8FE93, a64.casal_rrm[64](8, 19, 20)),
    (0xC85F7E8B, a64.ldxr_rm[64](11, 20)),
    (0xC80CFE8B, a64.stlxr_rrm[64](12, 11, 20)),
    (0xC80C7E8B, a64.stxr_rrm[64](12, 11, 20)),
    (0x880C7E8B, a64.stxr_rrm[32](12, 11, 20)),
    (0x880CFE8B, a64.stlxr_rrm[32](12, 11, 20)),
    (0x12001C00, a64.and_rri[32](0, 0, 0xFF)),
    (0x32001C00, a64.orr_rri[32](0, 0, 0xFF)),
    (0x52001C00, a64.eor_rri[32](0, 0, 0xFF)),
    (0x72001C1F, a64.tst_ri[32](0, 0xFF)),
    (0xD5033BBF, a64.dmb_ish()),
    (0x35FFFFAC, a64.cbnz_ri[32](12, -12)),
    (0xC8DFFC20, a64.ldar_rm[64](0, 1)),
    (0xC89FFC20, a64.stlr_rm[64](0, 1)),
    (0x39800C20, a64.ldrsb_rm(0, 1, 3)),
    (0xB8AAE820, a64.ldrsw_rx(0, 1, 10)),
    (0xD63F0140, a64.blr_r(10)),
    (0xD65F03C0, a64.ret()),
    (0xD503201F, a64.nop()),
    (0xD50324DF, a64.bti_jc()),
    (0xD503249F, a64.bti_j()),
    (0xD503233F, a64.paciasp()),
    (0xD50323BF, a64.autiasp()),
]


@pytest.mark.parametrize(("word", "ours"), WORDS, ids=[f"{word:08x}" for word, _ in WORDS])
def test_words_typed_by_hand(word: int, ours: int) -> None:
    assert f"{ours:08x}" == f"{word:08x}"


def test_a_branch_reaches_a_mebibyte_and_no_further() -> None:
    """A bug of some kernels: the check was one bit too wide, and the displacement wrapped (A64-B29)."""
    assert a64.bcond_i(a64.EQ, (1 << 20) - 4) == 0x547FFFE0
    assert a64.bcond_i(a64.EQ, -(1 << 20)) == 0x54800000
    for far in (1 << 20, -(1 << 20) - 4):
        with pytest.raises(EncodeError):
            a64.bcond_i(a64.EQ, far)
