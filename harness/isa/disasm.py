"""Insns back to text: as the verifier's log writes them, and so that the assembler reads them again."""

from typing import assert_never

from harness.isa import opcodes as op
from harness.isa.calls import HELPERS_BY_NAME
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
    LdImm64,
    Load,
    LoadAcquire,
    LoadArg,
    MayGoto,
    Op,
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


def _signed_off(off: int) -> str:
    return f"{'+' if off >= 0 else '-'}{abs(off)}"


def reg_name(n: int, bits: int) -> str:
    """`r1` or `w1`."""
    return f"{'r' if bits == 64 else 'w'}{n}"


def _src_text(src: Src, bits: int) -> str:
    return reg_name(src.n, bits) if isinstance(src, Reg) else str(src.value)


def op_text(insn: Op) -> str:
    """One insn as the verifier's log writes it, without its opcode. Linux kernel/bpf/disasm.c, print_bpf_insn()."""
    match insn:
        case Alu():
            dst = reg_name(insn.dst, insn.bits)
            if insn.op is op.NEG:
                return f"{dst} = -{dst}"
            if insn.op in op.MOVSX:
                return f"{dst} {insn.op.symbol}{_src_text(insn.src, insn.bits)}"
            return f"{dst} {insn.op.symbol} {_src_text(insn.src, insn.bits)}"
        case Swap():
            return f"r{insn.dst} = {insn.op.name}{insn.width} r{insn.dst}"
        case LdImm64():
            return f"r{insn.dst} = {_constant_text(insn)} ll"
        case Load() | LoadArg() | Store() | StoreArg() | Atomic() | LoadAcquire() | StoreRelease() | PacketLoad():
            return _memory_text(insn)
        case Goto():
            return f"{'gotol' if insn.far else 'goto'} pc{_signed_off(insn.off)}"
        case MayGoto():
            return f"may_goto pc{_signed_off(insn.off)}"
        case Branch():
            src = reg_name(insn.src.n, insn.bits) if isinstance(insn.src, Reg) else f"{insn.src.value & op.MASK32:#x}"
            return f"if {reg_name(insn.dst, insn.bits)} {insn.op.symbol} {src} goto pc{_signed_off(insn.off)}"
        case CallHelper():
            return f"call {insn.id}"
        case CallSubprog():
            return f"call pc{_signed_off(insn.off)}"
        case CallKfunc():
            return f"call kernel-function#{insn.btf_id}"
        case CallReg():
            return f"callx r{insn.reg}"
        case Exit():
            return "exit"
        case Hole():
            return ""
        case Undefined():
            raw = int.from_bytes(insn.insn.to_bytes(), "little")
            return f".quad {raw:#018x}"
        case _:
            assert_never(insn)


def _memory_text(
    insn: Load | LoadArg | Store | StoreArg | Atomic | LoadAcquire | StoreRelease | PacketLoad,
) -> str:
    match insn:
        case Load() | LoadArg():
            base, size = (insn.base, insn.size) if isinstance(insn, Load) else (op.STACK_ARGS, op.DW)
            name = f"s{size.bytes * 8}" if isinstance(insn, Load) and insn.signed else size.name
            return f"r{insn.dst} = *({name} *)(r{base} {_signed_off(insn.off)})"
        case Atomic():
            return _atomic_text(insn)
        case LoadAcquire():
            return f"r{insn.dst} = load_acquire(({insn.size.name} *)(r{insn.base} {_signed_off(insn.off)}))"
        case StoreRelease():
            return f"store_release(({insn.size.name} *)(r{insn.base} {_signed_off(insn.off)}), r{insn.src})"
        case PacketLoad():
            index = "" if insn.index is None else f"r{insn.index} + "
            return f"r0 = *({insn.size.name} *)skb[{index}{insn.imm}]"
        case Store() | StoreArg():
            base, size = (insn.base, insn.size) if isinstance(insn, Store) else (op.STACK_ARGS, op.DW)
            return f"*({size.name} *)(r{base} {_signed_off(insn.off)}) = {_src_text(insn.src, 64)}"
        case _:
            assert_never(insn)


def _constant_text(insn: LdImm64) -> str:
    low, high = insn.value & op.MASK32, insn.value >> 32
    match insn.pseudo:
        case op.MAP_FD:
            return f"map_by_fd({low})"
        case op.MAP_VALUE:
            return f"map_val(map_by_fd({low})) + {high}"
        case op.BTF_VAR:
            return f"var_addr({low})"
        case op.CODE_ADDR:
            return f"code_addr(pc{_signed_off(op.signed(low, 32))})"
        case op.MAP_INDEX:
            return f"map_by_idx({low})"
        case op.MAP_INDEX_VALUE:
            return f"map_val(map_by_idx({low})) + {high}"
        case _:
            return f"{insn.value:#x}"


def _atomic_text(insn: Atomic) -> str:
    place = f"({insn.size.name} *)(r{insn.base} {_signed_off(insn.off)})"
    if insn.op.symbol:
        return f"lock *{place} {insn.op.symbol} r{insn.src}"
    word = f"atomic{'64' if insn.size is op.DW else ''}_{insn.op.name}"
    if insn.op is op.CMPXCHG:
        return f"r0 = {word}({place}, r0, r{insn.src})"
    return f"r{insn.src} = {word}({place}, r{insn.src})"


def _map_text(prog: Prog, insn: LdImm64) -> str:
    """A constant that stands for a map of the program, by the map's name; empty for any other."""
    number = insn.value & op.MASK32
    if insn.pseudo not in (op.MAP_INDEX, op.MAP_INDEX_VALUE) or number >= len(prog.maps):
        return ""
    name = prog.maps[number].name
    return f"r{insn.dst} = " + (name if insn.pseudo == op.MAP_INDEX else f"map_val({name}) + {insn.value >> 32}")


def insn_text(prog: Prog, index: int) -> str:
    """Insn `index` of a program as the verifier's log writes it: `(79) r1 = *(u64 *)(r11 +8)`, callees by name."""
    typed = prog.ops[index]
    text = op_text(typed)
    if isinstance(typed, CallKfunc):
        kfunc = prog.kfunc(typed.btf_id)
        text = f"call {kfunc.name}#{typed.btf_id}" if kfunc else text
    elif isinstance(typed, LdImm64):
        text = (_map_text(prog, typed) or text).removesuffix(" ll")
    elif isinstance(typed, CallHelper):
        from_id = {helper.id: helper.name for helper in HELPERS_BY_NAME.values()}
        text = f"call {from_id.get(typed.id, 'unknown')}#{typed.id}"
    return f"({prog.insns[index].opcode:02x}) {text}"
