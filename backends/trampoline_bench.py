"""Runs a trampoline in the emulator, with native code of the function that it traces and of the programs that it calls.

What is right is worked out here from the ABI document's layout and the programs' meaning, not from the trampoline's plan.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from backends import emulator as emu
from backends import trampoline_code
from backends.abi import EIGHTBYTE, InReg, Layout, Placed
from backends.abis import ARCHES
from backends.base import Violation
from backends.bpf_layout import bpf_layout
from backends.decode import Native
from backends.probe import PLATFORM_REG, RED_BYTES
from backends.trampoline import HOOKS, Attached, Kind, Places, Program, Target
from backends.trampoline_code import TRAMPOLINE_AT, Code, Reader, prog_address
from harness.isa.ctypes import rounded_up
from harness.isa.proto import Proto
from harness.isa.verified import Verified

_OBJECTS: Final = 0x6B70_0000_0000  # of programs, a page each; the image's own before them
_POISON: Final = 0xBAD0_BAD0_BAD0_0000
_FILL: Final = 0xE5
_BEHIND: Final = 0xB7  # what BPF code has above a narrow value
_UNTOUCHED: Final = 0xE7  # what is noted where nothing was
# What a kernel is built for: GCC leaves CONFIG_ARM64_BTI_KERNEL out.
_LANDING: Final = {"arm64": b"", "x86_64": bytes.fromhex("f30f1efa")}
_VECTORS: Final = {"arm64": "v", "x86_64": "xmm"}
MOST_INSNS: Final = 100_000
_LEAVES: Final = ("bl", "blr", "br", "ret", "call")  # what may be followed by the insn that a callee returns to


@dataclass(frozen=True, slots=True)
class Step:
    """A program as it is attached: what it returns, and whether the kernel refuses to enter it. TR-62.

    `cookie` is what bpf_get_attach_cookie() gives it, 0 for none. `prog` is its own text, which says by itself what it returns;
    without, it notes what it finds.
    """

    kind: Kind
    returns: int = 0
    refused: bool = False
    cookie: int = 0
    prog: Verified | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A call of a traced function: each argument and the result as bytes, and the programs in the order of attachment."""

    proto: Proto
    args: tuple[bytes, ...]
    result: bytes
    steps: tuple[Step, ...]
    func_ip: bool = False
    target: Target = Target.KERNEL
    tail_call: bool = False

    @property
    def attached(self) -> Attached:
        """The programs as a trampoline calls them."""
        programs = (Program(step.kind, prog_address(n), object_of(n), step.cookie) for n, step in enumerate(self.steps))
        return Attached(tuple(programs), self.func_ip, self.tail_call)


@dataclass(slots=True)
class Outcome:
    """What happened: events in order, what each program found in ctx, what the original and the caller got."""

    events: list[str] = field(default_factory=list)
    ctx: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    args: tuple[bytes, ...] | None = None  # as the original had them
    result: bytes | None = None  # as the caller got it
    violations: list[Violation] = field(default_factory=list)


def object_of(number: int) -> int:
    """The address that stands for its object."""
    return _OBJECTS + 0x1000 * (number + 1)


def places(arch: str, target: Target = Target.KERNEL) -> Places:
    """Where everything is that a trampoline for the bench has to know."""
    hooks = {name: emu.PADS_BASE + number * emu.PAD_STRIDE for number, name in enumerate(HOOKS)}
    body = emu.CODE_BASE + len(trampoline_code.entry(arch, target, jumps=False))
    return Places(TRAMPOLINE_AT, emu.CODE_BASE, body, _OBJECTS, hooks)


def layout_of(arch: str, call: "Scenario") -> Layout:
    """Where the document that the caller follows has everything."""
    abi, layout = ARCHES[arch]
    return bpf_layout(abi, call.proto) if call.target is Target.BPF else layout(call.proto)


def expected_events(steps: Sequence[Step]) -> list[str]:
    """What has to happen, in order. TR-60 to TR-62."""
    indexed = list(enumerate(steps))
    calls = any(step.kind.calls_original for step in steps)

    def run(kinds: tuple[Kind, ...]) -> Iterator[tuple[int, Step]]:
        return ((number, step) for number, step in reversed(indexed) if step.kind in kinds)

    events = ["enter"] if calls else []
    for number, _ in run((Kind.FENTRY, Kind.FSESSION, Kind.STRUCT_OPS)):
        events += _invoked(number, steps)
    replaced = False
    for number, step in run((Kind.FMOD_RET,)):
        events += _invoked(number, steps)
        if step.returns and not step.refused:
            replaced = True
            break
    events += [] if replaced or any(step.kind is Kind.STRUCT_OPS for step in steps) else ["original"]
    for number, _ in run((Kind.FEXIT, Kind.FSESSION)):
        events += _invoked(number, steps)
    return [*events, "exit"] if calls else events


def _invoked(number: int, steps: Sequence[Step]) -> list[str]:
    middle = [] if steps[number].refused else [f"{steps[number].kind.value} {number}"]
    return [f"enter {number}", *middle, f"exit {number}"]


@dataclass(slots=True)
class _Running:
    """A program, or the traced function, that was entered and has not returned. `number` is None for the function."""

    who: str
    number: int | None
    sp: int  # at its entry
    return_to: int
    kept: tuple[int, ...]  # registers that it has to keep
    incoming: int  # bytes of stack arguments


class TrampolineBench:
    """One emulated CPU."""

    def __init__(self, arch: str) -> None:
        self.arch = arch
        self.abi = ARCHES[arch][0]
        self.cpu = emu.Emulator(arch)
        self.cpu.map_data(trampoline_code.RECORDS, trampoline_code.RECORDS_BYTES)
        self._kept = [*self.abi.callee_saved, *PLATFORM_REG[arch]]
        self.names = [self.abi.sp, *self._kept, *self.abi.caller_saved]
        self.regs = self.cpu.regs(self.names)
        self._scratch_names = [reg for reg in self.abi.caller_saved if reg != "x30"]
        self._scratch = self.cpu.regs(self._scratch_names)
        self._flags = self.cpu.regs([self.cpu.flags])
        self._result = self.cpu.regs([self.abi.result])
        self._vector_names = [f"{_VECTORS[arch]}{number}" for number in range(trampoline_code.VECTOR_REGISTERS)]
        self._vectors = self.cpu.wide_regs(self._vector_names)
        self._sp_pc = self.cpu.regs([self.abi.sp, "pc" if arch == "arm64" else "rip"])
        self._pads = {emu.PADS_BASE + n * emu.PAD_STRIDE: name for n, name in enumerate(HOOKS)}

    def run(self, scenario: Scenario, code: bytes) -> Outcome:
        """Calls the traced function once; never raises for what the trampoline does."""
        self.scenario, self._out = scenario, Outcome()
        self.truth = layout_of(self.arch, scenario)
        whole = scenario.target is Target.BPF
        self.args = [_whole(raw) if whole else raw for raw in scenario.args]
        self.given = _whole(scenario.result) if whole else scenario.result
        self._most_events = len(expected_events([replace(step, returns=0) for step in scenario.steps])) + 8
        self._cookies: dict[int, int] = {}
        self.final = self.given
        self._body = places(self.arch, scenario.target).body
        self._running: list[_Running] = []
        self._returns = {number: step.returns for number, step in enumerate(scenario.steps) if step.prog is None}
        self.cpu.map_values(())
        self._load(code)
        self.cpu.write(emu.STACK_BASE, bytes([_FILL]) * emu.STACK_BYTES)
        records = (1 + len(scenario.steps)) * trampoline_code.RECORD_BYTES
        self.cpu.write(trampoline_code.RECORDS, bytes([_UNTOUCHED]) * records)
        self.set_up()
        called = scenario.target is Target.STRUCT_OPS
        if called and not code.startswith(_LANDING[self.arch]):
            self.report(
                "ABI-LAND", "the trampoline, which is called through a pointer, has no landing pad", TRAMPOLINE_AT
            )
        entry = TRAMPOLINE_AT if called else self.entry()
        fault = self.cpu.run(entry, self.on_code, self._on_memory, MOST_INSNS)
        if fault is not None:
            who = f"{self._running[-1].who}: " if self._running else ""
            self.report("END" if fault.endless else "MEM", f"{who}{fault.what}", fault.pc)
        elif self.cpu.pc() == emu.STOP:
            self.finish()
        return self._out

    # --- what is native code

    def _load(self, code: bytes) -> None:
        """The traced function, the trampoline and the programs, each in its place."""
        trampoline = trampoline_code.code_at(self.arch, TRAMPOLINE_AT, code)
        self._trampoline = range(TRAMPOLINE_AT, TRAMPOLINE_AT + len(code))
        parts = [trampoline, *self.functions(), *self._programs()]
        image = bytearray(max(part.address + len(part.raw) for part in parts) - emu.CODE_BASE)
        self.insns: dict[int, Native] = {}
        for part in parts:
            at = part.address - emu.CODE_BASE
            image[at : at + len(part.raw)] = part.raw
            self.insns |= part.insns
        programs = (prog_address(number) for number, _ in enumerate(self.scenario.steps))
        watched = {self._body, *programs, *return_sites(trampoline.insns), *self.watched()}
        self.cpu.load(bytes(image), sorted(watched))

    def entry(self) -> int:
        """Where the caller begins: it has set up its call."""
        return emu.CODE_BASE

    def watched(self) -> Iterable[int]:
        """What `on_code` wants to be called at."""
        return ()

    def _programs(self) -> Iterator[Code]:
        """Which words of ctx each may read, and what it returns."""
        for number, step in enumerate(self.scenario.steps):
            if step.prog is not None:
                yield trampoline_code.own_program(self.arch, number, step.prog)
                continue
            returns = {Kind.FMOD_RET: step.returns, Kind.STRUCT_OPS: self._of_member()}.get(step.kind, 0)
            words = self._words + (step.kind not in (Kind.FENTRY, Kind.STRUCT_OPS))
            session = step.kind is Kind.FSESSION
            reader = Reader(self.arch, number, words, returns, session, self.scenario.func_ip)
            yield trampoline_code.program(reader)

    @property
    def _words(self) -> int:
        """Of arguments in ctx."""
        return sum(rounded_up(len(raw), EIGHTBYTE) for raw in self.scenario.args) // EIGHTBYTE

    def functions(self) -> Iterator[Code]:
        """The traced function, if there is one."""
        target, jumps = self.scenario.target, self.scenario.attached.calls_original
        if target is Target.STRUCT_OPS:
            return
        if self._is_bpf():
            low, high = (int.from_bytes(self._register(at), "little") for at in (0, EIGHTBYTE))
            pair = len(self.given) > EIGHTBYTE
            wanted = trampoline_code.BpfFunction(
                self.arch, self._words, low, high, pair, self.scenario.tail_call, jumps
            )
            yield trampoline_code.bpf_function(wanted)
            return
        words = rounded_up(self.truth.stack_bytes, EIGHTBYTE) // EIGHTBYTE
        yield trampoline_code.c_function(self.arch, words, jumps=jumps, destroys=jumps, target=target)

    def _is_bpf(self) -> bool:
        """Whether the function is one of a BPF program, and not of too many words to be one."""
        return self.scenario.target is Target.BPF and trampoline_code.takes_words(self._words)

    def _register(self, at: int) -> bytes:
        """What the traced function leaves in a register with its result from byte `at` on."""
        return self.given[at : at + EIGHTBYTE].ljust(EIGHTBYTE, bytes([_BEHIND]))

    # --- the caller

    def set_up(self) -> None:
        """Registers and stack at the call."""
        values = {name: _POISON + n for n, name in enumerate(self.names)}
        sp = emu.STACK_TOP - 0x400
        values[self.abi.sp] = sp - self.abi.return_address_bytes
        vectors = {name: bytearray([_FILL]) * emu.WideRegFile.BYTES for name in self._vector_names}
        area = bytearray(b"\xb5" * self.truth.stack_bytes)
        for placed, raw in zip(self.truth.args, self.args, strict=True):
            for piece in placed.pieces:
                part = raw[piece.at : piece.at + piece.size]
                if not isinstance(piece.where, InReg):
                    area[piece.where.off : piece.where.off + len(part)] = part
                elif piece.where.reg in vectors:
                    vectors[piece.where.reg][: len(part)] = part
                else:
                    low = int.from_bytes(part, "little")
                    mask = (1 << 8 * len(part)) - 1
                    values[piece.where.reg] = low | values[piece.where.reg] & ~mask
        self.cpu.write(sp, bytes(area))
        self.to_stop(values)
        self.called(values)
        self._write_result()
        self.regs.write([values[name] for name in self.names])
        self._vectors.write(map(bytes, vectors.values()))

    def to_stop(self, values: dict[str, int]) -> None:
        """What is entered with these registers returns to where the run ends."""
        if self.abi.return_address_bytes:
            self.cpu.write(values[self.abi.sp], emu.STOP.to_bytes(EIGHTBYTE, "little"))
        else:
            values["x30"] = emu.STOP

    def called(self, values: dict[str, int]) -> None:
        """The traced function, or the member, is entered: what has to be the same when it returns."""
        self._caller_sp = values[self.abi.sp] + self.abi.return_address_bytes
        self._before = values
        self._above = self.cpu.read(self._caller_sp, emu.STACK_TOP - self._caller_sp)

    def function_bytes(self) -> int:
        """What the traced function overwrote of its caller's stack arguments, which are its own."""
        return 0

    def _write_result(self) -> None:
        """What a C function takes its result from."""
        placed = self.truth.result
        pieces = placed.pieces if placed is not None and not placed.by_reference else ()
        of_reg = {piece.where.reg: piece.at for piece in pieces if isinstance(piece.where, InReg)}
        words = [self._register(of_reg.get(reg, len(self.given))) for reg in trampoline_code.RESULTS[self.arch]]
        at = trampoline_code.record_of(-1) + EIGHTBYTE * trampoline_code.RESULT
        self.cpu.write(at, b"".join(words))

    def finish(self) -> None:
        """The run ends where the caller goes on."""
        self.returned()

    def returned(self) -> None:
        """The caller goes on."""
        while self._running:
            self._returned(self._running.pop())
        values = self.values()
        if values[self.abi.sp] != self._caller_sp:
            self.report("ABI-SAVED", f"the caller is back with SP {values[self.abi.sp]:#x}, not {self._caller_sp:#x}")
        self._check_kept(values, "the caller is back")
        mine = self.function_bytes()
        if self.cpu.read(self._caller_sp + mine, len(self._above) - mine) != self._above[mine:]:
            self.report("ABI-STACK", "the caller's own stack changed")
        steps = [replace(step, returns=self._returns.get(number, 0)) for number, step in enumerate(self.scenario.steps)]
        if self._out.events != (expected := expected_events(steps)):
            wanted, got = "; ".join(expected), "; ".join(self._out.events)
            self.report("TRAMP-ORDER", f"{got}, not {wanted}")
        placed = self.truth.result
        if placed is not None and not placed.by_reference:
            regs = {reg: value.to_bytes(EIGHTBYTE, "little") for reg, value in values.items()}
            back = self.passed(placed, _fetched(placed, regs, b""), self.given)
            wanted_back = self.final[: len(back)]
            if back != wanted_back:
                self.report("TRAMP-RESULT", f"the caller gets {_hex(back)}, not {_hex(wanted_back)}")
            self._out.result = back[: len(self.scenario.result)]

    def _check_kept(self, values: Mapping[str, int], when: str) -> None:
        for reg in self._kept:
            if values[reg] != self._before[reg]:
                self.report("ABI-SAVED", f"{when} with {reg} = {values[reg]:#x}; it was {self._before[reg]:#x}")

    # --- the traced function and its programs

    def on_code(self, address: int) -> None:
        """A watched address is about to execute."""
        if self._running and address == self._running[-1].return_to:
            self._on_return()
        elif address == self._body:
            self._on_function()
        elif address in self._pads:
            self._hook(self._pads[address])
        elif (number := self._program_at(address)) is not None:
            self._on_program(number)
        elif address >= emu.PADS_BASE and (address - emu.PADS_BASE) % emu.PAD_STRIDE == 0:
            self.report("TRAMP-ORDER", f"a call to {address:#x}, where nothing is")
            self.cpu.stop()

    def _program_at(self, address: int) -> int | None:
        number, rest = divmod(address - prog_address(0), trampoline_code.PROGRAM_BYTES)
        return number if not rest and 0 <= number < len(self.scenario.steps) else None

    def _entered(self, who: str, number: int | None, values: Mapping[str, int], incoming: int) -> None:
        sp = values[self.abi.sp]
        kept = tuple(values[reg] for reg in self._kept)
        self._running.append(_Running(who, number, sp, self.return_address(values), kept, incoming))

    def return_address(self, values: Mapping[str, int]) -> int:
        """Of what was just entered."""
        if self.abi.return_address_bytes:
            return int.from_bytes(self.cpu.read(values[self.abi.sp], EIGHTBYTE), "little")
        return values["x30"]

    def _on_return(self) -> None:
        """A program, or the function that the trampoline called, is back; what it may have destroyed is destroyed."""
        done, values = self._running.pop(), self.values()
        for reg, was, now in zip(self._kept, done.kept, (values[reg] for reg in self._kept), strict=True):
            if now != was:
                self.report("ABI-SAVED", f"{done.who} returns with {reg} = {now:#x}; it was {was:#x} at entry")
        back = done.sp + self.abi.return_address_bytes
        if values[self.abi.sp] != back:
            self.report("ABI-SAVED", f"{done.who} returns with SP {values[self.abi.sp]:#x}, not {back:#x}")
        results = trampoline_code.RESULTS[self.arch] if done.number is None else (self.abi.result,)
        if done.number is not None and self.scenario.steps[done.number].prog is not None:
            self._returns[done.number] = values[self.abi.result]
        self.cpu.write(back, b"\xd7" * done.incoming)  # its own arguments' memory was its own
        self._destroy(values, results)
        self._returned(done)

    def _returned(self, done: _Running) -> None:
        """What it noted."""
        if done.number is None:
            self._check_args()
            return
        if self.scenario.steps[done.number].prog is None:
            self._check_ctx(done.number, self._note(done.number, trampoline_code.CTX + self._words + 1))
        self._note_returned(done.number)

    def _note_returned(self, number: int) -> None:
        """TR-61: what an fmod_ret program returns, if it is not 0, is the function's result."""
        returns = self._returns.get(number, 0) & (1 << 64) - 1
        if self.scenario.steps[number].kind is Kind.FMOD_RET and returns:
            self.final = returns.to_bytes(8, "little").ljust(16, b"\0")

    def _note(self, number: int, words: int) -> list[int]:
        """The first words of a record."""
        raw = self.cpu.read(trampoline_code.record_of(number), EIGHTBYTE * words)
        return [int.from_bytes(raw[at : at + EIGHTBYTE], "little") for at in range(0, len(raw), EIGHTBYTE)]

    def _hook(self, name: str) -> None:
        values = self.values()
        self._check_sp(values, name)
        first, second = (values[reg] for reg in self.abi.int_args[:2])
        number, rest = divmod(first - _OBJECTS, 0x1000)
        result = _POISON
        if name in ("__bpf_tramp_enter", "__bpf_tramp_exit"):
            self._event(name.removeprefix("__bpf_tramp_"))
            if first != _OBJECTS:
                self.report("ABI-ARG", f"{name} is given the image {first:#x}, not {_OBJECTS:#x}")
        elif rest or not 1 <= number <= len(self.scenario.steps):
            self.report("ABI-ARG", f"{name} is given {first:#x}, which is no program")
            self.cpu.stop()
        else:
            self._event(f"{name.removeprefix('__bpf_prog_')} {number - 1}")
            refused = self.scenario.steps[number - 1].refused
            if name == "__bpf_prog_enter":
                self._check_cookie(number - 1, second)
            start = 0 if refused else 0x1234_5678_9000 + number
            if name == "__bpf_prog_exit" and second != start:
                self.report(
                    "ABI-ARG", f"{name} of program {number - 1} is given the start time {second:#x}, not {start:#x}"
                )
            result = start
        self._destroy(values)
        self._result.write([result & (1 << 64) - 1])

    def _check_cookie(self, number: int, run_context: int) -> None:
        """The first word of what a program runs in. TR-40, TR-50."""
        wanted = self.scenario.steps[number].cookie
        try:
            got = int.from_bytes(self.cpu.read(run_context, EIGHTBYTE), "little")
        except emu.UnmappedError as error:
            self.report("TRAMP-CTX", f"program {number} runs in {error}, where nothing is")
            return
        if got != wanted:
            self.report("TRAMP-CTX", f"program {number} has the cookie {got:#x}, not {wanted:#x}")

    def _on_program(self, number: int) -> None:
        values = self.values()
        step, ctx = self.scenario.steps[number], values[self.abi.int_args[0]]
        who = f"{step.kind.value} program {number}"
        self._check_sp(values, f"program {number}")
        self._event(f"{step.kind.value} {number}")
        try:
            self.cpu.read(ctx - 2 * EIGHTBYTE, EIGHTBYTE * (self._words + 3))
        except emu.UnmappedError as error:
            self.report("TRAMP-CTX", f"{who}: ctx is {ctx:#x}: {error}, where nothing is")
            self.cpu.stop()
            return
        if step.prog is not None:
            self._check_ctx(number, self._given_to_own(number, ctx))
        self._entered(who, number, values, 0)
        self._destroy(values, self.abi.int_args[:1])

    def _of_member(self) -> int:
        """What a struct_ops program leaves in R0."""
        low = self.given[:EIGHTBYTE]
        return int.from_bytes(low, "little") | _POISON >> 8 * len(low) << 8 * len(low)

    def _given_to_own(self, number: int, ctx: int) -> list[int]:
        """What a program that notes nothing is given: the words that another would have noted."""
        raw = self.cpu.read(ctx - 2 * EIGHTBYTE, EIGHTBYTE * (self._words + 3))
        ip, meta, *words = (int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), EIGHTBYTE))
        cookie_at = ctx - EIGHTBYTE * (meta >> 8 & 0xFF)
        cookie = self._cookies.get(number, 0)
        if self.scenario.steps[number].kind is Kind.FSESSION:
            cookie = int.from_bytes(self.cpu.read(cookie_at, EIGHTBYTE), "little")
        return [meta, ip, cookie_at, cookie, *words]

    def _check_ctx(self, number: int, words: Sequence[int]) -> None:
        """What a program found, or finds. TR-10 to TR-13."""
        step, count = self.scenario.steps[number], self._words
        who = f"{step.kind.value} program {number}"
        meta, of_ctx = words[trampoline_code.META], words[trampoline_code.CTX :]
        array = b"".join(word.to_bytes(EIGHTBYTE, "little") for word in of_ctx)
        read = count + (step.kind not in (Kind.FENTRY, Kind.STRUCT_OPS))
        self._out.ctx.append((f"{step.kind.value} {number}", tuple(of_ctx[:read])))
        if meta & 0xFF != count:
            self.report("TRAMP-CTX", f"{who}: {meta & 0xFF} words of arguments, not {count}")
        at = 0
        rows = zip(self.truth.args, self.scenario.proto.params, self.scenario.args, strict=True)
        for index, (placed, param, wanted) in enumerate(rows, 1):
            got = self.passed(placed, array[at : at + len(wanted)], wanted)
            if got != wanted:
                text = (
                    f"{who}: argument {index} `{param.name}` ({placed.rule}) at ctx[{at // 8}] is {_hex(got)}, "
                    f"not {_hex(wanted)}"
                )
                self.report("TRAMP-CTX", text)
            at += rounded_up(len(wanted), EIGHTBYTE)
        self._check_ctx_result(who, step, array[at : at + EIGHTBYTE], meta)
        if step.kind is Kind.FSESSION:
            self._check_session(who, number, words)
        if self.scenario.func_ip and words[trampoline_code.FUNC_IP] != emu.CODE_BASE:
            ip = words[trampoline_code.FUNC_IP]
            self.report("TRAMP-CTX", f"{who}: the function's address at ctx[-2] is {ip:#x}, not {emu.CODE_BASE:#x}")

    def _check_ctx_result(self, who: str, step: Step, got: bytes, meta: int) -> None:
        """TR-10, TR-11: behind the arguments, not at their number."""
        before = step.kind is Kind.FMOD_RET or (step.kind is Kind.FSESSION and not meta >> 63)
        if step.kind in (Kind.FENTRY, Kind.STRUCT_OPS):
            return
        replaced = self.final is not self.given
        length = EIGHTBYTE if replaced or before else min(len(self.scenario.result), EIGHTBYTE)
        wanted = bytes(EIGHTBYTE) if before else self.final[:length]
        if got[:length] != wanted:
            self.report(
                "TRAMP-CTX", f"{who}: the result behind the arguments is {_hex(got[:length])}, not {_hex(wanted)}"
            )

    def _check_session(self, who: str, number: int, words: Sequence[int]) -> None:
        """TR-65: a word of its own, 0 at entry, kept until the return."""
        value = words[trampoline_code.COOKIE]
        returning = bool(words[trampoline_code.META] >> 63)
        if returning != (number in self._cookies):
            self.report("TRAMP-CTX", f"{who}: the meta word says {'return' if returning else 'entry'}")
        if value != self._cookies.get(number, 0):
            self.report("TRAMP-CTX", f"{who}: the session cookie is {value:#x}, not {self._cookies.get(number, 0):#x}")
        self._cookies[number] = trampoline_code.NEW_COOKIE + number if self.scenario.steps[number].prog is None else 0

    def _on_function(self) -> None:
        """The traced function is entered, behind its patched entry."""
        values = self.values()
        self._event("original")
        sp = values[self.abi.sp] + self.abi.return_address_bytes
        if sp % self.truth.stack_align or (self.arch == "arm64" and sp % 16):
            self.report(
                "ABI-SP", f"SP is {sp:#x} at the traced function, no multiple of {max(self.truth.stack_align, 8)}"
            )
        if self.scenario.tail_call and self.arch == "x86_64" and values["rax"] != self._before["rax"]:
            counter, wanted_counter = values["rax"], self._before["rax"]
            text = f"the tail-call counter's address in rax is {counter:#x}, not {wanted_counter:#x}"
            self.report("TRAMP-ARG", text)
        copied = self.scenario.attached.calls_original
        if not copied:
            self._check_kept(values, "the traced function begins")
            if sp != self._caller_sp:
                self.report("ABI-SAVED", f"the traced function begins with SP {sp:#x}, not {self._caller_sp:#x}")
        self._entered("the traced function", None, values, self.truth.stack_bytes if copied else 0)

    def _check_args(self) -> None:
        """What the traced function found, which has returned."""
        got = list(self.noted_args())
        rows = zip(self.truth.args, self.scenario.proto.params, self.args, got, strict=True)
        for index, (placed, param, wanted, found) in enumerate(rows, 1):
            if found != wanted:
                where = ", ".join(str(piece.where) for piece in placed.pieces)
                text = (
                    f"argument {index} `{param.name}` at {where} ({placed.rule}) is {_hex(found)}, not {_hex(wanted)}"
                )
                self.report("TRAMP-ARG", text)
        self._out.args = tuple(got)

    def passed(self, placed: Placed, got: bytes, wanted: bytes) -> bytes:
        """What was got, padding that the ABI does not pass as it was wanted."""
        is_passed = (
            any(piece.at <= at < piece.at + piece.size for piece in placed.pieces) for at in range(len(wanted))
        )
        return bytes(one if here else other for one, other, here in zip(got, wanted, is_passed, strict=True))

    def noted_args(self) -> Iterator[bytes]:
        """A BPF function notes eightbyte after eightbyte, a C function registers and stack, where the document has arguments."""
        record = self.cpu.read(trampoline_code.record_of(-1), trampoline_code.RECORD_BYTES)
        if self._is_bpf():
            at = 0
            for wanted in self.args:
                yield record[at : at + len(wanted)]
                at += len(wanted)
            return
        stack = record[EIGHTBYTE * trampoline_code.STACK :]
        regs = {
            reg: record[EIGHTBYTE * index :][:EIGHTBYTE] for index, reg in enumerate(trampoline_code.NOTED[self.arch])
        }
        size = emu.WideRegFile.BYTES
        vectors = record[EIGHTBYTE * trampoline_code.VECTORS :]
        regs |= {reg: vectors[size * index :][:size] for index, reg in enumerate(self._vector_names)}
        for placed, wanted in zip(self.truth.args, self.args, strict=True):
            yield self.passed(placed, _fetched(placed, regs, stack), wanted)

    # --- all of them

    def _destroy(self, values: Mapping[str, int], but: Sequence[str] = ()) -> None:
        """Registers that a callee may destroy, flags, and what is below SP, as an interrupt would."""
        poison = {reg: _POISON + 0x800 + n for n, reg in enumerate(self._scratch_names)}
        self._scratch.write([(values if reg in but else poison)[reg] for reg in self._scratch_names])
        self._flags.write([0xF000_0000 if self.arch == "arm64" else 0])
        self._redden(values[self.abi.sp])

    def _redden(self, sp: int) -> None:
        low = max(sp - RED_BYTES, emu.STACK_BASE)
        if emu.STACK_BASE < sp <= emu.STACK_BASE + emu.STACK_BYTES:
            self.cpu.write(low, b"\xd1" * (sp - low))

    def values(self) -> dict[str, int]:
        """Every general register that a call is about."""
        return dict(zip(self.names, self.regs.read(), strict=True))

    def _event(self, what: str) -> None:
        self._out.events.append(what)
        if len(self._out.events) > self._most_events:
            self.report("TRAMP-ORDER", "; ".join(self._out.events))
            self.cpu.stop()

    def _check_sp(self, values: Mapping[str, int], who: str) -> None:
        sp = values[self.abi.sp] + self.abi.return_address_bytes
        if sp % self.abi.stack_align:
            self.report("ABI-SP", f"SP is {sp:#x} at the call of {who}, no multiple of {self.abi.stack_align}")

    def _on_memory(self, is_write: bool, address: int, size: int) -> None:
        if not emu.STACK_BASE <= address < emu.STACK_BASE + emu.STACK_BYTES:
            return
        sp, pc = self._sp_pc.read()
        native = self.insns.get(pc)
        if native is None:
            return  # a landing pad
        word = "writes" if is_write else "reads"
        if native.base == self.abi.sp and self.arch == "arm64" and sp % 16:
            self.report("ABI-SP", f"`{native.text}` uses SP {sp:#x}, no multiple of 16", pc)
        if address < sp - native.pushes:
            self.report("ABI-STACK", f"`{native.text}` {word} {sp - address} bytes below SP", pc)
        elif pc in self._trampoline:
            self._check_access(native, is_write, address, size, pc)
        elif self._running and native.base in (self.abi.sp, self.abi.fp):
            self._check_callee_access(self._running[-1], native, address + size, pc)

    def _check_access(self, native: Native, is_write: bool, address: int, size: int, pc: int) -> None:
        """The trampoline's."""
        top = self._caller_sp if is_write else self._caller_sp + self.truth.stack_bytes
        if is_write and address + size > self._caller_sp - self.abi.return_address_bytes:
            self.report(
                "ABI-SAVED", f"`{native.text}` writes to its caller's frame, at SP+{address - self._caller_sp}", pc
            )
        elif address + size > top:
            self.report(
                "ABI-STACK", f"`{native.text}` reads {address - self._caller_sp} bytes above its caller's SP", pc
            )

    def _check_callee_access(self, top: _Running, native: Native, end: int, pc: int) -> None:
        """A program's or the traced function's: through SP or a frame pointer it reaches its own frame and arguments."""
        args = top.sp + self.abi.return_address_bytes
        if end > args + rounded_up(self.truth.stack_bytes if top.number is None else 0, EIGHTBYTE):
            self.report("ABI-STACK", f"{top.who}: `{native.text}` reaches {end - args} bytes above its frame", pc)

    def report(self, check: str, message: str, pc: int | None = None) -> None:
        """A rule that is broken; after sixteen the run ends."""
        offset = pc - TRAMPOLINE_AT if pc is not None and pc in self._trampoline else None
        self._out.violations.append(Violation(check, message, None, offset))
        if len(self._out.violations) >= 16:
            self.cpu.stop()


def return_sites(insns: Mapping[int, Native]) -> Iterator[int]:
    """Where what code calls comes back to: behind a call, or behind a return that enters the traced function (TR-44)."""
    return (address + native.size for address, native in insns.items() if native.mnemonic in _LEAVES)


def _fetched(placed: Placed, regs: Mapping[str, bytes], stack: bytes) -> bytes:
    """An argument or result from registers and stack."""
    raw = bytearray(placed.size)
    for piece in placed.pieces:
        where = regs[piece.where.reg] if isinstance(piece.where, InReg) else stack[piece.where.off :]
        raw[piece.at : piece.at + piece.size] = where[: piece.size]
    return bytes(raw)


def _whole(raw: bytes) -> bytes:
    """A value of BPF code: registers of 64 bits, whatever the type says."""
    return raw.ljust(rounded_up(len(raw), EIGHTBYTE), bytes([_BEHIND]))


def _hex(raw: bytes) -> str:
    """As a number is written, the last byte first."""
    return f"0x{raw[::-1].hex() or '0'}"
