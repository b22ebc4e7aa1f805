"""Walks every path of a program, applies the rules, and says accept or reject. The package's entry point."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, assert_never

from harness.isa import opcodes as op
from harness.isa.calls import HELPERS, TAIL_CALL
from harness.isa.ctypes import CInt, CPtr, CType, CVoid
from harness.isa.insn import (
    Atomic,
    Branch,
    CallHelper,
    CallKfunc,
    CallReg,
    CallSubprog,
    Exit,
    Goto,
    LdImm64,
    Load,
    LoadAcquire,
    MayGoto,
    Op,
    Prog,
    Reg,
    Store,
    StoreArg,
    StoreRelease,
    Subprog,
    Undefined,
)  # fmt: skip
from harness.isa.proto import Proto
from harness.isa.slots import callee_slots, is_pair, is_prepared, slots_of
from harness.isa.verified import FuncFacts, Verified, joined_verified
from verifier import cfg, fixups, rules
from verifier.calls import (
    callee_params,
    check_global_proto,
    check_helper,
    check_kfunc,
    check_protos,
    entry_args,
    helper_reach,
    unreliable_args,
)  # fmt: skip
from verifier.effects import effect, requirements, source
from verifier.log import Log
from verifier.scalar import Scalar, branch
from verifier.state import (
    MAX_FRAMES,
    NOT_INIT,
    STACK_BYTES,
    UNKNOWN,
    CtxPtr,
    Frame,
    FramePtr,
    MapPtr,
    Pointer,
    RegState,
    State,
    ValuePtr,
    decided,
    entry_frame,
    is_traced_ctx,
    lookups_within,
    reg_within,
    slot_within,
)  # fmt: skip
from verifier.tailcalls import TailCalls
from verifier.verdict import Accepted, Refusal, Rejected, Stats, Verdict

MAX_INSNS: Final = 1_000_000  # processed. Linux include/linux/bpf.h, BPF_COMPLEXITY_LIMIT_INSNS
MAX_PENDING: Final = 8192  # paths not yet walked. Linux kernel/bpf/verifier.c, BPF_COMPLEXITY_LIMIT_JMP_SEQ
MAX_SEEN: Final = 64  # states kept per insn for pruning
MAX_MISSES: Final = 8  # comparisons in vain before a state is dropped; Linux does alike, is_state_visited()


@dataclass(slots=True)
class _Seen:
    """A state that was walked from some insn on; `chain` is where its calls return to."""

    chain: tuple[int, ...]
    state: State
    hits: int = 0
    misses: int = 0


class Verifier:
    """The walk over all paths. Each method is one decision, so that a test can make one wrong."""

    def __init__(self, *, log_level: int = 0, max_insns: int = MAX_INSNS) -> None:
        self.log_level, self.max_insns = log_level, max_insns

    def verify(self, prog: Prog) -> Verdict:
        """The verdict on a program, or on several that tail call each other: the first that is refused, or all."""
        if len(prog.mains) > 1:
            return self._verify_all(prog)
        self._begin(prog)
        try:
            self._check_insns()
            check_protos(prog, Refusal)
            self._tails.check_types()
            flaw = cfg.check(prog)
            if flaw is not None:
                raise Refusal(flaw.rule, flaw.message, rules.EINVAL, flaw.insn)
            self._walk_from(0)
            self._walk_globals()
            self._check_stack_depth()
            self.check_stores_used()
        except Refusal as refusal:
            log = self._log.text(refusal.message, self._processed, self.max_insns)
            stats = self._stats()
            return Rejected(refusal.rule, refusal.message, refusal.insn, refusal.errno, log, stats)
        verified, origin, extra = fixups.rewrite(self._tails.without_dead(), self._depth)
        log = self._log.text("", self._processed, self.max_insns)
        sites = self._tails.sites(origin)
        return Accepted(Verified(verified, self._facts(extra), origin, sites), log, self._stats())

    def _verify_all(self, prog: Prog) -> Verdict:
        parts = [prog.part(number) for number in range(len(prog.mains))]
        found: list[Accepted] = []
        for number, part in enumerate(parts):
            verdict = self.verify(part)
            if isinstance(verdict, Rejected):
                before = sum(len(one.insns) for one in parts[:number])
                return replace(verdict, insn=None if verdict.insn is None else verdict.insn + before)
            found.append(verdict)
        verified = joined_verified([one.verified for one in found], parts)
        stats = Stats(
            sum(one.stats.processed_insns for one in found),
            tuple(depth for one in found for depth in one.stats.stack_depths),
        )
        return Accepted(verified, "\n".join(one.log for one in found), stats)

    def _begin(self, prog: Prog) -> None:
        count = len(prog.subprogs)
        self._prog = prog
        self._tails = self.tail_calls(prog)
        self._log = Log(prog, self.log_level)
        self._processed = 0
        self._lookups = 0
        self._incoming = tuple(self.incoming_slots(index, prog.subprogs[index]) for index in range(count))
        self._depth = [0] * count  # bytes below R10
        self._stored = [0] * count  # highest outgoing slot stored, plus 1
        self._needed = [0] * count  # outgoing slots that some call needs
        self._unreliable = [False] * count
        self._globals: list[int] = []
        self._points = frozenset[int]()
        self._seen: dict[int, list[_Seen]] = {}

    def _stats(self) -> Stats:
        return Stats(self._processed, tuple((depth + 7) // 8 * 8 for depth in self._depth))

    def _facts(self, extra: Sequence[int]) -> tuple[FuncFacts, ...]:
        """`extra`: bytes of stack that rewrites put below each function's own."""
        depths = [
            (depth + 7) // 8 * 8 + more if more else depth for depth, more in zip(self._depth, extra, strict=True)
        ]
        rows = zip(depths, self._incoming, self._needed, self._tails.reachable, strict=True)
        return tuple(FuncFacts(*row) for row in rows)

    # --- before the walk

    def incoming_slots(self, index: int, subprog: Subprog) -> int:
        """Stack arguments that a function takes: what its prototype has beyond five; the main prog has none. SA-V-10, 70."""
        if index == 0 or subprog.proto is None:
            return 0
        return max(len(callee_slots(subprog.proto)) - op.MAX_REG_ARGS, 0)

    def _check_insns(self) -> None:
        """Every slot, dead code included, in program order. SA-V-06, SA-V-07, SA-V-08."""
        for index, (insn, typed) in enumerate(zip(self._prog.insns, self._prog.ops, strict=True)):
            register = rules.invalid_register(insn)
            if register is not None:
                raise Refusal("r11-form", f"R{register} is invalid", rules.EINVAL, index)
            if isinstance(typed, CallReg):
                raise Refusal("opcode-known", f"unknown opcode {insn.opcode:02x}", rules.EINVAL, index)
            if isinstance(typed, LdImm64) and typed.pseudo in (op.MAP_INDEX, op.MAP_INDEX_VALUE) and self._prog.maps:
                if (wrong := rules.map_constant(typed, self._prog.maps)) is not None:
                    raise Refusal("constant-known", *wrong, index)
            elif isinstance(typed, LdImm64) and typed.pseudo:
                has_btf = any(subprog.proto for subprog in self._prog.subprogs)
                raise Refusal("constant-known", *rules.unknown_constant(typed, has_btf=has_btf), index)
            if isinstance(typed, Undefined):
                rule, message = rules.undefined_message(typed)
                raise Refusal(rule, message, rules.EINVAL, index)

    # --- the walk

    def _walk_globals(self) -> None:
        """Global functions are verified on their own, each once, after the main prog."""
        done: set[int] = set()
        for index in self._globals:
            if index not in done:
                done.add(index)
                self._walk_from(index)

    def _walk_from(self, index: int) -> None:
        subprog = self._prog.subprogs[index]
        ctx = CtxPtr(0, traced=self._prog.traced)
        args: dict[int, RegState] = {1: ctx} if index == 0 else entry_args(subprog, ctx, Refusal)
        self._points, self._seen = cfg.prune_points(self._prog), {}
        pending: list[tuple[int, State]] = [(subprog.start, State([entry_frame(index, -1, 0, args)]))]
        while pending:
            at, state = pending.pop()
            self._log.path(at, state)
            self._follow(at, state, pending)

    def _follow(self, at: int, state: State, pending: list[tuple[int, State]]) -> None:
        """One path to its end; the other arm of each branch is put aside."""
        following: int | None = at
        while following is not None:
            at = following
            if at in self._points and self._pruned(at, state):
                return
            self._processed += 1
            if self._processed > self.max_insns:
                text = f"BPF program is too large. Processed {self._processed} insn"
                raise Refusal("too-complex", text, rules.E2BIG, at)
            self._log.begin()
            try:
                following = self._step(at, self._prog.ops[at], state, pending)
            except Refusal as refusal:
                if refusal.insn is None:
                    refusal.insn = at
                self._log.insn(at, state, None)
                raise

    def _pruned(self, at: int, state: State) -> bool:
        """Whether a path that was found safe from here covers this one. States that never do are dropped."""
        seen = self._seen.setdefault(at, [])
        chain = tuple(frame.return_to for frame in state.frames)
        for index in range(len(seen) - 1, -1, -1):
            old = seen[index]
            if old.chain != chain:
                continue
            if self.covered(old.state, state):
                old.hits += 1
                return True
            old.misses += 1
            if old.misses > 3 * old.hits + MAX_MISSES:
                del seen[index]
        if len(seen) < MAX_SEEN:
            seen.append(_Seen(chain, state.copy()))
        return False

    def _step(self, at: int, insn: Op, state: State, pending: list[tuple[int, State]]) -> int | None:
        for rule in self.requirements(insn, state):
            if not rule.holds(state.top):
                raise Refusal(rule.id, rule.message(), rule.errno)
        match insn:
            case Exit():
                return self._exit(at, state)
            case Goto():
                self._log.insn(at, state, None)
                return at + 1 + insn.off
            case Branch():
                return self._branch(at, insn, state, pending)
            case MayGoto():
                self._log.insn(at, state, None)
                self._put_aside(at + 1, state.copy(), pending)  # Linux follows the jump first
                return at + 1 + insn.off
            case CallHelper() | CallKfunc() | CallSubprog():
                return self._call(at, insn, state, pending)
            case _:
                self._note_access(insn, state)
                written = effect(insn, state, self._prog.maps)
                self._log.insn(at, state, written)
                return at + (2 if isinstance(insn, LdImm64) else 1)

    def requirements(self, insn: Op, state: State) -> list[rules.Rule]:
        """The rules that an insn must keep here."""
        return list(requirements(insn, state.top, self._incoming[state.top.subprog]))

    def _note_access(self, insn: Op, state: State) -> None:
        """How deep stacks are, and how many slots a function stores."""
        frame = state.top
        if isinstance(insn, StoreArg):
            self._stored[frame.subprog] = max(self._stored[frame.subprog], insn.slot + 1)
        elif isinstance(insn, Load | Store | Atomic | LoadAcquire | StoreRelease):
            base = frame.regs[insn.base]
            if isinstance(base, FramePtr):
                self._note_depth(state, base, insn.off)

    def _note_depth(self, state: State, base: FramePtr, off: int) -> None:
        owner = state.frames[base.frame].subprog
        self._depth[owner] = max(self._depth[owner], -rules.reach(base, off)[0])

    # --- control flow

    def _branch(self, at: int, insn: Branch, state: State, pending: list[tuple[int, State]]) -> int | None:
        taken, fall = at + 1 + insn.off, at + 1
        frame = state.top
        left, right = frame.regs[insn.dst], source(frame, insn.src)
        self._log.insn(at, state, None)
        if not (isinstance(left, Scalar) and isinstance(right, Scalar)):
            if (lookup := _null_check(insn, left, right)) is not None:
                other = state.copy()
                self.decide(other, lookup, found=insn.op is op.JNE)
                self._put_aside(taken, other, pending)
                self.decide(state, lookup, found=insn.op is op.JEQ)
                return fall
            known = _pointer_branch(insn, left, right)
            if known is not None:
                return taken if known else fall
            other = state.copy()
            if insn.bits == 64 and insn.op in (op.JEQ, op.JNE):
                _equal_pointers(insn, left, right, other if insn.op is op.JEQ else state)
            self._put_aside(taken, other, pending)
            return fall
        arms = [self._refined(insn, left, right, choice) for choice in (True, False)]
        if arms[0] and arms[1]:
            self._put_aside(taken, _with(state.copy(), insn, *arms[0]), pending)
        if arms[1]:
            _with(state, insn, *arms[1])
            return fall
        assert arms[0] is not None, "one arm of a branch can always be"
        _with(state, insn, *arms[0])
        return taken

    def decide(self, state: State, lookup: int, *, found: bool) -> None:
        """A lookup's result was compared with NULL."""
        decided(state, lookup, found=found)

    def _refined(self, insn: Branch, left: Scalar, right: Scalar, taken: bool) -> tuple[Scalar, Scalar] | None:
        if insn.bits == 64:
            return branch(insn.op, left, right, taken)
        low = branch(insn.op, left.low(32), right.low(32), taken)
        if low is None:
            return None
        a, b = left.with_low(low[0]), right.with_low(low[1])
        return None if a is None or b is None else (a, b)

    def _put_aside(self, at: int, state: State, pending: list[tuple[int, State]]) -> None:
        if len(pending) >= MAX_PENDING:
            text = f"The sequence of {MAX_PENDING + 1} jumps is too complex."
            raise Refusal("too-complex", text, rules.EFAULT)
        pending.append((at, state))

    def _exit(self, at: int, state: State) -> int | None:
        self._log.insn(at, state, None)
        done = state.top
        if len(state.frames) == 1:
            self._check_last_exit(done)
            return None
        pair = self.gives_pair(done.subprog)
        back = rules.NoStackPointerBack(pair)
        if not back.holds(done):
            raise Refusal(back.id, back.message(), back.errno)
        state.frames.pop()
        self.after_call(state.top, done.regs[0], done.regs[2] if pair else NOT_INIT)
        self._log.path(done.return_to, state)
        return done.return_to

    def gives_pair(self, subprog: int) -> bool:
        """Whether a function's result is in R0 and R2. Linux kernel/bpf/verifier.c, bpf_ret_reg_pair()."""
        proto = self._prog.subprogs[subprog].proto
        return subprog > 0 and proto is not None and is_pair(proto.result)

    def returns_zero(self) -> bool:
        """Whether the main prog may return nothing else. TR-14."""
        return self._prog.traced is not None and self._prog.traced.returns_zero

    def _check_last_exit(self, frame: Frame) -> None:
        subprog = self._prog.subprogs[frame.subprog]
        if subprog.is_global and subprog.proto is not None and isinstance(subprog.proto.result, CVoid):
            return
        for reg in (0, 2) if self.gives_pair(frame.subprog) else (0,):
            readable = rules.Readable(reg)
            if not readable.holds(frame):
                raise Refusal(readable.id, readable.message(), readable.errno)
            if not frame.subprog and self.returns_zero():
                returned = rules.TracedReturn(frame.regs[reg])
                if not returned.holds(frame):
                    raise Refusal(returned.id, returned.message(), returned.errno)
            if frame.subprog and not isinstance(frame.regs[reg], Scalar):
                text = f"At subprogram exit the register R{reg} is not a scalar value"
                raise Refusal("global-return", text, rules.EINVAL)

    def after_call(self, frame: Frame, result: RegState, high: RegState = NOT_INIT) -> None:
        """What a call leaves of the caller: R0, and R2 of a pair; other scratch registers and outgoing slots hold nothing.

        SA-V-34, 35, 44, 46.
        """
        frame.regs[:6] = [result, NOT_INIT, high, *[NOT_INIT] * 3]
        frame.slots = [NOT_INIT] * len(frame.slots)

    # --- calls

    def _call(
        self, at: int, insn: CallHelper | CallKfunc | CallSubprog, state: State, pending: list[tuple[int, State]]
    ) -> int:
        frame = state.top
        if self._incoming[frame.subprog]:
            frame.no_stack_arg_load = True
        match insn:
            case CallHelper():
                self._lookups += 1
                result = check_helper(insn, state, self._lookups, Refusal)
                if insn.id == TAIL_CALL:
                    return self.tail_call(at, state, pending)
                for base in helper_reach(HELPERS[insn.id].proto, frame):
                    self._note_depth(state, base, 0)
                self.after_call(frame, result)
            case CallKfunc():
                proto = check_kfunc(self._prog, insn, frame, self.check_slots, Refusal)
                self._need(frame.subprog, len(slots_of(proto)))
                self.after_call(frame, *_result(proto.result))
            case CallSubprog():
                return self._call_subprog(at, insn, state)
            case _:
                assert_never(insn)
        self._log.insn(at, state, 0)
        return at + 1

    def tail_calls(self, prog: Prog) -> TailCalls:
        """What follows a program's tail calls."""
        return TailCalls(prog, Refusal)

    def slots_used(self, incoming: Sequence[int], outgoing: Sequence[int]) -> list[int]:
        """Stack arguments of each function, those that it takes and those that it gives."""
        return [max(pair) for pair in zip(incoming, outgoing, strict=True)]

    def tail_call(self, at: int, state: State, pending: list[tuple[int, State]]) -> int:
        """It is made, and of a subprog the caller goes on with what another program returned; or it is not. TC-28."""
        self._tails.note(at, state.top.regs[2], state.top.regs[3])
        self.after_call(state.top, NOT_INIT)
        self._log.insn(at, state, 0)
        if len(state.frames) == 1:
            return at + 1
        self._put_aside(at + 1, state.copy(), pending)  # Linux follows the return first
        done = state.frames.pop()
        self.after_call(state.top, UNKNOWN)
        self._log.path(done.return_to, state)
        return done.return_to

    def _need(self, subprog: int, params: int) -> None:
        """A call of a function with so many parameters needs slots. SA-V-33, SA-V-44."""
        self._needed[subprog] = max(self._needed[subprog], params - op.MAX_REG_ARGS)

    def check_slots(self, params: int, frame: Frame) -> None:
        """Every stack argument of the callee holds something. SA-V-30."""
        rule = rules.StackArgInitialized(params)
        if not rule.holds(frame):
            raise Refusal(rule.id, rule.message_in(frame), rule.errno)

    def _call_subprog(self, at: int, insn: CallSubprog, state: State) -> int:
        callee = self._prog.subprog_at(at + 1 + insn.off)
        assert callee is not None, "cfg.check() found every callee"
        subprog = self._prog.subprogs[callee]
        if subprog.is_global:
            return self._call_global(at, callee, subprog, state)
        self._check_static_args(callee, subprog, state.top)
        self._need(state.top.subprog, callee_params(subprog))
        if len(state.frames) >= MAX_FRAMES:
            text = f"the call stack of {len(state.frames) + 1} frames is too deep"
            raise Refusal("call-depth", text, rules.E2BIG)
        self._log.insn(at, state, None)
        args = {n: state.top.regs[n] for n in range(1, 6)}
        state.top.regs[:6] = [NOT_INIT] * 6
        state.frames.append(entry_frame(callee, at + 1, len(state.frames), args))
        self._log.path(subprog.start, state)
        return subprog.start

    def _check_static_args(self, callee: int, subprog: Subprog, frame: Frame) -> None:
        """SA-V-29: only a missing slot is fatal; any other mismatch makes the callee's BTF unreliable from then on."""
        if subprog.proto is None or self._unreliable[callee]:
            return
        if self._incoming[callee]:
            self.check_slots(callee_params(subprog), frame)
        if not is_prepared(subprog.proto) or unreliable_args(subprog.proto, frame):
            self._unreliable[callee] = True

    def _call_global(self, at: int, callee: int, subprog: Subprog, state: State) -> int:
        proto = subprog.proto
        if proto is not None:
            self._check_global_args(callee, subprog, proto, state.top)
        self._globals.append(callee)
        self.after_call(state.top, *((UNKNOWN, NOT_INIT) if proto is None else _result(proto.result)))
        self._log.insn(at, state, 0)
        return at + 1

    def _check_global_args(self, callee: int, subprog: Subprog, proto: Proto, frame: Frame) -> None:
        bad = f"Caller passes invalid args into func#{callee} ('{subprog.name}')"
        for index, slot in enumerate(check_global_proto(proto, Refusal, caller=bad)):
            reg, ctype = frame.regs[index + 1], slot.type
            if isinstance(ctype, CInt) and not isinstance(reg, Scalar):
                raise Refusal("global-args", f"R{index + 1} is not a scalar\n{bad}", rules.EINVAL)
            if isinstance(ctype, CPtr) and ctype.ctx and reg != CtxPtr(0, traced=self._prog.traced):
                if isinstance(reg, CtxPtr):
                    raise Refusal("global-args", bad, rules.EACCES)
                raise Refusal("global-args", f"R{index + 1} expects pointer to ctx\n{bad}", rules.EINVAL)
            if isinstance(ctype, CPtr) and not ctype.ctx and (not isinstance(reg, Pointer) or is_traced_ctx(reg)):
                raise Refusal("global-args", f"R{index + 1} invalid pointer\n{bad}", rules.EINVAL)

    # --- pruning

    def covered(self, old: State, new: State) -> bool:
        """Whether every frame of `new` is within that of `old`: what was safe there is safe here. SA-V-50."""
        if len(old.frames) != len(new.frames):
            return False
        pairs = list(zip(old.frames, new.frames, strict=True))
        held = (pair for before, after in pairs for pair in _held(before, after))
        return all(self.frame_covered(before, after) for before, after in pairs) and self.lookups_covered(held)

    def lookups_covered(self, held: Iterable[tuple[object, object]]) -> bool:
        """What came from one lookup there comes from one here."""
        return lookups_within(held)

    def frame_covered(self, old: Frame, new: Frame) -> bool:
        """One frame: the same call, registers, stack, stack arguments, and the ordering flag."""
        return (
            (old.subprog, old.return_to) == (new.subprog, new.return_to)
            and self.order_covered(old, new)
            and all(reg_within(after, before) for before, after in zip(old.regs, new.regs, strict=True))
            and all(slot_within(new.stack.get(at, UNKNOWN), before) for at, before in old.stack.items())
            and self.slots_covered(old, new)
        )

    def order_covered(self, old: Frame, new: Frame) -> bool:
        """A path that could still load stack arguments does not cover one that no longer can."""
        return old.no_stack_arg_load or not new.no_stack_arg_load

    def slots_covered(self, old: Frame, new: Frame) -> bool:
        """Slot by slot; one that is missing holds nothing."""
        for slot, before in enumerate(old.slots):
            if not reg_within(new.slots[slot] if slot < len(new.slots) else NOT_INIT, before):
                return False
        return True

    # --- after the walk

    def _check_stack_depth(self) -> None:
        """The stacks of a chain of calls together stay within 512 bytes. Linux, check_max_stack_depth()."""
        order = cfg.callees_first(self._prog)
        assert isinstance(order, tuple), "cfg.check() refused recursion"
        deepest: dict[int, tuple[int, int]] = {}  # bytes of the deepest chain from a function on, and its length
        for index in order:
            below = max((deepest[callee] for callee in cfg.callees(self._prog, index)), default=(0, 0))
            total, length = below[0] + (self._depth[index] + 15) // 16 * 16, below[1] + 1
            if total > STACK_BYTES:
                text = f"combined stack size of {length} calls is {total}. Too large"
                raise Refusal("stack-depth", text, rules.EACCES)
            deepest[index] = total, length
        if any(self._tails.callers):
            self._tails.check_depth(self._depth, self.slots_used(self._incoming, self._needed))

    def check_stores_used(self) -> None:
        """No function stores more slots than its calls need: the JIT reserves no more. SA-V-45."""
        for index, (stored, needed) in enumerate(zip(self._stored, self._needed, strict=True)):
            if stored > needed:
                text = f"func#{index} writes {stored} stack arg slots, but calls only require {needed}"
                raise Refusal("stack-arg-store-used", text, rules.EINVAL)


def _result(ctype: CType) -> tuple[RegState, RegState]:
    """R0 and R2 after a call of a function that was not walked."""
    return NOT_INIT if isinstance(ctype, CVoid) else UNKNOWN, UNKNOWN if is_pair(ctype) else NOT_INIT


def _held(old: Frame, new: Frame) -> Iterator[tuple[object, object]]:
    """What two frames hold in the same places."""
    yield from zip(old.regs, new.regs, strict=True)
    yield from zip(old.slots, new.slots, strict=False)
    yield from ((value, new.stack.get(at)) for at, value in old.stack.items())


def _null_check(insn: Branch, left: RegState, right: RegState) -> int | None:
    """The lookup that a comparison with 0 decides. Linux kernel/bpf/verifier.c, check_cond_jmp_op()."""
    checks = insn.bits == 64 and insn.op in (op.JEQ, op.JNE) and right == Scalar.const(0)
    return left.lookup if checks and isinstance(left, ValuePtr) and left.lookup else None


def _equal_pointers(insn: Branch, left: RegState, right: RegState, state: State) -> None:
    """Where a register is equal to a pointer that is not NULL, what it has was found; its copies are not told."""
    for reg, value, other in ((insn.dst, left, right), (insn.src.n if isinstance(insn.src, Reg) else 0, right, left)):
        if isinstance(value, ValuePtr) and value.lookup and _never_null(other):
            state.top.regs[reg] = replace(value, lookup=0)


def _never_null(value: RegState) -> bool:
    """Pointers of which Linux says so. Linux kernel/bpf/verifier.c, reg_not_null()."""
    return isinstance(value, MapPtr) or (isinstance(value, ValuePtr) and not value.lookup)


def _pointer_branch(insn: Branch, left: RegState, right: RegState) -> bool | None:
    """A pointer compared with 0 for equality; Linux does not say that those to stack and context are not NULL."""
    plain = isinstance(left, Pointer) and insn.bits == 64 and right == Scalar.const(0) and _never_null(left)
    if plain and insn.op in (op.JEQ, op.JNE):
        return insn.op is op.JNE
    return None


def _with(state: State, insn: Branch, left: Scalar, right: Scalar) -> State:
    """The state on one arm: what the condition says of its operands."""
    state.top.regs[insn.dst] = left
    if isinstance(insn.src, Reg) and insn.src.n != insn.dst:
        state.top.regs[insn.src.n] = right
    return state
