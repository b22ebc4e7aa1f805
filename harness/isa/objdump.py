"""Insns as llvm-objdump prints them: `r1 += 0x5`, `w1 = *(u8 *)(r2 + 0x0)`, `if r1 > r2 goto +0x1 <main+0x10>`."""

from typing import assert_never

from harness.isa import opcodes as op
from harness.isa.disasm import reg_name
from harness.isa.insn import (
    INSN_BYTES,
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
    LdImm64,
    Load,
    LoadAcquire,
    LoadArg,
    MayGoto,
    PacketLoad,
    Prog,
    Reg,
    Src,
    Store,
    StoreArg,
    StoreRelease,
    Swap,
    Undefined,
)  # fmt: skip


def _number(value: int) -> str:
    return f"-{-value:#x}" if value < 0 else f"{value:#x}"


def _src(src: Src, bits: int) -> str:
    return reg_name(src.n, bits) if isinstance(src, Reg) else _number(src.value)


def _place(base: int, off: int) -> str:
    return f"r{base} {'-' if off < 0 else '+'} {abs(off):#x}"


def _bits(size: op.Size) -> int:
    """Of the register that LLVM names for an access: loads and stores of less than 64 bits have a w register."""
    return 64 if size is op.DW else 32


def objdump_text(prog: Prog, index: int) -> str:
    """Insn `index` of a program; empty for the second slot of a constant, `<unknown>` for no insn."""
    insn = prog.ops[index]
    match insn:
        case Alu():
            dst = reg_name(insn.dst, insn.bits)
            if insn.op is op.NEG:
                return f"{dst} = -{dst}"
            gap = "" if insn.op in op.MOVSX else " "
            return f"{dst} {insn.op.symbol}{gap}{_src(insn.src, insn.bits)}"
        case Swap():
            return f"r{insn.dst} = {insn.op.name}{insn.width} r{insn.dst}"
        case LdImm64():
            return f"r{insn.dst} = {_number(op.signed(insn.value, 64))} ll"
        case Load() | LoadArg() | LoadAcquire() | Store() | StoreArg() | StoreRelease() | PacketLoad():
            return _memory(insn)
        case Atomic():
            return _atomic(insn)
        case Goto() | MayGoto() | Branch():
            return _jump(prog, index, insn)
        case CallHelper(number) | CallKfunc(number) | CallSubprog(number):
            return f"call {_number(number)}"
        case CallReg():
            return f"callx r{insn.reg}"
        case Exit():
            return "exit"
        case Hole():
            return ""
        case Undefined():
            return "<unknown>"
        case _:
            assert_never(insn)


def _memory(insn: Load | LoadArg | LoadAcquire | Store | StoreArg | StoreRelease | PacketLoad) -> str:
    match insn:
        case Load():
            name = f"s{insn.size.bytes * 8}" if insn.signed else insn.size.name
            dst = reg_name(insn.dst, 64 if insn.signed else _bits(insn.size))
            return f"{dst} = *({name} *)({_place(insn.base, insn.off)})"
        case LoadArg():
            return f"r{insn.dst} = *(u64 *)({_place(op.STACK_ARGS, insn.off)})"
        case LoadAcquire():
            place = f"({insn.size.name} *)({_place(insn.base, insn.off)})"
            return f"{reg_name(insn.dst, _bits(insn.size))} = load_acquire({place})"
        case Store():
            return f"*({insn.size.name} *)({_place(insn.base, insn.off)}) = {_src(insn.src, _bits(insn.size))}"
        case StoreArg():
            return f"*(u64 *)({_place(op.STACK_ARGS, insn.off)}) = {_src(insn.src, 64)}"
        case StoreRelease():
            place = f"({insn.size.name} *)({_place(insn.base, insn.off)})"
            return f"store_release({place}, {reg_name(insn.src, _bits(insn.size))})"
        case PacketLoad():
            at = _number(insn.imm) if insn.index is None else f"r{insn.index}"
            return f"r0 = *({insn.size.name} *)skb[{at}]"
        case _:
            assert_never(insn)


def _atomic(insn: Atomic) -> str:
    bits, place = 8 * insn.size.bytes, _place(insn.base, insn.off)
    src = reg_name(insn.src, bits)
    if insn.op.symbol:
        return f"lock *({insn.size.name} *)({place}) {insn.op.symbol} {src}"
    suffix = "_64" if bits == 64 else "32_32"
    if insn.op is op.CMPXCHG:
        r0 = reg_name(0, bits)
        return f"{r0} = cmpxchg{suffix}({place}, {r0}, {src})"
    if insn.op is op.XCHG:
        return f"{src} = xchg{suffix}({place}, {src})"
    return f"{src} = atomic_{insn.op.name}(({insn.size.name} *)({place}), {src})"


def _jump(prog: Prog, index: int, insn: Goto | MayGoto | Branch) -> str:
    """The distance in insns, and the target by its function and its bytes from there."""
    target, subprog = index + 1 + insn.off, prog.subprogs[prog.subprog_of(index)]
    distance = f"{'-' if insn.off < 0 else '+'}{abs(insn.off):#x}"
    shown = f"{distance} <{subprog.name}{_beyond(INSN_BYTES * (target - subprog.start))}>"
    if isinstance(insn, MayGoto):
        return f"may_goto {shown}"
    if isinstance(insn, Goto):
        return f"{'gotol' if insn.far else 'goto'} {shown}"
    condition = f"{reg_name(insn.dst, insn.bits)} {insn.op.symbol} {_src(insn.src, insn.bits)}"
    return f"if {condition} goto {shown}"


def _beyond(offset: int) -> str:
    return f"+{offset:#x}" if offset > 0 else ""
