"""Every row of the encoder against Capstone, and bytes typed from the documents."""

from collections.abc import Callable, Iterator
from itertools import combinations, product

import capstone
import pytest
from capstone import x86_const as cs

from backends.x86_64 import encode as x86
from backends.x86_64.encode import Cond, Const, EncodeError, Gpr, InCond, InMem, Mem, Role, Value

ROWS = {name: row for name, row in vars(x86).items() if isinstance(row, x86.Insn)}
ADDRESS = 0x100_0000_0000

OLD, NEW = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di"), range(8, 16)
NAMES = {
    64: [f"r{name}" for name in OLD] + [f"r{n}" for n in NEW],
    32: [f"e{name}" for name in OLD] + [f"r{n}d" for n in NEW],
    16: [*OLD] + [f"r{n}w" for n in NEW],
    8: ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"] + [f"r{n}b" for n in NEW],
}
SUFFIX = {"B": "b", "AE": "ae", "E": "e", "NE": "ne", "BE": "be", "A": "a", "L": "l", "GE": "ge", "LE": "le", "G": "g"}
# Operands that an insn has without a field for them.
IMPLIED_FIRST = {"add_ai", "or_ai", "and_ai", "sub_ai", "xor_ai"}
IMPLIED_LAST = {"shl_rc": "cl", "shr_rc": "cl", "sar_rc": "cl", "shl_r1": 1, "shr_r1": 1, "sar_r1": 1}


@pytest.fixture(scope="module")
def decoder() -> capstone.Cs:
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    return decoder


def values_of(role: Role) -> list[Value]:
    match role:
        case Const(_, low, high):
            return [low, *(v for v in (-1, 0, 1, 5, 127, 128) if low < v < high), high]
        case InMem():
            disps = (-(1 << 31), -129, -128, -8, 0, 127, 128, (1 << 31) - 1)
            return [Mem(base, disp) for base, disp in product(Gpr, disps)]
        case InCond():
            return list(Cond)
        case _:
            return list(Gpr)


def sweep(row: x86.Insn) -> Iterator[tuple[Value, ...]]:
    """Every pair of operands through all its values, the others at two."""
    ranges = [values_of(role) for role in row.roles]
    pairs = list(combinations(range(len(ranges)), 2)) or [(0, 0)]
    for pair in pairs:
        yield from product(*(vs if i in pair else [vs[1], vs[-1]] for i, vs in enumerate(ranges)))


def expected(name: str, row: x86.Insn, values: tuple[Value, ...], bits: int, size: int) -> list[object]:
    """The operands as Capstone should see them: a name, a number, or (base, disp, bytes)."""
    operands: list[object] = [NAMES[bits][0]] if name in IMPLIED_FIRST else []
    for role, value in zip(row.roles, values, strict=True):
        match role, value:
            case InCond(), _:
                continue
            case InMem(width), Mem(base, disp):
                operands.append((NAMES[64][base.value], disp, (width or bits) // 8))
            case Const(), int():
                relative = row.name in ("j", "jmp", "call")
                operands.append(value + ADDRESS + size if relative else value)
            case _:
                assert isinstance(value, Gpr)
                assert not isinstance(role, Const)
                operands.append(NAMES[getattr(role, "bits", None) or bits][value.value])
    return [*operands, IMPLIED_LAST[name]] if name in IMPLIED_LAST else operands


def seen(insn: capstone.CsInsn) -> list[object]:
    operands: list[object] = []
    for operand in insn.operands:
        match operand.type:
            case cs.X86_OP_REG:
                operands.append(insn.reg_name(operand.reg))
            case cs.X86_OP_MEM:
                assert operand.mem.index == 0
                operands.append((insn.reg_name(operand.mem.base), operand.mem.disp, operand.size))
            case _:
                operands.append(operand.imm)
    return operands


@pytest.mark.parametrize("name", ROWS)
def test_capstone_reads_what_was_written(name: str, decoder: capstone.Cs) -> None:
    row = ROWS[name]
    for bits in row.widths:
        for values in sweep(row):
            code = row(*values, bits=bits)
            (insn,) = decoder.disasm(code, ADDRESS)
            mnemonic = row.name + next((SUFFIX[v.name] for v in values if isinstance(v, Cond)), "")
            assert (insn.size, insn.mnemonic) == (len(code), mnemonic)
            wanted, got = expected(name, row, values, bits, len(code)), seen(insn)
            width = (insn.operands[0].size if insn.operands else 8) * 8  # constants are shown in the first operand's
            assert [v % (1 << width) if isinstance(v, int) else v for v in got] == [
                v % (1 << width) if isinstance(v, int) else v for v in wanted
            ], code.hex()


@pytest.mark.parametrize("nop", x86.NOPS.items(), ids=lambda item: str(item[0]))
def test_nops_are_single_insns_of_their_length(nop: tuple[int, bytes], decoder: capstone.Cs) -> None:
    size, code = nop
    assert [(insn.mnemonic, insn.size) for insn in decoder.disasm(code, 0)] == ([("nop", size)] if size else [])


REFUSED = {
    "imm8 128": lambda: x86.add_ri8(Gpr.RAX, 128, bits=64),
    "imm8 -129": lambda: x86.add_ri8(Gpr.RAX, -129, bits=64),
    "imm32 2^31": lambda: x86.add_ri(Gpr.RAX, 1 << 31, bits=64),
    "imm32 -2^31-1": lambda: x86.mov_ri_sign(Gpr.RAX, -(1 << 31) - 1),
    "unsigned imm32 -1": lambda: x86.mov_ri_zero(Gpr.RAX, -1),
    "unsigned imm32 2^32": lambda: x86.mov_ri_zero(Gpr.RAX, 1 << 32),
    "imm64 2^64": lambda: x86.movabs_ri(Gpr.RAX, 1 << 64),
    "count 64": lambda: x86.shl_ri(Gpr.RAX, 64, bits=64),
    "byte 256": lambda: x86.mov_m8i(Mem(Gpr.RAX, 0), 256),
    "half -1": lambda: x86.mov_m16i(Mem(Gpr.RAX, 0), -1),
    "disp 2^31": lambda: x86.mov_rm64(Gpr.RAX, Mem(Gpr.RBP, 1 << 31)),
    "rel8 128": lambda: x86.jmp_short(128),
    "rel32 2^31": lambda: x86.call_near(1 << 31),
    "a number for a register": lambda: x86.mov_rr(0, Gpr.RAX, bits=64),
    "a register for a number": lambda: x86.jmp_short(Gpr.RAX),
    "a register for memory": lambda: x86.mov_rm64(Gpr.RAX, Gpr.RBX),
    "a register for a condition": lambda: x86.jcc_short(Gpr.RAX, 0),
    "an operand too few": lambda: x86.mov_rr(Gpr.RAX, bits=64),
    "an operand too many": lambda: x86.leave(Gpr.RAX),
    "no width where there are two": lambda: x86.mov_rr(Gpr.RAX, Gpr.RBX),
    "a width that the row lacks": lambda: x86.push_r(Gpr.RAX, bits=64),
}


@pytest.mark.parametrize("encode", REFUSED.values(), ids=REFUSED)
def test_a_field_refuses_what_does_not_fit(encode: Callable[[], bytes]) -> None:
    with pytest.raises(EncodeError):
        encode()


RAX, RCX, RDX, RBX, RBP, RSI, RDI = Gpr.RAX, Gpr.RCX, Gpr.RDX, Gpr.RBX, Gpr.RBP, Gpr.RSI, Gpr.RDI
R8, R9, R10, R11, R13, R14, R15 = Gpr.R8, Gpr.R9, Gpr.R10, Gpr.R11, Gpr.R13, Gpr.R14, Gpr.R15
# X64-20 and section 12: an independent assembler's.
BYTES = [
    ("49 89 C1", x86.mov_rr(R9, RAX, bits=64)),
    ("49 89 F9", x86.mov_rr(R9, RDI, bits=64)),
    ("49 89 F1", x86.mov_rr(R9, RSI, bits=64)),
    ("49 89 D1", x86.mov_rr(R9, RDX, bits=64)),
    ("49 89 C9", x86.mov_rr(R9, RCX, bits=64)),
    ("4D 89 C1", x86.mov_rr(R9, R8, bits=64)),
    ("49 89 D9", x86.mov_rr(R9, RBX, bits=64)),
    ("4D 89 E9", x86.mov_rr(R9, R13, bits=64)),
    ("4D 89 F1", x86.mov_rr(R9, R14, bits=64)),
    ("4D 89 F9", x86.mov_rr(R9, R15, bits=64)),
    ("49 89 E9", x86.mov_rr(R9, RBP, bits=64)),
    ("4D 89 D1", x86.mov_rr(R9, R10, bits=64)),
    ("45 31 C9", x86.xor_rr(R9, R9, bits=32)),
    ("49 C7 C1 FA FF FF FF", x86.mov_ri_sign(R9, -6)),
    ("4C 89 C8", x86.mov_rr(RAX, R9, bits=64)),
    ("4C 89 CF", x86.mov_rr(RDI, R9, bits=64)),
    ("4C 89 CB", x86.mov_rr(RBX, R9, bits=64)),
    ("4D 89 CD", x86.mov_rr(R13, R9, bits=64)),
    ("4D 89 CF", x86.mov_rr(R15, R9, bits=64)),
    ("48 8B 7D 10", x86.mov_rm64(RDI, Mem(RBP, 16))),
    ("48 8B 45 10", x86.mov_rm64(RAX, Mem(RBP, 16))),
    ("4C 8B 6D 38", x86.mov_rm64(R13, Mem(RBP, 56))),
    ("48 89 7D F8", x86.mov_m64r(Mem(RBP, -8), RDI)),
    ("4C 89 6D D0", x86.mov_m64r(Mem(RBP, -48), R13)),
    ("48 C7 45 F8 07 00 00 00", x86.mov_m64i(Mem(RBP, -8), 7)),
    ("48 C7 85 78 FF FF FF F9 FF FF FF", x86.mov_m64i(Mem(RBP, -136), -7)),
    ("41 B9 06 00 00 00", x86.mov_ri_zero(R9, 6)),
    ("89 F8", x86.mov_rr(RAX, RDI, bits=32)),
    ("45 89 ED", x86.mov_rr(R13, R13, bits=32)),
    ("48 0F B7 7E 02", x86.movzx_rm16(RDI, Mem(RSI, 2))),
    ("8B 7E 04", x86.mov_rm32(RDI, Mem(RSI, 4))),
    ("40 88 77 01", x86.mov_m8r(Mem(RDI, 1), RSI)),
    ("66 89 77 01", x86.mov_m16r(Mem(RDI, 1), RSI)),
    ("66 C7 47 01 05 00", x86.mov_m16i(Mem(RDI, 1), 5)),
    ("49 F7 F3", x86.div_r(R11, bits=64)),
    ("C4 E2 4B F7 FF", x86.shrx_rrr(RDI, RDI, RSI, bits=32)),
    ("C4 E2 CA F7 FF", x86.sarx_rrr(RDI, RDI, RSI, bits=64)),
    ("C4 E2 C9 F7 FF", x86.shlx_rrr(RDI, RDI, RSI, bits=64)),
    ("48 81 FF E8 03 00 00", x86.cmp_ri(RDI, 1000, bits=64)),
    ("F7 C7 E8 03 00 00", x86.test_ri(RDI, 1000, bits=32)),
    ("48 05 E8 03 00 00", x86.add_ai(1000, bits=64)),
    ("48 6B FF 05", x86.imul_rri8(RDI, RDI, 5, bits=64)),
    ("48 69 FF F4 01 00 00", x86.imul_rri(RDI, RDI, 500, bits=64)),
    ("48 81 EC 10 00 00 00", x86.sub_ri(Gpr.RSP, 16, bits=64)),
    ("48 83 EC 30", x86.sub_ri8(Gpr.RSP, 48, bits=64)),
    ("48 83 C4 30", x86.add_ri8(Gpr.RSP, 48, bits=64)),
    ("41 54", x86.push_r(Gpr.R12)),
    ("53", x86.push_r(RBX)),
    ("41 5F", x86.pop_r(R15)),
]


@pytest.mark.parametrize(("wanted", "code"), BYTES, ids=[row[0] for row in BYTES])
def test_bytes_of_an_independent_assembler(wanted: str, code: bytes) -> None:
    assert code == bytes.fromhex(wanted)
