"""Which of R1-R5 a subprog without a prototype reads as arguments."""

from harness.isa.calls import HELPERS
from harness.isa.insn import (
    Alu,
    Atomic,
    Branch,
    CallHelper,
    CallKfunc,
    CallSubprog,
    Exit,
    Goto,
    LdImm64,
    Load,
    LoadAcquire,
    LoadArg,
    MayGoto,
    Op,
    Prog,
    Reg,
    Store,
    StoreArg,
    StoreRelease,
    Swap,
)  # fmt: skip
from harness.isa.opcodes import CMPXCHG, MOV, MOVSX
from harness.isa.slots import callee_slots, is_pair, slots_of

_SCRATCH = frozenset(range(1, 6))


def _reads_writes(prog: Prog, index: int, typed: Op) -> tuple[frozenset[int], frozenset[int]]:
    """Registers that an insn reads, and those it overwrites. A call to a subprog without prototype reads what it reads."""
    src = (
        frozenset({typed.src.n})
        if isinstance(typed, Alu | Store | StoreArg | Branch) and isinstance(typed.src, Reg)
        else frozenset[int]()
    )
    match typed:
        case Alu():
            return (src if typed.op is MOV or typed.op in MOVSX else src | {typed.dst}), frozenset({typed.dst})
        case LdImm64() | LoadArg():
            return frozenset(), frozenset({typed.dst})
        case Swap():
            return frozenset({typed.dst}), frozenset({typed.dst})
        case Atomic():
            reads = frozenset({typed.base, typed.src}) | ({0} if typed.op is CMPXCHG else set())
            return reads, frozenset()
        case StoreRelease():
            return frozenset({typed.base, typed.src}), frozenset()
        case Load() | LoadAcquire():
            return frozenset({typed.base}), frozenset({typed.dst})
        case Store():
            return src | {typed.base}, frozenset()
        case StoreArg():
            return src, frozenset()
        case Branch():
            return src | {typed.dst}, frozenset()
        case CallHelper():
            helper = HELPERS.get(typed.id)
            return frozenset(range(1, 1 + len(helper.proto.params) if helper else 1)), _SCRATCH | {0}
        case CallKfunc():
            kfunc = prog.kfunc(typed.btf_id)
            return frozenset(range(1, 1 + min(5, len(slots_of(kfunc)) if kfunc else 0))), _SCRATCH | {0}
        case CallSubprog():
            callee = prog.subprog_at(index + 1 + typed.off)
            proto = prog.subprogs[callee].proto if callee is not None else None
            # Without a prototype the callee's own needs would have to be followed: claim none, so that none is accused.
            return frozenset(range(1, 1 + min(5, len(callee_slots(proto))))) if proto else frozenset(), _SCRATCH | {0}
        case Exit():
            proto = prog.subprogs[prog.subprog_of(index)].proto
            return frozenset({0, 2} if proto is not None and is_pair(proto.result) else {0}), frozenset()
        case _:
            return frozenset(), frozenset()


def args_read(prog: Prog, subprog: int) -> frozenset[int]:
    """Those of R1-R5 that some path of the subprog reads before it writes them."""
    start, end = prog.subprogs[subprog].start, prog.subprogs[subprog].end
    live: dict[int, frozenset[int]] = {}
    changed = True
    while changed:
        changed = False
        for index in range(end - 1, start - 1, -1):
            typed = prog.ops[index]
            reads, writes = _reads_writes(prog, index, typed)
            after = frozenset[int]()
            for successor in _successors(index, typed):
                after |= live.get(successor, frozenset())
            here = reads | (after - writes)
            if here != live.get(index, frozenset()):
                live[index], changed = here, True
    return live.get(start, frozenset()) & _SCRATCH


def _successors(index: int, typed: Op) -> tuple[int, ...]:
    match typed:
        case Exit():
            return ()
        case Goto():
            return (index + 1 + typed.off,)
        case Branch() | MayGoto():
            return (index + 1, index + 1 + typed.off)
        case _:
            return (index + 1,)
