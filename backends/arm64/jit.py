"""The arm64 JIT: frames, calls and stack arguments as Linux 7.2's, around the lowerings of lower.py.

Every choice that a rule speaks of is one method, so that a JIT which breaks one rule overrides one method.
Registers are native numbers unless a name says BPF.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, assert_never

from backends.abi import InReg, Location
from backends.arm64 import atomics, lower
from backends.arm64 import encode as a64
from backends.arm64.code import WORD_BYTES, Code, EntryOf, EpilogueOf, InsnAt, Jump, Words
from backends.arm64.encode import SP, ZR, EncodeError
from backends.arm64.lower import Place, Scratch
from backends.arm64.tailcall import TailCalls
from backends.image import Addresses, CompileError, Image, Tail
from backends.marshal import SPARE, CallsC, Marshal, Move
from harness.isa import opcodes as op
from harness.isa.calls import HELPERS, TAIL_CALL
from harness.isa.ctypes import rounded_up
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
from harness.isa.proto import Proto
from harness.isa.verified import FuncFacts, TailSite, Verified

# Linux arch/arm64/net/bpf_jit_comp.c, bpf2a64[]. R12 is the verifier's own auxiliary register.
REGMAP: Final = {0: 8, 1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 19, 7: 20, 8: 21, 9: 22, 10: 25, 12: 9}
CALLEE_SAVED: Final = (6, 7, 8, 9, op.FP)  # BPF registers, in the order of their pushes
ARG_REGS: Final = (5, 6, 7)  # stack-argument slots 0-2, BPF arguments 6-8
AX, THIRD = 12, 12  # the BPF register of rewrites, and the native one that is a third scratch register
RESULT, KEPT_LINK, TCC, RECORD, LINK = 0, 9, 26, 29, 30


@dataclass(frozen=True, slots=True)
class Options:
    """What a kernel's configuration and CPU decide: BTI landing pads, signed return addresses, atomics in one insn."""

    bti: bool = True
    pac: bool = True
    lse: bool = True
    tail: Tail = Tail.BASE


@dataclass(frozen=True, slots=True)
class Push:
    """Two registers, 16 bytes, `first` at the lower address; ZR where there is no second."""

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class SetFp:
    """R10's register takes the value of SP."""


@dataclass(frozen=True, slots=True)
class BpfStack:
    """The stack below R10."""

    size: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The area of outgoing stack arguments."""

    size: int


Step = Push | SetFp | BpfStack | Outgoing


@dataclass(frozen=True, slots=True)
class Frame:
    """A function's frame below its frame record and tail-call counter: steps, from higher to lower addresses."""

    is_main: bool
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """An insn being lowered: its index, its subprog and frame, and the address of its native code."""

    prog: Prog
    index: int
    subprog: int
    frame: Frame
    address: int
    addresses: Addresses
    tail: TailSite | None = None


DEFAULT: Final = Options()


@cache
def marshal() -> Marshal:
    """Calls of C functions with arguments of more than 8 bytes."""
    from backends.arm64.trampoline import MODEL, RULES  # most programs do without

    return Marshal(MODEL, RULES)


class Arm64Jit(CallsC):
    """Compiles a verified program to AArch64 code."""

    arch = "arm64"
    marshal = staticmethod(marshal)

    def __init__(self, options: Options = DEFAULT) -> None:
        self.options = options

    def compile(self, verified: Verified, addresses: Addresses) -> Image:
        """Native code for `addresses`. Raises CompileError."""
        code, prog = Code(), verified.prog
        for number, subprog in enumerate(prog.subprogs):
            try:
                self._function(code, verified, number, addresses)
            except EncodeError as error:
                raise CompileError(f"{subprog.name}: frame: {error}") from error
        return Image(
            self.arch,
            addresses.base,
            code.finish(prog),
            code.symbols(prog),
            tuple(code.insns),
            self.options.bti,
            verified,
            landing=self.landing_offset() if prog.tail_calls else 0,
            landing_frame=32 if prog.tail_calls else 0,
            tail=self.options.tail,
        )

    def landing_offset(self) -> int:
        """From a main prog's entry to where tail calls land: PROLOGUE_OFFSET. TC-90."""
        return 4 * (6 + self.options.bti + self.options.pac)

    def _function(self, code: Code, verified: Verified, subprog: int, addresses: Addresses) -> None:
        prog, bounds = verified.prog, verified.prog.subprogs[subprog]
        facts = verified.funcs[subprog]
        if for_c := self.c_stack_bytes(prog, prog.ops[bounds.start : bounds.end]):
            slots = len(ARG_REGS) + for_c // 8
            facts = replace(facts, outgoing_slots=max(facts.outgoing_slots, slots))
        frame = self.frame(prog.insns[bounds.start : bounds.end], facts, is_main=subprog in prog.mains)
        code.entries.append(code.here)
        code.words += self.prologue(frame)
        for index in range(bounds.start, bounds.end):
            code.insns.append(code.here)
            tail = verified.tail_calls.get(index)
            site = Site(prog, index, subprog, frame, addresses.base + code.here, addresses, tail)
            try:
                code.words += self.insn(prog.ops[index], site)
            except EncodeError as error:
                raise CompileError(f"{prog.where(index)}: {insn_text(prog, index)}: {error}") from error
        code.epilogues.append(code.here)
        code.words += self.epilogue(frame)

    # Registers.

    def reg(self, bpf: int) -> int:
        """The register that holds a BPF register. Raises EncodeError for one that has none, R11 above all."""
        if bpf not in REGMAP:
            raise EncodeError(f"r{bpf} has no register")
        return REGMAP[bpf]

    def scratch(self) -> Scratch:
        """Registers that any insn's lowering may destroy."""
        return Scratch(10, 11)

    def arg_reg(self, slot: int) -> int:
        """The register of a stack argument below slot 3. AAPCS64, "Parameter passing rules", C.9."""
        return ARG_REGS[slot]

    # Frame.

    def callee_saved(self, insns: Iterable[Insn]) -> list[int]:
        """The registers to save: of the BPF registers that some insn names, as the kernel scans for them."""
        named = {n for insn in insns for n in (insn.dst, insn.src)}
        return [self.reg(bpf) for bpf in CALLEE_SAVED if bpf in named]

    def outgoing_bytes(self, facts: FuncFacts) -> int:
        """The outgoing area, which keeps SP a multiple of 16."""
        return rounded_up(8 * max(facts.outgoing_slots - len(ARG_REGS), 0), 16)

    def frame(self, insns: Sequence[Insn], facts: FuncFacts, *, is_main: bool) -> Frame:
        """The frame of one function."""
        saved = self.callee_saved(insns)
        pairs = [*saved, ZR] if len(saved) % 2 else saved
        return Frame(
            is_main,
            self.frame_order(
                [Push(*pair) for pair in zip(pairs[::2], pairs[1::2], strict=True)],
                [SetFp()] if any(op.FP in (insn.dst, insn.src) for insn in insns) else [],
                BpfStack(rounded_up(facts.stack_depth, 16)),
                Outgoing(self.outgoing_bytes(facts)),
            ),
        )

    def frame_order(
        self, pushes: list[Push], set_fp: list[SetFp], stack: BpfStack, outgoing: Outgoing
    ) -> tuple[Step, ...]:
        """The parts of a frame, from higher to lower addresses: the outgoing area ends at SP."""
        return (*pushes, *set_fp, stack, outgoing)

    def fp_above_sp(self, frame: Frame) -> int:
        """R10 minus SP, as it is in the body."""
        below = frame.steps[frame.steps.index(SetFp()) :]
        return sum(step.size for step in below if isinstance(step, BpfStack | Outgoing))

    def enter(self, step: Step) -> list[int]:
        """Makes one part of the frame."""
        match step:
            case Push():
                return [a64.stp_push(step.first, step.second, SP, -16)]
            case SetFp():
                return [a64.add_rri[64](self.reg(op.FP), SP, 0)]
            case BpfStack() | Outgoing():
                return [lower.sub_imm(64, SP, SP, step.size)] if step.size else []
            case _:
                assert_never(step)

    def leave(self, step: Step) -> list[int]:
        """Undoes one part of the frame."""
        match step:
            case Push():
                return [a64.ldp_pop(step.first, step.second, SP, 16)]
            case SetFp():
                return []
            case BpfStack() | Outgoing():
                return [lower.add_imm(64, SP, SP, step.size)] if step.size else []
            case _:
                assert_never(step)

    def prologue(self, frame: Frame) -> list[int]:
        """Landing pad, place for a patch, frame record, tail-call counter, then the frame's parts."""
        words = [a64.bti_jc()] if self.options.bti else []
        words += [a64.mov_rr[64](KEPT_LINK, LINK), a64.nop()]
        words += [a64.paciasp()] if self.options.pac else []
        words += [*self.enter(Push(RECORD, LINK)), a64.add_rri[64](RECORD, SP, 0)]
        if frame.is_main:
            words += [*self.enter(Push(ZR, TCC)), a64.add_rri[64](TCC, SP, 0)]
            words += [a64.bti_j()] if self.options.bti else []
        else:
            words += self.enter(Push(TCC, TCC))
        return words + [word for step in frame.steps for word in self.enter(step)]

    def epilogue(self, frame: Frame) -> list[int]:
        """The frame's parts undone from the lowest upwards, the result moved to where a caller expects it."""
        words = [word for step in reversed(frame.steps) for word in self.leave(step)]
        words += [*self.leave(Push(ZR, TCC)), *self.leave(Push(RECORD, LINK)), *self.before_return(frame)]
        words += [a64.autiasp()] if self.options.pac else []
        return [*words, a64.ret()]

    def before_return(self, frame: Frame) -> list[int]:
        """R0 to the register of results."""
        return [a64.mov_rr[64](RESULT, self.reg(0))]

    # Insns.

    def insn(self, insn: Op, site: Site) -> Words:
        """The native code of one insn. Raises CompileError, or EncodeError for what a field does not hold."""
        match insn:
            case Alu():
                return self.alu(insn)
            case Swap():
                return [*self.swap(insn)]
            case LdImm64(dst, 0, value):
                return lower.mov_imm64(self.reg(dst), value)
            case Load():
                place, scratch = self.place(insn, site), self.scratch().first
                return lower.load(insn.size, self.reg(insn.dst), place, scratch, signed=insn.signed)
            case Atomic() | LoadAcquire() | StoreRelease():
                return self.atomic(insn)
            case Store():
                return self.store(insn, site)
            case LoadArg():
                return self.load_arg(insn)
            case StoreArg():
                return self.store_arg(insn)
            case Goto():
                return [Jump(a64.b_i, (), InsnAt(site.index + 1 + insn.off))]
            case Branch():
                return self.branch(insn, site)
            case CallHelper() if insn.id == TAIL_CALL:
                return self.tail_call(site)
            case CallHelper() | CallSubprog():
                return [*self.call(insn, site), *self.after_call(insn)]
            case CallKfunc():
                before = self.before_c(site.prog.kfunc(insn.btf_id))
                there = replace(site, address=site.address + WORD_BYTES * len(before))
                return [*before, *self.call(insn, there), *self.after_call(insn)]
            case Exit():
                return self.exit(site)
            case Hole():
                return []
            case LdImm64() | MayGoto() | PacketLoad() | CallReg() | Undefined():
                raise CompileError(f"{site.prog.where(site.index)}: {insn_text(site.prog, site.index)}: not supported")
            case _:
                assert_never(insn)

    def alu(self, insn: Alu) -> Words:
        """Arithmetic."""
        dst, scratch = self.reg(insn.dst), self.scratch()
        if isinstance(insn.src, Reg):
            return lower.alu_reg(insn.op, insn.bits, dst, self.reg(insn.src.n), scratch)
        return lower.alu_imm(insn.op, insn.bits, dst, insn.src.value, scratch)

    def swap(self, insn: Swap) -> list[int]:
        """A byte swap."""
        return lower.swap(insn.op, insn.width, self.reg(insn.dst))

    def atomic(self, insn: Atomic | LoadAcquire | StoreRelease) -> Words:
        """An access whose address is in a register, as these insns take it."""
        scratch, place = self.scratch(), self.reg(insn.base)
        words: list[int] = []
        if insn.off:
            words = self.address(scratch.first, place, insn.off)
            place = scratch.first
        match insn:
            case LoadAcquire():
                return [*words, *atomics.load_acquire(insn.size, self.reg(insn.dst), place)]
            case StoreRelease():
                return [*words, *atomics.store_release(insn.size, self.reg(insn.src), place)]
            case Atomic():
                form = atomics.lse if self.options.lse else atomics.exclusive
                regs = atomics.Regs(scratch.second, THIRD, self.reg(AX))
                return [*words, *form(insn.op, 8 * insn.size.bytes, self.reg(insn.src), place, self.reg(0), regs)]

    def address(self, rd: int, base: int, off: int) -> list[int]:
        """`rd = base + off`. Linux arch/arm64/net/bpf_jit_comp.c, emit_a64_add_i()."""
        if lower.is_imm12(off):
            return [lower.add_imm(64, rd, base, off)]
        if lower.is_imm12(-off):
            return [lower.sub_imm(64, rd, base, -off)]
        return [*lower.mov_imm32(64, rd, off), a64.add_rrr[64](rd, rd, base)]

    def branch(self, insn: Branch, site: Site) -> Words:
        """A comparison and a conditional jump."""
        dst = self.reg(insn.dst)
        if isinstance(insn.src, Reg):
            compare = lower.compare_reg(insn.op, insn.bits, dst, self.reg(insn.src.n))
        else:
            compare = lower.compare_imm(insn.op, insn.bits, dst, insn.src.value, self.scratch())
        target = InsnAt(site.index + 1 + insn.off)
        return [*compare, Jump(a64.bcond_i, (lower.CONDITION[insn.op.name],), target)]

    def exit(self, site: Site) -> Words:
        """To the epilogue, which follows a function's last insn."""
        is_last = site.index + 1 == site.prog.subprogs[site.subprog].end
        return [] if is_last else [Jump(a64.b_i, (), EpilogueOf(site.subprog))]

    # Memory.

    def place(self, insn: Load | Store, site: Site) -> Place:
        """Where an insn reads or writes; R10's stack is reached from SP, which has no negative offsets."""
        sp_off = insn.off + self.fp_above_sp(site.frame) if insn.base == op.FP else None
        return Place(self.reg(insn.base), insn.off, sp_off)

    def store(self, insn: Store, site: Site) -> Words:
        """A store to memory; a constant is made in a scratch register."""
        place, scratch = self.place(insn, site), self.scratch()
        if isinstance(insn.src, Reg):
            return lower.store(insn.size, self.reg(insn.src.n), place, scratch.first)
        constant = lower.mov_imm32(64, scratch.first, insn.src.value)
        return [*constant, *lower.store(insn.size, scratch.first, place, scratch.second)]

    # Stack arguments.

    def incoming_offset(self, slot: int) -> int:
        """Where a caller left a stack argument from slot 3 on, from the frame record: past the record itself."""
        return 16 + 8 * (slot - len(ARG_REGS))

    def outgoing_offset(self, slot: int) -> int:
        """Where a callee expects a stack argument from slot 3 on, from SP. AAPCS64, "Parameter passing rules", C.17."""
        return 8 * (slot - len(ARG_REGS))

    def load_arg(self, insn: LoadArg) -> list[int]:
        """Reads an incoming stack argument."""
        dst = self.reg(insn.dst)
        if insn.slot < len(ARG_REGS):
            return [a64.mov_rr[64](dst, self.arg_reg(insn.slot))]
        return [a64.ldr_rm(dst, RECORD, self.incoming_offset(insn.slot))]

    def store_arg(self, insn: StoreArg) -> list[int]:
        """Writes an outgoing stack argument."""
        if insn.slot < len(ARG_REGS):
            target = self.arg_reg(insn.slot)
            match insn.src:
                case Reg(n):
                    return [a64.mov_rr[64](target, self.reg(n))]
                case Imm(value):
                    return self.arg_imm(target, value)
        offset, scratch = self.outgoing_offset(insn.slot), self.scratch().first
        match insn.src:
            case Reg(n):
                return [a64.str_rm(self.reg(n), SP, offset)]
            case Imm(value):
                return [*self.arg_imm(scratch, value), a64.str_rm(scratch, SP, offset)]

    def arg_imm(self, rd: int, value: int) -> list[int]:
        """A constant stack argument: 64 bits, sign-extended."""
        return lower.mov_imm32(64, rd, value)

    # Calls.

    def call(self, insn: CallHelper | CallSubprog | CallKfunc, site: Site) -> Words:
        """The call itself; every argument is in its place already."""
        if isinstance(insn, CallSubprog):
            callee = site.prog.subprog_at(site.index + 1 + insn.off)
            if callee is None:
                raise CompileError(f"{site.prog.where(site.index)}: no subprog begins at the call's target")
            return [Jump(a64.bl_i, (), EntryOf(callee))]
        address = self._extern(insn, site)
        distance = address - site.address
        if a64.DISP26.bits_of(distance) is not None:
            return [a64.bl_i(distance)]
        target = self.scratch().first
        return [*lower.mov_address(target, address), a64.blr_r(target)]

    def tail_call(self, site: Site) -> Words:
        """Index, count, slot, then the jump; there is no patched form. TC-93, TC-94."""
        if site.tail is None:
            raise CompileError("the verifier did not come by this tail call")
        cached = self.options.tail is Tail.STATIC and not site.tail.several
        entries = site.prog.maps[site.tail.map].max_entries
        unwind = [word for step in reversed(site.frame.steps) for word in self.leave(step)]
        return self.tails().words(unwind, entries, cached=cached)

    def tails(self) -> TailCalls:
        """What lowers tail calls."""
        return TailCalls(self.landing_offset())

    def before_c(self, proto: Proto | None) -> list[int]:
        """Arguments of a C function to their places by AAPCS64. The high half of its result is where R2 is."""
        if proto is None:
            return []
        assert not self.c_pair(proto) or self.reg(2) == RESULT + 1
        return [word for move in self.c_moves(proto) for word in self.move(move)]

    def move(self, move: Move) -> list[int]:
        """8 bytes on their way to a C function."""
        source, target = (
            InReg(f"x{self.scratch().second}") if where == SPARE else where for where in (move.source, move.target)
        )
        if isinstance(target, InReg):
            if isinstance(source, InReg):
                return [a64.mov_rr[64](_xreg(target), _xreg(source))]
            return [a64.ldr_rm(_xreg(target), SP, source.off)]
        if isinstance(source, InReg):
            return [a64.str_rm(_xreg(source), SP, target.off)]
        through = self.scratch().first
        return [a64.ldr_rm(through, SP, source.off), a64.str_rm(through, SP, target.off)]

    def _extern(self, insn: CallHelper | CallKfunc, site: Site) -> int:
        known = HELPERS.get(insn.id) if isinstance(insn, CallHelper) else site.prog.kfunc(insn.btf_id)
        if known is None or known.name not in site.addresses.externs:
            text = insn_text(site.prog, site.index)
            raise CompileError(f"{site.prog.where(site.index)}: {text}: the callee has no address")
        return site.addresses.externs[known.name]

    def after_call(self, insn: CallHelper | CallSubprog | CallKfunc) -> list[int]:
        """R0 from the register of results."""
        return [a64.mov_rr[64](self.reg(0), RESULT)]


def _xreg(where: Location) -> int:
    assert isinstance(where, InReg), "integers are in general-purpose registers"
    return int(where.reg[1:])
