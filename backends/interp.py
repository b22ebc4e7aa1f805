"""The interpreter: runs the table's `sem`; the reference for values and for the call trace."""

from dataclasses import dataclass, field
from typing import Final

from backends.base import CTX_BASE, Call, Job, Outcome, Ran, StackRef, Value, Violation
from backends.calls import HELPER_RESULTS, as_type, result_of
from backends.liveness import args_read
from backends.maps import MAP_HELPERS, MapStore, constant, values_of
from harness.isa import opcodes as op
from harness.isa.calls import HELPERS, TAIL_CALL
from harness.isa.insn import (
    Alu,
    Atomic,
    Branch,
    CallHelper,
    CallKfunc,
    CallSubprog,
    Exit,
    Goto,
    Imm,
    LdImm64,
    Load,
    LoadAcquire,
    LoadArg,
    MayGoto,
    Op,
    PacketLoad,
    Src,
    Store,
    StoreArg,
    StoreRelease,
    Swap,
)  # fmt: skip
from harness.isa.maps import MAX_TAIL_CALLS
from harness.isa.proto import Proto
from harness.isa.slots import callee_slots, is_pair, slots_of

MAX_STEPS: Final = 1_000_000
STACK_BASE: Final = 0x7E57_0000_0000  # far from every constant that cases use
FRAME_STRIDE: Final = 0x1000  # so that one frame's overflow is not another's data
FRAME_BYTES: Final = 512
MAX_FRAMES: Final = 16 * (
    MAX_TAIL_CALLS + 1
)  # a program's, times the programs that tail calls from subprogs put on one stack
FEATURES: Final = frozenset({"stack_args", "kfuncs", "subprogs", "global_funcs", "tail_calls"})


class _FaultError(Exception):
    """The program did what it must not; the verifier should have refused it."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(message)
        self.check = check


@dataclass(slots=True)
class _Frame:
    """One activation. A register or slot that holds nothing is None: reading it is a fault."""

    activation: int
    return_to: int
    regs: list[int | None]
    incoming: list[int | None]
    pair: bool = False  # its result is in R0 and R2
    outgoing: list[int | None] = field(default_factory=lambda: [None] * op.MAX_STACK_ARGS)
    memory: bytearray = field(default_factory=lambda: bytearray(b"\xa5" * FRAME_BYTES))

    @property
    def fp(self) -> int:
        return _fp_of(self.activation)


def _fp_of(activation: int) -> int:
    return STACK_BASE + activation * FRAME_STRIDE + FRAME_BYTES


def normalise(value: int) -> Value:
    """A stack address as a StackRef; every other value as it is."""
    activation, at = divmod(value - STACK_BASE, FRAME_STRIDE)
    if value >= STACK_BASE and activation < MAX_STEPS and at <= FRAME_BYTES:
        return StackRef(activation, at - FRAME_BYTES)
    return value


class _Machine:
    """One run of one program."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ctx = bytearray(job.ctx)
        self.calls: list[Call] = []
        self.activations = 1
        length = len(job.ctx) if job.length_in_r2 else None
        main_regs: list[int | None] = [None, CTX_BASE, length, *[None] * 7, _fp_of(0)]
        self.frames = [_Frame(0, -1, main_regs, [None] * op.MAX_STACK_ARGS)]
        self.pc = self._start_of(job.entry)
        self.values = [bytearray(0 if map_.has_progs else map_.stride * map_.slots) for map_ in job.prog.maps]
        self.maps = MapStore(job.prog.maps, self)
        self.maps.begin(job.updates)
        self.tail_calls = self.helper_calls = 0

    def _start_of(self, number: int) -> int:
        return self.job.prog.subprogs[self.job.prog.mains[number]].start

    def run(self) -> Ran:
        violations: tuple[Violation, ...] = ()
        retval: int | None = None
        try:
            retval = self._loop()
        except _FaultError as fault:
            violations = (Violation(fault.check, str(fault), self.pc),)
        updates = tuple(self.maps.errnos)
        return Ran(retval, bytes(self.ctx), tuple(self.calls), self.maps.contents(), violations, updates=updates)

    def _loop(self) -> int:
        ops = self.job.prog.ops
        for _ in range(MAX_STEPS):
            if not 0 <= self.pc < len(ops):
                raise _FaultError("MEM", f"execution ran out of the program at insn {self.pc}")
            match ops[self.pc]:
                case Exit():
                    if len(self.frames) == 1:
                        return self._read(0)
                    done = self.frames.pop()
                    self._clobber(done.regs[0], done.regs[2] if done.pair else None)
                    self.pc = done.return_to
                case typed:
                    self._step(typed)
        raise _FaultError("END", f"still running after {MAX_STEPS} insns")

    @property
    def top(self) -> _Frame:
        return self.frames[-1]

    def _read(self, reg: int) -> int:
        value = self.top.regs[reg] if reg < len(self.top.regs) else None
        if value is None:
            raise _FaultError("MEM", f"R{reg} is read and holds nothing")
        return value

    def _src(self, src: Src) -> int:
        return src.value & op.MASK64 if isinstance(src, Imm) else self._read(src.n)

    def _step(self, typed: Op) -> None:
        regs, following = self.top.regs, self.pc + 1
        match typed:
            case Alu():
                dst = 0 if typed.op is op.MOV or typed.op in op.MOVSX else self._read(typed.dst)
                mask = (1 << typed.bits) - 1
                regs[typed.dst] = typed.op.sem(dst & mask, self._src(typed.src) & mask, typed.bits) & mask
            case Swap():
                regs[typed.dst] = typed.op.sem(self._read(typed.dst), typed.width // 8)
            case LdImm64():
                value = constant(self.job.prog, typed)
                if value is None:
                    raise _FaultError("MEM", "what this constant stands for is not known here")
                regs[typed.dst], following = value, self.pc + 2
            case Load():
                value = self._load(typed.base, typed.off, typed.size)
                regs[typed.dst] = op.signed(value, 8 * typed.size.bytes) & op.MASK64 if typed.signed else value
            case LoadAcquire():
                regs[typed.dst] = self._load(typed.base, typed.off, typed.size)
            case Store():
                self._store(typed.base, typed.off, typed.size, self._src(typed.src))
            case StoreRelease():
                self._store(typed.base, typed.off, typed.size, self._read(typed.src))
            case Atomic():
                self._atomic(typed)
            case LoadArg():
                if not 0 <= typed.slot < op.MAX_STACK_ARGS:
                    raise _FaultError("MEM", f"there is no stack argument at r11+{typed.off}")
                regs[typed.dst] = self.top.incoming[typed.slot]
            case StoreArg():
                if not 0 <= typed.slot < op.MAX_STACK_ARGS:
                    raise _FaultError("MEM", f"there is no stack argument at r11{typed.off}")
                self.top.outgoing[typed.slot] = self._src(typed.src)
            case _:
                following = self._flow(typed, following)
        self.pc = following

    def _flow(self, typed: Op, following: int) -> int:
        """What goes elsewhere than to the next insn, or nowhere."""
        match typed:
            case Goto():
                return following + typed.off
            case Branch():
                mask = (1 << typed.bits) - 1
                taken = typed.op.holds(self._read(typed.dst) & mask, self._src(typed.src) & mask, typed.bits)
                return following + typed.off if taken else following
            case MayGoto():
                return following  # no program here runs for long enough
            case CallHelper() if typed.id == TAIL_CALL:
                return self._tail_call(following)
            case CallHelper():
                self._call_helper(typed)
                return following
            case CallKfunc():
                self._call_kfunc(typed)
                return following
            case CallSubprog():
                return self._enter(self.pc + 1 + typed.off)
            case PacketLoad():
                raise _FaultError("MEM", "there is no packet")
            case _:
                raise _FaultError("MEM", "this is no insn")

    def _load(self, base: int, off: int, size: op.Size) -> int:
        return int.from_bytes(self.read(self._read(base) + off, size.bytes), "little")

    def _store(self, base: int, off: int, size: op.Size, value: int) -> None:
        address = self._read(base) + off & op.MASK64
        index = self.maps.value_at(address, size.bytes)
        if index is not None and self.job.prog.maps[index].rdonly:
            name = self.job.prog.maps[index].name
            raise _FaultError("MEM", f"{size.bytes} bytes are written to {name}, which programs may only read")
        self.write(address, (value & op.MASK64).to_bytes(8, "little")[: size.bytes])

    def read(self, address: int, size: int) -> bytes:
        """Memory that the program may reach."""
        at, memory = self._memory(address, size)
        return bytes(memory[at : at + size])

    def write(self, address: int, data: bytes) -> None:
        """The same, changed; a whole map at once too."""
        at, memory = self._memory(address, len(data))
        memory[at : at + len(data)] = data

    def _atomic(self, typed: Atomic) -> None:
        """RFC 9669, "Atomic operations": 32-bit results are zero-extended; CMPXCHG compares with R0, and R0 takes the old value."""
        mask = (1 << 8 * typed.size.bytes) - 1
        old, src = self._load(typed.base, typed.off, typed.size), self._read(typed.src)
        r0 = self._read(0) & mask if typed.op is op.CMPXCHG else 0
        self._store(typed.base, typed.off, typed.size, typed.op.sem(old, src & mask, r0))
        if typed.op.fetch:
            self.top.regs[0 if typed.op is op.CMPXCHG else typed.src] = old

    def _memory(self, address: int, size: int) -> tuple[int, bytearray]:
        """(offset, buffer) of an access that lies wholly inside the context or a live frame."""
        address &= op.MASK64
        if address >= CTX_BASE and address + size <= CTX_BASE + len(self.ctx):
            return address - CTX_BASE, self.ctx
        for frame in self.frames:
            if frame.fp - FRAME_BYTES <= address and address + size <= frame.fp:
                return address - (frame.fp - FRAME_BYTES), frame.memory
        for number, memory in enumerate(self.values):
            if values_of(number) == address and size == len(memory):  # all of it: what a MapStore asks for
                return 0, memory
        index = self.maps.value_at(address, size)
        if index is not None:
            return address - values_of(index), self.values[index]
        raise _FaultError("MEM", f"{size} bytes at {address:#x} are neither context nor a live frame nor a map's value")

    def _clobber(self, result: int | None, high: int | None = None) -> None:
        self.top.regs[:6] = [result, None, high, None, None, None]
        self.top.outgoing = [None] * op.MAX_STACK_ARGS

    def _tail_call(self, following: int) -> int:
        """TC-01 to TC-10: out of range, then the limit, then the empty slot; a miss counts nothing and leaves the frame."""
        ctx, index = self._read(1), self.maps.find(self._read(2))
        if index is None or not self.maps.maps[index].has_progs:
            raise _FaultError("MEM", f"bpf_tail_call: {self._read(2):#x} is no prog array")
        number = self.maps.prog_at(index, self._read(3) & op.MASK32)
        if number is None or self.tail_calls >= MAX_TAIL_CALLS:
            self._clobber(None)
            return following
        self.tail_calls += 1
        main = self.job.prog.mains[number]
        self.calls.append(Call(self.pc, self.job.prog.subprogs[main].name, True, (normalise(ctx),)))
        regs: list[int | None] = [None, ctx, *[None] * 8, _fp_of(self.activations)]
        self.frames[-1] = _Frame(self.activations, self.top.return_to, regs, [None] * op.MAX_STACK_ARGS)
        self.activations += 1
        return self._start_of(number)

    def _note_helper(self) -> None:
        """What happens to prog arrays while a helper or kfunc runs."""
        for at, update in self.job.during:
            if at == self.helper_calls:
                self.maps.set_prog(update.map, update.key, update.prog)
        self.helper_calls += 1

    def _call_helper(self, typed: CallHelper) -> None:
        helper = HELPERS.get(typed.id)
        if helper is None:
            raise _FaultError("MEM", f"there is no helper {typed.id}")
        args = self._args(helper.proto)
        self.calls.append(Call(self.pc, helper.name, False, tuple(normalise(value) for value in args)))
        self._note_helper()
        result = self.maps.call(helper.name, args) if helper.name in MAP_HELPERS else HELPER_RESULTS[helper.name]
        if result is None:
            raise _FaultError("MEM", f"{helper.name}: {args[0]:#x} is no map")
        self._clobber(result)

    def _arg(self, index: int) -> int | None:
        return self.top.regs[index + 1] if index < op.MAX_REG_ARGS else self.top.outgoing[index - op.MAX_REG_ARGS]

    def _args(self, proto: Proto) -> list[int]:
        values: list[int] = []
        for index, slot in enumerate(slots_of(proto)):
            value = self._arg(index) if index < op.MAX_ARGS else None
            if value is None:
                raise _FaultError("ABI-ARG", f"argument {index + 1} `{slot.name}` of {proto.name} was never set")
            values.append(value)
        return values

    def _call_kfunc(self, typed: CallKfunc) -> None:
        proto = self.job.prog.kfunc(typed.btf_id)
        if proto is None:
            raise _FaultError("MEM", f"there is no kfunc {typed.btf_id}")
        args = self._args(proto)
        self.calls.append(Call(self.pc, proto.name, False, tuple(normalise(value) for value in args)))
        self._note_helper()
        seen = [as_type(value, slot.type) for value, slot in zip(args, slots_of(proto), strict=True)]
        result = result_of(self.job.body(proto.name), seen)
        self._clobber(result & op.MASK64, result >> 64 if is_pair(proto.result) else None)

    def _enter(self, target: int) -> int:
        """Pushes the callee's frame; gives the insn to go on at."""
        index = self.job.prog.subprog_at(target)
        if index is None or len(self.frames) >= MAX_FRAMES:
            raise _FaultError("MEM", f"a call to insn {target}: no subprog starts there, or the call stack is too deep")
        subprog = self.job.prog.subprogs[index]
        if subprog.proto is None:
            read = args_read(self.job.prog, index)
            values = [self._arg(i) if i + 1 in read else None for i in range(op.MAX_REG_ARGS)]
        else:
            count = len(callee_slots(subprog.proto))
            values = [self._arg(i) for i in range(min(count, op.MAX_ARGS))]
        self.calls.append(Call(self.pc, subprog.name, True, tuple(v if v is None else normalise(v) for v in values)))
        regs = [None, *self.top.regs[1:6], None, None, None, None, _fp_of(self.activations)]
        pair = subprog.proto is not None and is_pair(subprog.proto.result)
        self.frames.append(_Frame(self.activations, self.pc + 1, regs, self.top.outgoing, pair))
        self.activations += 1
        return target


class Interpreter:
    """The back end `interp`."""

    name = "interp"
    features = FEATURES

    def run(self, job: Job) -> Outcome:
        """Runs the program as loaded, before the verifier's rewrites."""
        return _Machine(job).run()
