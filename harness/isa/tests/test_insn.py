"""Encodings, typed by hand from RFC 9669 and from SA-V-05."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.isa import opcodes as op
from harness.isa.asm import Source, assemble
from harness.isa.disasm import insn_text, op_text
from harness.isa.insn import (
    Alu,
    Atomic,
    Branch,
    CallHelper,
    CallKfunc,
    CallReg,
    CallSubprog,
    Exit,
    Goto,
    Hole,
    Imm,
    Insn,
    LdImm64,
    Load,
    LoadAcquire,
    LoadArg,
    MayGoto,
    Op,
    PacketLoad,
    Reg,
    Store,
    StoreArg,
    StoreRelease,
    Swap,
    Undefined,
    decode,
    insns_from_bytes,
)  # fmt: skip
from harness.isa.proto import parse_proto

KF = parse_proto("u64 kf(u64 a)")

# (text, bytes, typed form, as the verifier's log writes it)
ROWS = [
    ("r1 = *(u64 *)(r11 + 8)", "79b1080000000000", LoadArg(1, 8), "(79) r1 = *(u64 *)(r11 +8)"),
    ("*(u64 *)(r11 - 8) = r2", "7b2bf8ff00000000", StoreArg(-8, Reg(2)), "(7b) *(u64 *)(r11 -8) = r2"),
    ("*(u64 *)(r11 - 8) = 6", "7a0bf8ff06000000", StoreArg(-8, Imm(6)), "(7a) *(u64 *)(r11 -8) = 6"),
    ("*(u64 *)(r11 - 56) = -7", "7a0bc8fff9ffffff", StoreArg(-56, Imm(-7)), "(7a) *(u64 *)(r11 -56) = -7"),
    ("r1 = 1", "b701000001000000", Alu(op.MOV, 64, 1, Imm(1)), "(b7) r1 = 1"),
    ("w1 = -1", "b4010000ffffffff", Alu(op.MOV, 32, 1, Imm(-1)), "(b4) w1 = -1"),
    ("r3 = r10", "bfa3000000000000", Alu(op.MOV, 64, 3, Reg(10)), "(bf) r3 = r10"),
    ("r2 += r3", "0f32000000000000", Alu(op.ADD, 64, 2, Reg(3)), "(0f) r2 += r3"),
    ("w2 -= 5", "1402000005000000", Alu(op.SUB, 32, 2, Imm(5)), "(14) w2 -= 5"),
    ("r4 *= r5", "2f54000000000000", Alu(op.MUL, 64, 4, Reg(5)), "(2f) r4 *= r5"),
    ("w4 /= w5", "3c54000000000000", Alu(op.DIV, 32, 4, Reg(5)), "(3c) w4 /= w5"),
    ("r0 |= 1", "4700000001000000", Alu(op.OR, 64, 0, Imm(1)), "(47) r0 |= 1"),
    ("r0 &= 1", "5700000001000000", Alu(op.AND, 64, 0, Imm(1)), "(57) r0 &= 1"),
    ("r0 <<= r1", "6f10000000000000", Alu(op.LSH, 64, 0, Reg(1)), "(6f) r0 <<= r1"),
    ("w0 >>= 3", "7400000003000000", Alu(op.RSH, 32, 0, Imm(3)), "(74) w0 >>= 3"),
    ("r7 = -r7", "8707000000000000", Alu(op.NEG, 64, 7, Imm(0)), "(87) r7 = -r7"),
    ("r0 %= 10", "970000000a000000", Alu(op.MOD, 64, 0, Imm(10)), "(97) r0 %= 10"),
    ("w0 ^= w9", "ac90000000000000", Alu(op.XOR, 32, 0, Reg(9)), "(ac) w0 ^= w9"),
    ("r0 s>>= 63", "c70000003f000000", Alu(op.ARSH, 64, 0, Imm(63)), "(c7) r0 s>>= 63"),
    ("r1 = *(u8 *)(r10 - 1)", "71a1ffff00000000", Load(1, 10, -1, op.B), "(71) r1 = *(u8 *)(r10 -1)"),
    ("r1 = *(u16 *)(r2 + 4)", "6921040000000000", Load(1, 2, 4, op.H), "(69) r1 = *(u16 *)(r2 +4)"),
    ("r1 = *(u32 *)(r2 + 0)", "6121000000000000", Load(1, 2, 0, op.W), "(61) r1 = *(u32 *)(r2 +0)"),
    ("*(u32 *)(r10 - 4) = 9", "620afcff09000000", Store(10, -4, op.W, Imm(9)), "(62) *(u32 *)(r10 -4) = 9"),
    ("*(u8 *)(r1 + 3) = r2", "7321030000000000", Store(1, 3, op.B, Reg(2)), "(73) *(u8 *)(r1 +3) = r2"),
    ("goto +1", "0500010000000000", Goto(1), "(05) goto pc+1"),
    ("if r1 == 5 goto -2", "1501feff05000000", Branch(op.JEQ, 64, 1, Imm(5), -2), "(15) if r1 == 0x5 goto pc-2"),
    ("if w1 s> w2 goto +3", "6e21030000000000", Branch(op.JSGT, 32, 1, Reg(2), 3), "(6e) if w1 s> w2 goto pc+3"),
    ("if r1 & 8 goto +0", "4501000008000000", Branch(op.JSET, 64, 1, Imm(8), 0), "(45) if r1 & 0x8 goto pc+0"),
    ("if r3 s<= -1 goto +1", "d5030100ffffffff", Branch(op.JSLE, 64, 3, Imm(-1), 1), "(d5) if r3 s<= 0xffffffff goto pc+1"),
    ("call 7", "8500000007000000", CallHelper(7), "(85) call bpf_get_prandom_u32#7"),
    ("call bpf_get_prandom_u32", "8500000007000000", CallHelper(7), "(85) call bpf_get_prandom_u32#7"),
    ("call pc+2", "8510000002000000", CallSubprog(2), "(85) call pc+2"),
    ("call kf", "8520000001000000", CallKfunc(1, 0), "(85) call kf#1"),
    ("exit", "9500000000000000", Exit(), "(95) exit"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "raw", "typed", "log"), ROWS, ids=[row[0] for row in ROWS])
def test_row(text: str, raw: str, typed: object, log: str) -> None:
    prog = assemble([Source("main", text)], [KF]).prog
    assert prog.insns[0].to_bytes().hex() == raw
    assert insns_from_bytes(bytes.fromhex(raw)) == prog.insns
    assert prog.ops[0] == typed
    assert insn_text(prog, 0) == log


def test_ld_imm64_takes_two_slots() -> None:
    prog = assemble([Source("main", "r2 = 0x123456789abcdef0 ll")]).prog
    assert [insn.to_bytes().hex() for insn in prog.insns] == ["18020000f0debc9a", "0000000078563412"]
    assert prog.ops == (LdImm64(2, 0, 0x123456789ABCDEF0), Hole())


NOT_STACK_ARGS = [
    "63 1b f8 ff 00 00 00 00",  # a store of 4 bytes
    "7b 1b fc ff 00 00 00 00",  # an offset that is no multiple of 8
    "7b 1b 08 00 00 00 00 00",  # a store above
    "7b 1b 00 00 00 00 00 00",  # a store at 0
    "79 b1 f8 ff 00 00 00 00",  # a load below
    "79 b1 00 00 00 00 00 00",  # a load at 0
    "61 b1 08 00 00 00 00 00",  # a load of 4 bytes
]


@pytest.mark.parametrize("raw", NOT_STACK_ARGS)
def test_only_three_forms_are_stack_arguments(raw: str) -> None:
    (typed,) = decode(insns_from_bytes(bytes.fromhex(raw)))
    assert not isinstance(typed, LoadArg | StoreArg)


# RFC 9669, and for the last five Linux include/uapi/linux/bpf.h and Documentation/bpf/standardization.
NEWER: dict[str, tuple[str, Op]] = {
    "r1 s/= r2": ("3f 21 01 00 00 00 00 00", Alu(op.SDIV, 64, 1, Reg(2))),
    "w1 s%= -7": ("94 01 01 00 f9 ff ff ff", Alu(op.SMOD, 32, 1, Imm(-7))),
    "r1 = (s8)r2": ("bf 21 08 00 00 00 00 00", Alu(op.MOVSX8, 64, 1, Reg(2))),
    "w3 = (s16)w4": ("bc 43 10 00 00 00 00 00", Alu(op.MOVSX16, 32, 3, Reg(4))),
    "r5 = (s32)r6": ("bf 65 20 00 00 00 00 00", Alu(op.MOVSX32, 64, 5, Reg(6))),
    "r1 = le16 r1": ("d4 01 00 00 10 00 00 00", Swap(op.TO_LE, 16, 1)),
    "r2 = be32 r2": ("dc 02 00 00 20 00 00 00", Swap(op.TO_BE, 32, 2)),
    "r3 = bswap64 r3": ("d7 03 00 00 40 00 00 00", Swap(op.BSWAP, 64, 3)),
    "r1 = *(s8 *)(r2 -1)": ("91 21 ff ff 00 00 00 00", Load(1, 2, -1, op.B, signed=True)),
    "r1 = *(s16 *)(r2 +2)": ("89 21 02 00 00 00 00 00", Load(1, 2, 2, op.H, signed=True)),
    "r1 = *(s32 *)(r2 +4)": ("81 21 04 00 00 00 00 00", Load(1, 2, 4, op.W, signed=True)),
    "lock *(u64 *)(r10 -8) += r2": ("db 2a f8 ff 00 00 00 00", Atomic(10, -8, op.DW, 2, op.ATOMIC_ADD)),
    "lock *(u32 *)(r10 -8) |= r2": ("c3 2a f8 ff 40 00 00 00", Atomic(10, -8, op.W, 2, op.ATOMIC_OR)),
    "lock *(u64 *)(r1 +0) &= r2": ("db 21 00 00 50 00 00 00", Atomic(1, 0, op.DW, 2, op.ATOMIC_AND)),
    "lock *(u64 *)(r1 +0) ^= r2": ("db 21 00 00 a0 00 00 00", Atomic(1, 0, op.DW, 2, op.ATOMIC_XOR)),
    "r2 = atomic64_fetch_add((u64 *)(r10 -8), r2)": ("db 2a f8 ff 01 00 00 00", Atomic(10, -8, op.DW, 2, op.FETCH_ADD)),
    "r2 = atomic_fetch_or((u32 *)(r10 -8), r2)": ("c3 2a f8 ff 41 00 00 00", Atomic(10, -8, op.W, 2, op.FETCH_OR)),
    "r2 = atomic64_fetch_and((u64 *)(r10 -8), r2)": ("db 2a f8 ff 51 00 00 00", Atomic(10, -8, op.DW, 2, op.FETCH_AND)),
    "r2 = atomic64_fetch_xor((u64 *)(r10 -8), r2)": ("db 2a f8 ff a1 00 00 00", Atomic(10, -8, op.DW, 2, op.FETCH_XOR)),
    "r2 = atomic64_xchg((u64 *)(r10 -8), r2)": ("db 2a f8 ff e1 00 00 00", Atomic(10, -8, op.DW, 2, op.XCHG)),
    "r0 = atomic_cmpxchg((u32 *)(r10 -8), r0, r2)": ("c3 2a f8 ff f1 00 00 00", Atomic(10, -8, op.W, 2, op.CMPXCHG)),
    "gotol pc+7": ("06 00 00 00 07 00 00 00", Goto(7, far=True)),
    "r0 = *(u8 *)skb[12]": ("30 00 00 00 0c 00 00 00", PacketLoad(op.B, 12, None)),
    "r0 = *(u16 *)skb[r3 + 4]": ("48 30 00 00 04 00 00 00", PacketLoad(op.H, 4, 3)),
    "r0 = load_acquire((u16 *)(r1 +2))": ("cb 10 02 00 00 01 00 00", LoadAcquire(0, 1, 2, op.H)),
    "store_release((u8 *)(r1 +2), r3)": ("d3 31 02 00 10 01 00 00", StoreRelease(1, 2, op.B, 3)),
    "may_goto pc+3": ("e5 00 03 00 00 00 00 00", MayGoto(3)),
    "callx r3": ("8d 03 00 00 00 00 00 00", CallReg(3)),
}


@pytest.mark.parametrize("text", NEWER)
def test_newer_insns_there_and_back(text: str) -> None:
    raw, typed = NEWER[text]
    insns = assemble([Source("main", text)], []).prog.insns
    assert b"".join(insn.to_bytes() for insn in insns).hex(" ") == raw
    assert decode(insns) == (typed,)
    assert op_text(typed) == text


# As LLVM writes the same insns.
OTHER_SPELLINGS = {
    "r2 = atomic_fetch_add((u64 *)(r10 - 8), r2)": "db 2a f8 ff 01 00 00 00",
    "w2 = atomic_fetch_add((u32 *)(r10 - 8), w2)": "c3 2a f8 ff 01 00 00 00",
    "r2 = xchg_64(r10 - 8, r2)": "db 2a f8 ff e1 00 00 00",
    "w2 = xchg32_32(r10 - 8, w2)": "c3 2a f8 ff e1 00 00 00",
    "r0 = cmpxchg_64(r10 - 8, r0, r2)": "db 2a f8 ff f1 00 00 00",
    "w0 = cmpxchg32_32(r10 - 8, w0, w2)": "c3 2a f8 ff f1 00 00 00",
    "lock *(u32 *)(r10 - 8) += w2": "c3 2a f8 ff 00 00 00 00",
    "w0 = load_acquire((u16 *)(r1 + 2))": "cb 10 02 00 00 01 00 00",
    "store_release((u8 *)(r1 + 2), w3)": "d3 31 02 00 10 01 00 00",
}


@pytest.mark.parametrize("text", OTHER_SPELLINGS)
def test_other_spellings(text: str) -> None:
    insns = assemble([Source("main", text)], []).prog.insns
    assert b"".join(insn.to_bytes() for insn in insns).hex(" ") == OTHER_SPELLINGS[text]


CONSTANTS = {
    "r1 = map_by_fd(3) ll": "18 11 00 00 03 00 00 00 00 00 00 00 00 00 00 00",
    "r1 = map_val(map_by_fd(3)) + 8 ll": "18 21 00 00 03 00 00 00 00 00 00 00 08 00 00 00",
    "r1 = var_addr(7) ll": "18 31 00 00 07 00 00 00 00 00 00 00 00 00 00 00",
    "r1 = code_addr(pc+5) ll": "18 41 00 00 05 00 00 00 00 00 00 00 00 00 00 00",
    "r1 = map_by_idx(2) ll": "18 51 00 00 02 00 00 00 00 00 00 00 00 00 00 00",
    "r1 = map_val(map_by_idx(2)) + 4 ll": "18 61 00 00 02 00 00 00 00 00 00 00 04 00 00 00",
}


@pytest.mark.parametrize("text", CONSTANTS)
def test_constants_that_stand_for_something(text: str) -> None:
    insns = assemble([Source("main", text)], []).prog.insns
    assert b"".join(insn.to_bytes() for insn in insns).hex(" ") == CONSTANTS[text]
    assert op_text(decode(insns)[0]) == text


UNDEFINED = [
    ("0e 00 00 00 00 00 00 00", False),  # an unconditional jump takes no register
    ("06 00 01 00 00 00 00 00", True),  # gotol with an off
    ("86 00 00 00 00 00 00 00", False),  # JMP32 has no call
    ("8d 13 00 00 00 00 00 00", True),  # callx with a source
    ("bf 21 18 00 00 00 00 00", True),  # movsx of 24 bits
    ("bc 21 20 00 00 00 00 00", True),  # movsx of 32 bits to 32
    ("b7 01 08 00 01 00 00 00", True),  # movsx of a constant
    ("3f 21 02 00 00 00 00 00", True),
    ("df 01 00 00 10 00 00 00", False),  # a byte swap of class ALU64 has no register form
    ("d7 01 00 00 08 00 00 00", True),
    ("99 21 00 00 00 00 00 00", False),  # sign-extending load of 64 bits
    ("db 21 00 00 10 00 00 00", True),  # atomic subtraction
    ("d3 21 00 00 00 00 00 00", True),  # atomic of 8 bits
    ("38 00 00 00 00 00 00 00", False),  # packet load of 64 bits
    ("30 10 00 00 00 00 00 00", True),
    ("e5 01 00 00 00 00 00 00", True),
    ("e7 00 00 00 00 00 00 00", False),
    ("79 b1 08 00 01 00 00 00", True),  # LDX with an immediate
    ("7b 1b f8 ff 01 00 00 00", True),  # STX with an immediate
    ("7a 1b f8 ff 01 00 00 00", True),  # ST with a source
    ("0f 21 00 00 01 00 00 00", True),
    ("07 21 00 00 01 00 00 00", True),
    ("07 01 01 00 01 00 00 00", True),
    ("95 00 00 00 01 00 00 00", True),
    ("85 30 00 00 01 00 00 00", True),
    ("05 00 00 00 01 00 00 00", True),
    ("18 01 00 00 01 00 00 00", True),  # the second half is missing
]


@pytest.mark.parametrize(("raw", "reserved"), UNDEFINED)
def test_undefined(raw: str, reserved: bool) -> None:
    (insn,) = insns_from_bytes(bytes.fromhex(raw))
    assert decode((insn,)) == (Undefined(insn, reserved),)


@settings(deadline=None, derandomize=True)
@given(st.binary(min_size=0, max_size=200).map(lambda raw: raw[: len(raw) // 8 * 8]))
def test_every_8_bytes_decode_and_come_back(raw: bytes) -> None:
    insns = insns_from_bytes(raw)
    assert b"".join(insn.to_bytes() for insn in insns) == raw
    assert len(decode(insns)) == len(insns)


def test_a_length_that_is_no_whole_number_of_insns() -> None:
    with pytest.raises(ValueError, match="9 bytes are not a whole number"):
        insns_from_bytes(b"123456789")


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_sem_of_the_operations_with_rules_of_their_own(dst: int, src: int) -> None:
    assert op.DIV.sem(dst, 0, 64) == 0
    assert op.MOD.sem(dst, 0, 64) == dst
    assert op.LSH.sem(1, src, 64) == 1 << src % 64
    assert op.RSH.sem(dst & 0xFFFFFFFF, src, 32) == (dst & 0xFFFFFFFF) >> src % 32
    top = dst >> 63
    assert op.ARSH.sem(dst, 63, 64) == -top


def test_where_counts_from_the_subprog() -> None:
    prog = assemble([Source("main", "call f\nexit"), Source("f", "r0 = 1\nexit")]).prog
    assert [prog.where(i) for i in range(4)] == ["main 0", "main 1", "f 0", "f 1"]
    assert prog.insns[0] == Insn(0x85, 0, 1, 0, 1)
