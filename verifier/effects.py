"""Which rules an insn must keep, and what it changes in the running frame; calls and exits are the walk's."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import assert_never

from harness.isa import opcodes as op
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
    LdImm64,
    Load,
    LoadAcquire,
    LoadArg,
    MayGoto,
    Op,
    PacketLoad,
    Reg,
    Src,
    Store,
    StoreArg,
    StoreRelease,
    Swap,
    Undefined,
)  # fmt: skip
from harness.isa.maps import Map
from verifier import rules
from verifier.scalar import Scalar, alu
from verifier.state import (
    NOT_INIT,
    STACK_BYTES,
    UNKNOWN,
    Bytes,
    CtxPtr,
    Frame,
    FramePtr,
    MapPtr,
    Pointer,
    Region,
    RegState,
    State,
    ValuePtr,
)  # fmt: skip


def source(frame: Frame, src: Src) -> RegState:
    """What a source operand holds: a constant is a number of 64 bits, its sign extended."""
    return Scalar.const(src.value) if isinstance(src, Imm) else frame.regs[src.n]


def _readable(*sources: Src | int) -> Iterator[rules.Rule]:
    for src in sources:
        if isinstance(src, int):
            yield rules.Readable(src)
        elif isinstance(src, Reg):
            yield rules.Readable(src.n)


def requirements(insn: Op, frame: Frame, incoming: int) -> Iterator[rules.Rule]:
    """The rules of one insn, in Linux's order; `incoming` is how many stack arguments the running function takes."""
    match insn:
        case Alu():
            yield from _alu_rules(insn, frame)
        case Swap():
            yield from _readable(insn.dst)
            yield rules.Writable(insn.dst)
        case LdImm64():
            yield rules.Writable(insn.dst)
        case Atomic() | LoadAcquire() | StoreRelease():
            yield from _atomic_rules(insn, frame)
        case PacketLoad():
            yield rules.NoPacket()
        case Load():
            yield rules.Readable(insn.base)
            yield rules.Writable(insn.dst)
            yield from _access_rules(insn.base, frame.regs[insn.base], insn.off, insn.size.bytes, is_write=False)
        case Store():
            yield from _readable(insn.src, insn.base)
            yield from _access_rules(insn.base, frame.regs[insn.base], insn.off, insn.size.bytes, is_write=True)
        case LoadArg():
            yield rules.Writable(insn.dst)
            yield rules.StackArgLoadFirst()
            yield rules.StackArgReadLimit(insn.off, incoming)
        case StoreArg():
            yield from _readable(insn.src)
            yield rules.StackArgWriteLimit(insn.off)
        case Branch():
            yield from _readable(insn.src, insn.dst)
        case (
            Goto() | MayGoto() | CallHelper() | CallSubprog() | CallKfunc() | CallReg() | Exit() | Hole() | Undefined()
        ):
            pass
        case _:
            assert_never(insn)


def _atomic_rules(insn: Atomic | LoadAcquire | StoreRelease, frame: Frame) -> Iterator[rules.Rule]:
    """Linux kernel/bpf/verifier.c, check_atomic()."""
    base, size = frame.regs[insn.base], insn.size.bytes
    if isinstance(insn, LoadAcquire):
        yield rules.Readable(insn.base)
        yield rules.AtomicMemory(insn.base, base, is_load=True)
        yield rules.Writable(insn.dst)
        yield from _access_rules(insn.base, base, insn.off, size, is_write=False, is_atomic=True)
        return
    yield from _readable(insn.src, insn.base)
    if isinstance(insn, Atomic) and insn.op is op.CMPXCHG:
        yield rules.Readable(0)
    yield rules.AtomicMemory(insn.base, base, is_load=False)
    if isinstance(insn, Atomic):
        if insn.op.fetch and insn.op is not op.CMPXCHG:
            yield rules.Writable(insn.src)
        yield from _access_rules(insn.base, base, insn.off, size, is_write=False, is_atomic=True)
    yield from _access_rules(insn.base, base, insn.off, size, is_write=True, is_atomic=True)


def _alu_rules(insn: Alu, frame: Frame) -> Iterator[rules.Rule]:
    yield from _readable(insn.src)
    if insn.op is not op.MOV and insn.op not in op.MOVSX:
        yield rules.Readable(insn.dst)
    if isinstance(insn.src, Imm) and insn.op in (op.DIV, op.MOD, op.SDIV, op.SMOD):
        yield rules.DivisorNotZero(insn.src.value)
    if isinstance(insn.src, Imm) and insn.op in (op.LSH, op.RSH, op.ARSH):
        yield rules.ShiftInRange(insn.src.value, insn.bits)
    yield rules.Writable(insn.dst)
    yield rules.PointerArithmetic(insn.op, insn.bits, insn.dst, frame.regs[insn.dst], source(frame, insn.src))
    yield rules.PointerReach(insn.op, insn.bits, frame.regs[insn.dst], source(frame, insn.src))


def _access_rules(
    reg: int, base: RegState, off: int, size: int, *, is_write: bool, is_atomic: bool = False
) -> Iterator[rules.Rule]:
    yield rules.PointerAccess(reg, base)
    yield from region_rules(reg, base, off, size, is_write=is_write, is_atomic=is_atomic)


def region_rules(
    reg: int, base: RegState, off: int, size: int, *, is_write: bool, is_atomic: bool = False
) -> Iterator[rules.Rule]:
    """What must hold of an access to the memory behind a pointer."""
    if isinstance(base, FramePtr):
        yield rules.StackAligned(base, off, size)
        known = rules.StackEnd if -STACK_BYTES <= base.off + off < 0 else rules.StackBounds
        bounds = known if base.var is None else rules.VariableStackBounds
        yield bounds(reg, base, off, size, is_write)
    elif isinstance(base, CtxPtr) and base.traced is not None:
        yield rules.TracedCtxAccess(reg, base, off, size, is_write)
    elif isinstance(base, CtxPtr):
        yield rules.CtxBounds(reg, base, off, size)
    elif isinstance(base, ValuePtr):
        if is_atomic:
            yield rules.ValueAligned(base, off, size)
        if is_write:
            yield rules.MapWritable(base, off, size)
        yield rules.ValueBounds(reg, base, off, size)


def _constant(insn: LdImm64, maps: Sequence[Map]) -> RegState:
    match insn.pseudo:
        case op.MAP_INDEX:
            return MapPtr(maps[insn.value & op.MASK32])
        case op.MAP_INDEX_VALUE:
            return ValuePtr(maps[insn.value & op.MASK32], insn.value >> 32)
        case _:
            return Scalar.const(insn.value)


def effect(insn: Op, state: State, maps: Sequence[Map] = ()) -> int | None:
    """Applies an insn that stays in its function; gives the register that it wrote, if any. `maps` are the program's."""
    frame = state.top
    match insn:
        case Alu():
            frame.regs[insn.dst] = _alu(insn, frame.regs[insn.dst], source(frame, insn.src))
            return insn.dst
        case Swap():
            frame.regs[insn.dst] = _swapped(insn, frame.regs[insn.dst])
            return insn.dst
        case LdImm64():
            frame.regs[insn.dst] = _constant(insn, maps)
            return insn.dst
        case Load() | LoadAcquire():
            frame.regs[insn.dst] = _load(state, frame.regs[insn.base], insn)
            return insn.dst
        case Store():
            _store(state, frame.regs[insn.base], insn, source(frame, insn.src))
        case StoreRelease():
            _store(state, frame.regs[insn.base], insn, frame.regs[insn.src])
        case Atomic():
            return _atomic(state, insn)
        case LoadArg():
            caller = state.frames[-2].slots if len(state.frames) > 1 else []
            frame.regs[insn.dst] = caller[insn.slot] if insn.slot < len(caller) else NOT_INIT
            return insn.dst
        case StoreArg():
            frame.slots += [NOT_INIT] * (insn.slot + 1 - len(frame.slots))
            frame.slots[insn.slot] = source(frame, insn.src)
            frame.no_stack_arg_load = True
        case (
            Goto() | MayGoto() | Branch() | CallHelper() | CallSubprog() | CallKfunc() | CallReg() | PacketLoad() | Exit()
            | Hole() | Undefined()
        ):  # fmt: skip
            pass
        case _:
            assert_never(insn)
    return None


def _swapped(insn: Swap, value: RegState) -> RegState:
    if isinstance(value, Scalar) and value.value is not None:
        return Scalar.const(insn.op.sem(value.value & op.MASK64, insn.width // 8))
    return UNKNOWN if insn.width == 64 else Scalar.unknown(insn.width).extended()


def _atomic(state: State, insn: Atomic) -> int | None:
    """The old value goes where it is fetched to; what is in memory then, nobody follows."""
    frame = state.top
    base = frame.regs[insn.base]
    old = _load(state, base, insn)
    _store(state, base, insn, UNKNOWN)
    if not insn.op.fetch:
        return None
    reg = 0 if insn.op is op.CMPXCHG else insn.src
    frame.regs[reg] = old
    return reg


def _alu(insn: Alu, dst: RegState, src: RegState) -> RegState:
    if insn.op is op.MOV and insn.bits == 64:
        return src
    if isinstance(dst, Pointer) or isinstance(src, Pointer):
        return _pointer_alu(insn, dst, src)
    left = dst if isinstance(dst, Scalar) else UNKNOWN
    right = src if isinstance(src, Scalar) else UNKNOWN
    if insn.bits == 64:
        return alu(insn.op, left, right)
    return alu(insn.op, left.low(32), right.low(32)).extended()


def _pointer_alu(insn: Alu, dst: RegState, src: RegState) -> RegState:
    """A pointer moved by a number; what else the rules let through is some number."""
    pointer, number = (dst, src) if isinstance(dst, Pointer) else (src, dst)
    if insn.bits == 32 or insn.op not in (op.ADD, op.SUB) or not isinstance(number, Scalar):
        return Scalar.unknown(32).extended() if insn.bits == 32 else UNKNOWN
    if isinstance(pointer, MapPtr):
        return pointer
    assert isinstance(pointer, Region)
    return moved(pointer, number if insn.op is op.ADD else alu(op.NEG, number, number))


def moved(pointer: Region, by: Scalar) -> Region:
    """The pointer plus a number."""
    var, off = pointer.var, pointer.off
    if by.value is not None and abs(by.smin) < 1 << 29 and abs(off + by.smin) < 1 << 29:
        off += by.smin
    else:
        var = by if var is None else alu(op.ADD, var, by)
    return replace(pointer, off=off, var=var)


def _load(state: State, base: RegState, insn: Load | LoadAcquire | Atomic) -> RegState:
    """A slot that was stored whole comes back as it was; a part of a known number is a known number; else anything."""
    value = _plain_load(state, base, insn)
    if isinstance(insn, Load) and insn.signed and isinstance(value, Scalar):
        return alu(next(row for row in op.MOVSX if row.off == insn.size.bytes * 8), value, value)
    return value


def _plain_load(state: State, base: RegState, insn: Load | LoadAcquire | Atomic) -> RegState:
    size = insn.size.bytes
    anything = Scalar.unknown(size * 8).extended()
    if isinstance(base, ValuePtr) and base.map.is_constant:
        offset = rules.whole_offset(base).value
        if offset is None or not isinstance(insn, Load):
            return anything
        raw = base.map.value(0)[offset + insn.off :][:size]
        return Scalar.const(int.from_bytes(raw, "little")) if base.map.max_entries == 1 else anything
    if not isinstance(base, FramePtr) or base.var is not None:
        return anything
    at = base.off + insn.off
    whole = state.frames[base.frame].stack.get(at // 8 * 8)
    if whole is None:
        return anything
    if isinstance(whole, Bytes):
        return _part(whole, at % 8, size) or anything
    if size == 8:
        return whole
    if at % 8 == 0 and isinstance(whole, Scalar):
        return whole.low(size * 8).extended()
    return anything


def _store(state: State, base: RegState, insn: Store | StoreRelease | Atomic, value: RegState) -> None:
    if not isinstance(base, FramePtr):
        return
    stack, size = state.frames[base.frame].stack, insn.size.bytes
    low, high = rules.reach(base, insn.off)
    if base.var is None and size == 8:
        stack[low] = value
    elif base.var is None:
        _store_part(stack, low, size, value)
    else:
        for slot in range(low // 8 * 8, high + size, 8):
            stack.pop(slot, None)


def _part(slot: Bytes, at: int, size: int) -> Scalar | None:
    """What `size` bytes from byte `at` of a slot are known to hold."""
    wanted = (1 << size) - 1 << at
    if slot.zeros & wanted == wanted:
        return Scalar.const(0)
    if slot.spilled is not None and at == 0 and size <= slot.spilled[1]:
        return slot.spilled[0].low(size * 8).extended()
    return None


def _store_part(stack: dict[int, RegState | Bytes], low: int, size: int, value: RegState) -> None:
    """Fewer than 8 bytes, within one slot: zeros are kept byte by byte, a number at the slot's lowest address as it is."""
    at, slot = low % 8, low // 8 * 8
    old = stack.get(slot)
    written = (1 << size) - 1 << at
    zeros = old.zeros & ~written if isinstance(old, Bytes) else 0
    number = value.low(size * 8) if isinstance(value, Scalar) else None
    spilled = (number, size) if number is not None and at == 0 else None
    if number is not None and at and number.value == 0:
        zeros |= written
    if zeros or spilled:
        stack[slot] = Bytes(zeros, spilled)
    else:
        stack.pop(slot, None)
