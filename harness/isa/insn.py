"""Insns: eight bytes and back by the opcode table, and the typed forms that everything else matches on."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from harness.isa import opcodes as op
from harness.isa.maps import Map
from harness.isa.proto import Proto
from harness.isa.traced import TracedCtx

_LAYOUT: Final = struct.Struct("<BBhi")
INSN_BYTES: Final = _LAYOUT.size


@dataclass(frozen=True, slots=True)
class Insn:
    """One 8-byte slot. `off` and `imm` are signed. RFC 9669, "Instruction encoding", "Basic instruction encoding"."""

    opcode: int
    dst: int = 0
    src: int = 0
    off: int = 0
    imm: int = 0

    def to_bytes(self) -> bytes:
        """The little-endian encoding, 8 bytes."""
        return _LAYOUT.pack(self.opcode, self.src << 4 | self.dst, self.off, self.imm)


def insns_from_bytes(raw: bytes) -> tuple[Insn, ...]:
    """Every 8 bytes as an Insn; nothing is refused here but a length that is no multiple of 8 (ValueError)."""
    if len(raw) % INSN_BYTES:
        raise ValueError(f"{len(raw)} bytes are not a whole number of {INSN_BYTES}-byte insns")
    return tuple(Insn(code, regs & 15, regs >> 4, off, imm) for code, regs, off, imm in _LAYOUT.iter_unpack(raw))


@dataclass(frozen=True, slots=True)
class Reg:
    """A source operand that is a register, 0-15."""

    n: int


@dataclass(frozen=True, slots=True)
class Imm:
    """A source operand that is a constant: signed 32 bits, extended to the width of the operation."""

    value: int


Src = Reg | Imm


@dataclass(frozen=True, slots=True)
class Alu:
    """`dst OP= src`. `bits` is 32 or 64; for NEG, `src` is Imm(0)."""

    op: op.AluOp
    bits: int
    dst: int
    src: Src


@dataclass(frozen=True, slots=True)
class Swap:
    """`dst = be16 dst` and its like; `width` in bits."""

    op: op.EndOp
    width: int
    dst: int


@dataclass(frozen=True, slots=True)
class LdImm64:
    """`dst = value ll`: two slots; `value` unsigned 64 bits; `pseudo` is the src field (0 is a plain constant)."""

    dst: int
    pseudo: int
    value: int


@dataclass(frozen=True, slots=True)
class Load:
    """`dst = *(size *)(base + off)`; `signed` fills the register with the sign."""

    dst: int
    base: int
    off: int
    size: op.Size
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """`*(size *)(base + off) = src`."""

    base: int
    off: int
    size: op.Size
    src: Src


@dataclass(frozen=True, slots=True)
class Atomic:
    """A read-modify-write of `*(size *)(base + off)` with `src`, which takes the old value if `op.fetch`; CMPXCHG: R0 does."""

    base: int
    off: int
    size: op.Size
    src: int
    op: op.AtomicOp


@dataclass(frozen=True, slots=True)
class LoadAcquire:
    """`dst = load_acquire((size *)(base + off))`."""

    dst: int
    base: int
    off: int
    size: op.Size


@dataclass(frozen=True, slots=True)
class StoreRelease:
    """`store_release((size *)(base + off), src)`."""

    base: int
    off: int
    size: op.Size
    src: int


@dataclass(frozen=True, slots=True)
class PacketLoad:
    """`r0 = *(size *)skb[index + imm]`; no index register is the absolute form. RFC 9669, "Legacy BPF Packet Access"."""

    size: op.Size
    imm: int
    index: int | None


@dataclass(frozen=True, slots=True)
class LoadArg:
    """`dst = *(u64 *)(r11 + off)`: an incoming stack argument; `off` is 8 for argument 6, 16 for argument 7."""

    dst: int
    off: int

    @property
    def slot(self) -> int:
        """Incoming slot: 0 is argument 6."""
        return self.off // 8 - 1


@dataclass(frozen=True, slots=True)
class StoreArg:
    """`*(u64 *)(r11 + off) = src`: an outgoing stack argument; `off` is -8 for argument 6, -16 for argument 7."""

    off: int
    src: Src

    @property
    def slot(self) -> int:
        """Outgoing slot: 0 is argument 6."""
        return -self.off // 8 - 1


@dataclass(frozen=True, slots=True)
class Goto:
    """`goto`; `off` in insns from the next one. `far`: it has 32 bits (`gotol`)."""

    off: int
    far: bool = False


@dataclass(frozen=True, slots=True)
class MayGoto:
    """`may_goto`: a jump that is taken once the program has run for long enough; `off` in insns from the next one."""

    off: int


@dataclass(frozen=True, slots=True)
class Branch:
    """`if dst OP src goto`; `bits` is 32 or 64, `off` in insns from the next one."""

    op: op.JmpOp
    bits: int
    dst: int
    src: Src
    off: int


@dataclass(frozen=True, slots=True)
class CallHelper:
    """A helper by id."""

    id: int


@dataclass(frozen=True, slots=True)
class CallSubprog:
    """A call within the program; `off` in insns from the next one."""

    off: int


@dataclass(frozen=True, slots=True)
class CallKfunc:
    """A kernel function by BTF id; `fd_index` chooses the module's BTF, 0 for the kernel's own."""

    btf_id: int
    fd_index: int


@dataclass(frozen=True, slots=True)
class CallReg:
    """`callx`: a call of what a register points to."""

    reg: int


@dataclass(frozen=True, slots=True)
class Exit:
    """`exit`."""


@dataclass(frozen=True, slots=True)
class Hole:
    """The second slot of an LdImm64."""


@dataclass(frozen=True, slots=True)
class Undefined:
    """No operation of the table: the opcode is not in it, or a field that must be zero is not."""

    insn: Insn
    reserved_field: bool  # the opcode is known, a field is not zero


Op = (
    Alu | Swap | LdImm64 | Load | Store | Atomic | LoadAcquire | StoreRelease | PacketLoad | LoadArg | StoreArg
    | Goto | MayGoto | Branch | CallHelper | CallSubprog | CallKfunc | CallReg | Exit | Hole | Undefined
)  # fmt: skip

_ALU: Final = {(row.code, row.off): row for row in op.ALU}
_ALU_CODES: Final = {row.code for row in op.ALU}
_END: Final = {(row.cls.code, row.src): row for row in op.END}
_ATOMIC: Final = {row.code: row for row in op.ATOMIC}
CALLX: Final = op.JMP_CLASS.code | op.CALL_CODE << 4 | op.SRC_REG
MAY_GOTO: Final = op.JMP_CLASS.code | op.JCOND_CODE << 4
_JMP: Final = {row.code: row for row in op.JMP}
_SIZE: Final = {row.code: row for row in op.SIZES}
LD_IMM64: Final = op.LD.code | op.DW.code | op.MODE_IMM


def decode(insns: tuple[Insn, ...]) -> tuple[Op, ...]:
    """The typed form of every slot. Never fails: what is not an operation becomes Undefined."""
    ops: list[Op] = []
    for index, insn in enumerate(insns):
        if index and isinstance(ops[-1], LdImm64):
            ops.append(Hole())
        elif insn.opcode == LD_IMM64:
            ops.append(_decode_ld_imm64(insn, insns[index + 1] if index + 1 < len(insns) else None))
        else:
            ops.append(_decode_one(insn))
    return tuple(ops)


def _decode_ld_imm64(insn: Insn, second: Insn | None) -> Op:
    if second is None or second.opcode or second.dst or second.src or second.off:
        return Undefined(insn, reserved_field=True)
    if insn.off:
        return Undefined(insn, reserved_field=True)
    return LdImm64(insn.dst, insn.src, (second.imm & op.MASK32) << 32 | insn.imm & op.MASK32)


def _decode_one(insn: Insn) -> Op:
    match insn.opcode & 7:
        case op.ALU32_CLASS.code:
            return _decode_alu(insn, 32)
        case op.ALU64_CLASS.code:
            return _decode_alu(insn, 64)
        case op.JMP_CLASS.code:
            return _decode_jmp(insn, 64)
        case op.JMP32_CLASS.code:
            return _decode_jmp(insn, 32)
        case _:
            return _decode_mem(insn)


def _operand(insn: Insn) -> Src | None:
    """The source operand, or None where the field that is not used is not zero."""
    if insn.opcode & op.SRC_REG:
        return Reg(insn.src) if insn.imm == 0 else None
    return Imm(insn.imm) if insn.src == 0 else None


def _decode_alu(insn: Insn, bits: int) -> Op:
    code = insn.opcode >> 4
    if code == op.END_CODE:
        return _decode_swap(insn)
    if code not in _ALU_CODES or (code == op.NEG.code and insn.opcode & op.SRC_REG):
        return Undefined(insn, reserved_field=False)
    row, src = _ALU.get((code, insn.off)), _operand(insn)
    if row is None or src is None or (row is op.NEG and insn.imm):
        return Undefined(insn, reserved_field=True)
    if row in op.MOVSX and (isinstance(src, Imm) or (bits == 32 and row is op.MOVSX32)):
        return Undefined(insn, reserved_field=True)
    return Alu(row, bits, insn.dst, src)


def _decode_swap(insn: Insn) -> Op:
    row = _END.get((insn.opcode & 7, insn.opcode & op.SRC_REG))
    if row is None:
        return Undefined(insn, reserved_field=False)
    if insn.src or insn.off or insn.imm not in op.END_WIDTHS:
        return Undefined(insn, reserved_field=True)
    return Swap(row, insn.imm, insn.dst)


def _decode_jmp(insn: Insn, bits: int) -> Op:
    code = insn.opcode >> 4
    if code in _JMP:
        src = _operand(insn)
        if src is None:
            return Undefined(insn, reserved_field=True)
        return Branch(_JMP[code], bits, insn.dst, src, insn.off)
    if insn.opcode == CALLX:
        return Undefined(insn, True) if insn.src or insn.off or insn.imm else CallReg(insn.dst)
    if insn.opcode & op.SRC_REG:
        return Undefined(insn, reserved_field=False)
    if code == op.JA_CODE:
        off, other = (insn.off, insn.imm) if bits == 64 else (insn.imm, insn.off)
        return Undefined(insn, True) if insn.dst or insn.src or other else Goto(off, far=bits == 32)
    if bits == 32:
        return Undefined(insn, reserved_field=False)
    if code == op.JCOND_CODE:
        return Undefined(insn, True) if insn.dst or insn.src or insn.imm else MayGoto(insn.off)
    if code == op.EXIT_CODE:
        return Undefined(insn, True) if insn.dst or insn.src or insn.imm or insn.off else Exit()
    if code == op.CALL_CODE:
        return _decode_call(insn)
    return Undefined(insn, reserved_field=False)


def _decode_call(insn: Insn) -> Op:
    if insn.dst or (insn.off and insn.src != op.CALL_KFUNC.src):
        return Undefined(insn, reserved_field=True)
    match insn.src:
        case op.CALL_HELPER.src:
            return CallHelper(insn.imm)
        case op.CALL_SUBPROG.src:
            return CallSubprog(insn.imm)
        case op.CALL_KFUNC.src:
            return CallKfunc(insn.imm, insn.off)
        case _:
            return Undefined(insn, reserved_field=True)


def _decode_mem(insn: Insn) -> Op:
    size = _SIZE[insn.opcode & 0x18]
    cls = insn.opcode & 7
    mode = insn.opcode & 0xE0
    if cls == op.LD.code:
        return _decode_packet(insn, mode, size)
    if cls == op.STX.code and mode == op.MODE_ATOMIC:
        return _decode_atomic(insn, size)
    if mode == op.MODE_MEMSX and cls == op.LDX.code and size is not op.DW:
        return Undefined(insn, True) if insn.imm else Load(insn.dst, insn.src, insn.off, size, signed=True)
    if mode != op.MODE_MEM:
        return Undefined(insn, reserved_field=False)
    if (insn.src if cls == op.ST.code else insn.imm) != 0:
        return Undefined(insn, reserved_field=True)
    if cls == op.LDX.code:
        if is_stack_arg_load(insn):
            return LoadArg(insn.dst, insn.off)
        return Load(insn.dst, insn.src, insn.off, size)
    src = Imm(insn.imm) if cls == op.ST.code else Reg(insn.src)
    if is_stack_arg_store(insn):
        return StoreArg(insn.off, src)
    return Store(insn.dst, insn.off, size, src)


def _decode_packet(insn: Insn, mode: int, size: op.Size) -> Op:
    if mode not in (op.MODE_ABS, op.MODE_IND) or size is op.DW:
        return Undefined(insn, reserved_field=False)
    if insn.dst or insn.off or (mode == op.MODE_ABS and insn.src):
        return Undefined(insn, reserved_field=True)
    return PacketLoad(size, insn.imm, insn.src if mode == op.MODE_IND else None)


def _decode_atomic(insn: Insn, size: op.Size) -> Op:
    if insn.imm == op.LOAD_ACQUIRE:
        return LoadAcquire(insn.dst, insn.src, insn.off, size)
    if insn.imm == op.STORE_RELEASE:
        return StoreRelease(insn.dst, insn.off, size, insn.src)
    if insn.imm not in _ATOMIC or size not in (op.W, op.DW):
        return Undefined(insn, reserved_field=True)
    return Atomic(insn.dst, insn.off, size, insn.src, _ATOMIC[insn.imm])


def is_stack_arg_load(insn: Insn) -> bool:
    """`rX = *(u64 *)(r11 + 8k)`, k >= 1: the one form that may name R11 as its source (SA-V-05)."""
    form = op.LDX.code | op.DW.code | op.MODE_MEM
    return insn.opcode == form and insn.src == op.STACK_ARGS and insn.off > 0 and insn.off % 8 == 0


def is_stack_arg_store(insn: Insn) -> bool:
    """`*(u64 *)(r11 - 8k) = ...`, k >= 1: the two forms that may name R11 as their destination (SA-V-05)."""
    forms = (op.STX.code | op.DW.code | op.MODE_MEM, op.ST.code | op.DW.code | op.MODE_MEM)
    return insn.opcode in forms and insn.dst == op.STACK_ARGS and insn.off < 0 and insn.off % 8 == 0


@dataclass(frozen=True, slots=True)
class Subprog:
    """A function of a program: insns `start` to `end` (exclusive). `proto` is its BTF; None is a function without func_info."""

    name: str
    start: int
    end: int
    proto: Proto | None = None
    is_global: bool = False


def joined(progs: Sequence["Prog"]) -> "Prog":
    """Several programs as one; kfuncs and maps are those of the first, which all have."""
    insns: list[Insn] = []
    subprogs: list[Subprog] = []
    mains: list[int] = []
    for prog in progs:
        mains.append(len(subprogs))
        subprogs += [replace(s, start=s.start + len(insns), end=s.end + len(insns)) for s in prog.subprogs]
        insns += prog.insns
    return Prog(tuple(insns), tuple(subprogs), progs[0].kfuncs, progs[0].maps, tuple(mains))


@dataclass(frozen=True)
class Prog:
    """Insns, subprogs in the order of their insns (the first is the main prog), the kfuncs it may call, and its maps.

    `kfuncs[i]` has BTF id `i + 1`; an LD_IMM64 of the pseudo forms MAP_INDEX and MAP_INDEX_VALUE names `maps[i]` by `i`.
    Several programs that tail call each other are one: `mains` are the subprogs with which they begin, in their order.
    `traced` is given of a program that traces a function.
    """

    insns: tuple[Insn, ...]
    subprogs: tuple[Subprog, ...]
    kfuncs: tuple[Proto, ...] = ()
    maps: tuple[Map, ...] = ()
    mains: tuple[int, ...] = (0,)
    traced: TracedCtx | None = None

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """The typed form of every slot."""
        return decode(self.insns)

    @cached_property
    def _index_of_start(self) -> dict[int, int]:
        return {subprog.start: index for index, subprog in enumerate(self.subprogs)}

    def part(self, number: int) -> "Prog":
        """One of several programs by itself, with the kfuncs and maps of all."""
        first = self.mains[number]
        last = self.mains[number + 1] if number + 1 < len(self.mains) else len(self.subprogs)
        begin = self.subprogs[first].start
        subprogs = tuple(replace(s, start=s.start - begin, end=s.end - begin) for s in self.subprogs[first:last])
        return Prog(self.insns[begin : begin + subprogs[-1].end], subprogs, self.kfuncs, self.maps)

    @property
    def tail_calls(self) -> bool:
        """Whether it has prog arrays, without which nobody can tail call it."""
        return any(map_.has_progs for map_ in self.maps)

    def program_of(self, subprog: int) -> int:
        """The number of the program that a subprog belongs to."""
        return max(number for number, main in enumerate(self.mains) if main <= subprog)

    def subprog_at(self, insn: int) -> int | None:
        """Index of the subprog that starts at `insn`, or None."""
        return self._index_of_start.get(insn)

    def subprog_of(self, insn: int) -> int:
        """Index of the subprog that `insn` lies in."""
        return next(i for i, s in enumerate(self.subprogs) if s.start <= insn < s.end)

    def kfunc(self, btf_id: int) -> Proto | None:
        """The kfunc with this BTF id, or None."""
        return self.kfuncs[btf_id - 1] if 1 <= btf_id <= len(self.kfuncs) else None

    def where(self, insn: int) -> str:
        """An insn as people name it: `main 3`, counted from its subprog's first insn."""
        subprog = self.subprogs[self.subprog_of(insn)]
        return f"{subprog.name} {insn - subprog.start}"
