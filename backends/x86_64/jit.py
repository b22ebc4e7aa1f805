"""A BPF JIT for x86-64: the bytes of Linux 7.2's own, apart from addresses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate
from types import MappingProxyType
from typing import Final, assert_never

from backends.abi import InReg, Location
from backends.image import Addresses, CompileError, Image, Poke, Symbol, Tail
from backends.marshal import SPARE, CallsC, Marshal, Move
from backends.x86_64 import encode as x86
from backends.x86_64 import lower
from backends.x86_64.encode import EncodeError, Gpr, Mem
from backends.x86_64.relax import CALL_BYTES, Call, Jump, Piece, relax
from backends.x86_64.tailcall import CLEAR_COUNT, Direct, TailCalls
from harness.isa.calls import HELPERS, TAIL_CALL
from harness.isa.disasm import insn_text
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
    Prog,
    Reg,
    Store,
    StoreArg,
    StoreRelease,
    Swap,
    Undefined,
)  # fmt: skip
from harness.isa.opcodes import DIV, MASK64, MOD, SDIV, SMOD
from harness.isa.verified import FuncFacts, TailSite, Verified


@dataclass(frozen=True, slots=True)
class Options:
    """What the kernel decides by configuration and CPU: landing pads for indirect branches, shifts by any register."""

    ibt: bool = True
    bmi2: bool = True
    tail: Tail = Tail.BASE


DEFAULT: Final = Options()
RESULT_HIGH: Final = Gpr.RDX  # psABI 3.2.3, "Returning of Values"


@dataclass(frozen=True, slots=True)
class Func:
    """One subprog on its way to native code.

    `first_exit`: the insn that gets the epilogue. `below`: what follows the BPF stack downwards, registers saved and,
    as a number, the bytes of the outgoing area.
    """

    start: int
    ops: tuple[Op, ...]
    facts: FuncFacts
    first_exit: int | None
    below: tuple[Gpr | int, ...]
    is_main: bool = False
    tails: Mapping[int, TailSite] = field(default_factory=dict)  # by insn of the whole program

    @property
    def stack_bytes(self) -> int:
        """The BPF stack, right below the saved rbp."""
        return (self.facts.stack_depth + 7) // 8 * 8

    @property
    def saved(self) -> list[Gpr]:
        """The registers saved, in the order of the pushes."""
        return [item for item in self.below if isinstance(item, Gpr)]


@dataclass(frozen=True, slots=True)
class Native:
    """A subprog translated: `starts[i]` is the offset of insn `i` from the subprog's entry, the last one its size."""

    prologue: bytes
    pieces: tuple[Piece, ...]
    starts: tuple[int, ...]


@cache
def marshal() -> Marshal:
    """Calls of C functions with arguments of more than 8 bytes."""
    from backends.x86_64.trampoline import MODEL, RULES  # most programs do without

    return Marshal(MODEL, RULES)


class X8664Jit(CallsC):
    """Compiles for x86-64. Each method is one decision of the calling convention, or one of the lowering."""

    arch = "x86_64"
    marshal = staticmethod(marshal)

    def __init__(self, options: Options = DEFAULT) -> None:
        self.options = options
        self.tails = self.tail_calls()

    def tail_calls(self) -> TailCalls:
        """What lowers tail calls."""
        return TailCalls(self.options.tail, self.landing_offset())

    def landing_offset(self) -> int:
        """From a main prog's entry to where tail calls land: X86_TAIL_CALL_OFFSET. TC-70."""
        return 12 + (4 if self.options.ibt else 0)

    def compile(self, verified: Verified, addresses: Addresses) -> Image:
        """Native code for `addresses`: the subprogs one after the other. Raises CompileError."""
        prog = verified.prog
        natives = [self.translate(prog, i, facts, verified.tail_calls) for i, facts in enumerate(verified.funcs)]
        entries = list(accumulate((native.starts[-1] for native in natives), initial=0))
        code = b"".join(_link(prog, i, native, entries, addresses) for i, native in enumerate(natives))
        return Image(
            arch=self.arch,
            base=addresses.base,
            code=code,
            symbols=tuple(
                Symbol(subprog.name, entries[i], natives[i].starts[-1], i) for i, subprog in enumerate(prog.subprogs)
            ),
            insn_offsets=tuple(
                entry + start for entry, native in zip(entries, natives, strict=False) for start in native.starts[:-1]
            ),
            landing_pads=self.options.ibt,
            source=verified,
            landing=self.landing_offset() if prog.tail_calls else 0,
            landing_frame=8 if prog.tail_calls else 0,
            pokes=tuple(
                Poke(entry + start + piece.bypass, entry + start + piece.target, piece.map, piece.key)
                for entry, native in zip(entries, natives, strict=False)
                for start, piece in zip(native.starts, native.pieces, strict=False)
                if isinstance(piece, Direct)
            ),
            tail=self.options.tail,
        )

    def translate(
        self, prog: Prog, index: int, facts: FuncFacts, tails: Mapping[int, TailSite] = MappingProxyType({})
    ) -> Native:
        """One subprog, without the addresses it calls."""
        func = replace(self.func(prog, index, facts), is_main=index in prog.mains, tails=tails)
        pieces: list[Piece] = []
        for at, insn in enumerate(func.ops):
            try:
                pieces.append(self.lower(prog, func, at, insn))
            except (CompileError, EncodeError) as error:
                raise _at(prog, func.start + at, error) from error
        prologue = self.prologue(func)
        return Native(prologue, tuple(pieces), relax(len(prologue), pieces))

    def func(self, prog: Prog, index: int, facts: FuncFacts) -> Func:
        """The subprog and its frame."""
        subprog = prog.subprogs[index]
        insns, ops = prog.insns[subprog.start : subprog.end], prog.ops[subprog.start : subprog.end]
        if for_c := self.c_stack_bytes(prog, ops):
            facts = replace(facts, outgoing_slots=max(facts.outgoing_slots, 1 + for_c // 8))  # slot 0 is in r9
        first_exit = next((at for at, insn in enumerate(ops) if isinstance(insn, Exit)), None)
        below = self.below_stack(self.saved_regs(insns), self.outgoing_bytes(facts))
        return Func(subprog.start, ops, facts, first_exit, below)

    # The frame.

    def saved_regs(self, insns: Sequence[Insn]) -> tuple[Gpr, ...]:
        """R6-R9 where any dst or src field names them, in the order of the pushes."""
        named = {insn.dst for insn in insns} | {insn.src for insn in insns}
        return tuple(lower.REGMAP[n] for n in lower.CALLEE_SAVED if n in named)

    def outgoing_bytes(self, facts: FuncFacts) -> int:
        """The area for arguments 7 to 12 of the call with the most of them; argument 6 is in r9."""
        return 8 * max(facts.outgoing_slots - 1, 0)

    def below_stack(self, saved: tuple[Gpr, ...], outgoing_bytes: int) -> tuple[Gpr | int, ...]:
        """The order of the frame below the BPF stack, downwards: the outgoing area has to be at rsp."""
        return (*saved, outgoing_bytes)

    def outgoing_disp(self, func: Func, slot: int) -> int:
        """Where outgoing slot 1 (argument 7) and up is, from rbp: slot 1 at the bottom of its area."""
        area = next(i for i, item in enumerate(func.below) if isinstance(item, int))
        down_to_area = sum(item if isinstance(item, int) else 8 for item in func.below[: area + 1])
        return -func.stack_bytes - down_to_area + 8 * (slot - 1)

    def incoming_disp(self, slot: int) -> int:
        """Where incoming slot 1 (argument 7) and up is, from rbp: above the saved rbp and the return address."""
        return 16 + 8 * (slot - 1)

    def prologue(self, func: Func) -> bytes:
        """Linux arch/x86/net/bpf_jit_comp.c, emit_prologue(): two nops to be patched, and the frame."""
        pad = x86.endbr64() if self.options.ibt else b""
        reachable = func.facts.tail_reachable
        code = pad + x86.NOPS[5] + (CLEAR_COUNT if func.is_main and reachable else x86.NOPS[3])
        code += x86.push_r(Gpr.RBP) + lower.mov(Gpr.RBP, Gpr.RSP) + pad
        if func.stack_bytes:
            code += x86.sub_ri(Gpr.RSP, func.stack_bytes, bits=64)
        code += self.tails.counter(is_main=func.is_main) if reachable else b""
        for item in func.below:
            if isinstance(item, Gpr):
                code += x86.push_r(item)
            elif item:
                code += x86.sub_ri8(Gpr.RSP, item, bits=64)
        return code

    def epilogue(self, func: Func) -> bytes:
        """The prologue undone. `leave` would put rsp right by itself, but the pops need it right before."""
        code = b""
        for item in reversed(func.below):
            if isinstance(item, Gpr):
                code += x86.pop_r(item)
            elif item:
                code += x86.add_ri8(Gpr.RSP, item, bits=64)
        return code + x86.leave() + x86.ret() + x86.int3()

    # Insns.

    def lower(self, prog: Prog, func: Func, at: int, insn: Op) -> Piece:
        """One insn, `at` from the start of `func`."""
        match insn:
            case Alu():
                return self.alu(insn)
            case Swap():
                return self.swap(insn)
            case LdImm64():
                return self.ld_imm64(insn)
            case Load():
                return lower.load(insn)
            case LoadAcquire():  # every load of x86-64 is one. Intel SDM, volume 3, "Memory Ordering"
                return lower.load(Load(insn.dst, insn.base, insn.off, insn.size))
            case Store():
                return self.store(insn)
            case StoreRelease():
                return self.store(Store(insn.base, insn.off, insn.size, Reg(insn.src)))
            case Atomic():
                return self.atomic(insn)
            case LoadArg():
                return self.load_arg(insn)
            case StoreArg():
                return self.store_arg(func, insn)
            case Goto() | Branch():
                return self.jump(func, at, insn)
            case CallHelper() | CallSubprog() | CallKfunc():
                return self.any_call(prog, func, func.start + at, insn)
            case Exit():
                return self.exit(func, at)
            case Hole():
                return b""
            case MayGoto():
                raise CompileError("may_goto has to be rewritten before")
            case PacketLoad() | CallReg() | Undefined():
                raise CompileError("not an operation that this JIT knows")
            case _:
                assert_never(insn)

    def alu(self, insn: Alu) -> bytes:
        """Arithmetic; the operations that need more than one insn have methods of their own."""
        if insn.op in (DIV, MOD, SDIV, SMOD):
            return self.div_mod(insn)
        if insn.op in lower.SHIFTS and isinstance(insn.src, Reg):
            return self.alu_shift_reg(insn, insn.src)
        return lower.alu(insn)

    def alu_shift_reg(self, insn: Alu, count_in: Reg) -> bytes:
        """A shift by a register."""
        dst, src = lower.native(insn.dst), lower.native(count_in.n)
        return lower.shift_reg(insn.op, insn.bits, dst, src, self.options.bmi2)

    def div_mod(self, insn: Alu) -> bytes:
        """Division or remainder."""
        return lower.div_mod(insn.op, insn.bits, lower.native(insn.dst), insn.src)

    def ld_imm64(self, insn: LdImm64) -> bytes:
        """A constant of 64 bits."""
        if insn.pseudo:
            raise CompileError(f"pseudo source {insn.pseudo} was not resolved")
        return lower.mov_const(lower.native(insn.dst), insn.value)

    def store(self, insn: Store) -> bytes:
        """A store to memory."""
        return lower.store(insn)

    def swap(self, insn: Swap) -> bytes:
        """A byte swap."""
        return lower.swap(insn)

    def atomic(self, insn: Atomic) -> bytes:
        """A read-modify-write of memory."""
        return lower.atomic(insn)

    def load_arg(self, insn: LoadArg) -> bytes:
        """An incoming argument, 6 to 12, into a register."""
        dst = lower.native(insn.dst)
        if insn.slot == 0:
            return lower.mov(dst, lower.ARG6)
        return x86.mov_rm64(dst, Mem(Gpr.RBP, self.incoming_disp(insn.slot)))

    def store_arg(self, func: Func, insn: StoreArg) -> bytes:
        """An outgoing argument, 6 to 12, to its final place; nothing is left to do at the call."""
        place = Mem(Gpr.RBP, self.outgoing_disp(func, insn.slot))
        match insn.src:
            case Reg(n) if insn.slot == 0:
                return lower.mov(lower.ARG6, lower.native(n))
            case Imm(value) if insn.slot == 0:
                return lower.mov_const(lower.ARG6, value & MASK64)
            case Reg(n):
                return x86.mov_m64r(place, lower.native(n))
            case Imm(value):
                return x86.mov_m64i(place, value)

    def jump(self, func: Func, at: int, insn: Goto | Branch) -> Piece:
        """A jump within the subprog. `goto -1`, to itself, is what the verifier leaves of dead code: no relaxation."""
        target = at + 1 + insn.off
        if not 0 <= target < len(func.ops):
            raise CompileError("the jump leaves its subprog")
        if isinstance(insn, Branch):
            return Jump(lower.compare(insn), lower.CONDITIONS[insn.op], target)
        return x86.jmp_short(-2) if insn.off == -1 else Jump(b"", None, target)

    def call(self, target: int | str) -> Piece:
        """A call; every argument is in its place already."""
        return Call(target)

    def any_call(self, prog: Prog, func: Func, at: int, insn: CallHelper | CallSubprog | CallKfunc) -> Piece:
        """A tail call, or a call; where tail calls may follow, of a subprog with their count."""
        if isinstance(insn, CallHelper) and insn.id == TAIL_CALL:
            return self.tail_call(prog, func, at)
        target = _call_target(prog, at, insn)
        if isinstance(insn, CallSubprog) and func.facts.tail_reachable:
            return self.call_with_count(func, target)
        return self.call_c(prog, func, insn, self.call(target)) if isinstance(insn, CallKfunc) else self.call(target)

    def call_with_count(self, func: Func, target: int | str) -> Piece:
        """A call of a subprog that may come to tail calls: rax is the pointer to the count. TC-85."""
        return Call(target, before=self.tails.pointer(func.stack_bytes))

    def tail_call(self, prog: Prog, func: Func, at: int) -> Piece:
        """A tail call: patched where the verifier knows map and key, else by index. TC-36."""
        site = func.tails.get(at)
        if site is None:
            raise CompileError("the verifier did not come by this tail call")
        if site.key is not None and not site.several:
            return self.tails.direct(func.saved, func.stack_bytes, site.map, site.key)
        cached = self.options.tail is Tail.STATIC and not site.several
        entries = prog.maps[site.map].max_entries
        return self.tails.indirect(func.saved, func.stack_bytes, entries, cached=cached)

    def call_c(self, prog: Prog, func: Func, insn: CallKfunc, call: Piece) -> Piece:
        """A call of a C function: arguments to their places by the psABI, the high half of its result to R2."""
        proto = prog.kfunc(insn.btf_id)
        if proto is None or not isinstance(call, Call):
            return call
        before = b"".join(self.move(func, move) for move in self.c_moves(proto))
        after = lower.mov(lower.native(2), RESULT_HIGH) if self.c_pair(proto) else b""
        return replace(call, before=call.before + before, after=after + call.after)

    def move(self, func: Func, move: Move) -> bytes:
        """8 bytes on their way to a C function; R0 holds nothing before a call."""
        source, target = (InReg("rax") if where == SPARE else where for where in (move.source, move.target))
        if isinstance(target, InReg):
            if isinstance(source, InReg):
                return lower.mov(_gpr(target), _gpr(source))
            return x86.mov_rm64(_gpr(target), Mem(Gpr.RBP, self.outgoing_disp(func, 1) + source.off))
        place = Mem(Gpr.RBP, self.outgoing_disp(func, 1) + target.off)
        if isinstance(source, InReg):
            return x86.mov_m64r(place, _gpr(source))
        through = Mem(Gpr.RBP, self.outgoing_disp(func, 1) + source.off)
        return x86.mov_rm64(lower.SCRATCH, through) + x86.mov_m64r(place, lower.SCRATCH)

    def exit(self, func: Func, at: int) -> Piece:
        """The epilogue at the first exit, a jump to it at the others."""
        if func.first_exit is None or func.first_exit == at:
            return self.epilogue(func)
        return Jump(b"", None, func.first_exit)


def _gpr(where: Location) -> Gpr:
    assert isinstance(where, InReg), "integers are in general-purpose registers"
    return Gpr[where.reg.upper()]


def _call_target(prog: Prog, at: int, insn: CallHelper | CallSubprog | CallKfunc) -> int | str:
    """Index of a subprog, or name of an extern."""
    match insn:
        case CallHelper():
            if insn.id not in HELPERS:
                raise CompileError(f"helper {insn.id} is not known")
            return HELPERS[insn.id].name
        case CallKfunc():
            kfunc = prog.kfunc(insn.btf_id)
            if kfunc is None:
                raise CompileError(f"kfunc {insn.btf_id} is not known")
            return kfunc.name
        case CallSubprog():
            index = prog.subprog_at(at + 1 + insn.off)
            if index is None:
                raise CompileError("the call is not to the start of a subprog")
            return index


def _link(prog: Prog, index: int, native: Native, entries: Sequence[int], addresses: Addresses) -> bytes:
    """The bytes of a subprog that lies at `entries[index]` in its image."""
    code = [native.prologue]
    for i, piece in enumerate(native.pieces):
        start, end = native.starts[i : i + 2]
        match piece:
            case bytes():
                code.append(piece)
            case Direct():
                code.append(piece.code)
            case Jump():
                code.append(piece.code(native.starts[piece.target] - end, end - start))
            case Call():
                try:
                    code.append(_call_code(piece, entries[index] + start, entries, addresses))
                except (CompileError, EncodeError) as error:
                    raise _at(prog, prog.subprogs[index].start + i, error) from error
    return b"".join(code)


def _call_code(piece: Call, start: int, entries: Sequence[int], addresses: Addresses) -> bytes:
    """A call `start` bytes into the image."""
    next_insn = addresses.base + start + len(piece.before) + CALL_BYTES
    if isinstance(piece.target, int):
        target = addresses.base + entries[piece.target]
    elif piece.target in addresses.externs:
        target = addresses.externs[piece.target]
    else:
        raise CompileError(f"{piece.target} has no address")
    return piece.before + x86.call_near(target - next_insn) + piece.after


def _at(prog: Prog, index: int, error: Exception) -> CompileError:
    """The same error, with the insn it is about."""
    return CompileError(f"{prog.where(index)}: {insn_text(prog, index)}: {error}")
