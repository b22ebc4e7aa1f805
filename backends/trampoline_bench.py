"""Runs a trampoline in the emulator: a caller, the traced function, its programs, all of them as real code would be.

What is right is worked out here from the ABI document's layout and the programs' meaning, not from the trampoline's plan.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from backends import emulator as emu
from backends.abi import EIGHTBYTE, InReg, Layout, Placed
from backends.abis import ARCHES
from backends.base import Violation
from backends.bpf_layout import bpf_layout
from backends.decode import decode_code
from backends.probe import PLATFORM_REG, RED_BYTES
from backends.trampoline import HOOKS, Attached, Kind, Places, Program, Target
from harness.isa.ctypes import rounded_up
from harness.isa.proto import Proto

TRAMPOLINE_AT: Final = emu.CODE_BASE + 0x100  # the traced function's entry lies at the start of the code
_PROG_PADS: Final = 16  # the number of the first program's landing pad; those of the hooks come before
_OBJECTS: Final = 0x6B70_0000_0000  # of programs, a page each; the image's own before them
_POISON: Final = 0xBAD0_BAD0_BAD0_0000
_FILL: Final = 0xE5
_BEHIND: Final = 0xB7  # what BPF code has above a narrow value
_ARM64_BL, _X86_CALL, _X86_JMP, _ENDBR = 0x9400_0000, 0xE8, 0xE9, bytes.fromhex("f30f1efa")
# What a kernel is built for: GCC leaves CONFIG_ARM64_BTI_KERNEL out.
_LANDING: Final = {"arm64": b"", "x86_64": _ENDBR}
_RETURN: Final = {"arm64": bytes.fromhex("c0035fd6"), "x86_64": b"\xc3"}


@dataclass(frozen=True, slots=True)
class Step:
    """A program as it is attached: what it returns, and whether the kernel refuses to enter it. TR-62.

    `cookie` is what bpf_get_attach_cookie() gives it, 0 for none.
    """

    kind: Kind
    returns: int = 0
    refused: bool = False
    cookie: int = 0


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


def prog_address(number: int) -> int:
    """Where the program that was attached as `number` is called."""
    return emu.PADS_BASE + (_PROG_PADS + number) * emu.PAD_STRIDE


def object_of(number: int) -> int:
    """The address that stands for its object."""
    return _OBJECTS + 0x1000 * (number + 1)


def places(arch: str, target: Target = Target.KERNEL) -> Places:
    """Where everything is that a trampoline for the bench has to know."""
    hooks = {name: emu.PADS_BASE + number * emu.PAD_STRIDE for number, name in enumerate(HOOKS)}
    body = emu.CODE_BASE + len(_entry(arch, target, jumps=False))
    return Places(TRAMPOLINE_AT, emu.CODE_BASE, body, _OBJECTS, hooks)


def _entry(arch: str, target: Target, *, jumps: bool) -> bytes:
    """How a traced function begins, patched. TR-34: x86-64's jumps or calls; Linux has a landing pad before it in BPF code.

    What is called itself has none.
    """
    if target is Target.STRUCT_OPS:
        return b""
    if arch == "arm64":
        distance = (TRAMPOLINE_AT - (emu.CODE_BASE + 4)) >> 2
        return struct.pack("<II", 0xAA1E_03E9, _ARM64_BL | distance)  # mov x9, x30; bl
    pad = _ENDBR if target is Target.BPF else b""
    distance = TRAMPOLINE_AT - (emu.CODE_BASE + len(pad) + 5)
    return pad + struct.pack("<BI", _X86_JMP if jumps else _X86_CALL, distance)


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


class TrampolineBench:
    """One emulated CPU."""

    def __init__(self, arch: str) -> None:
        self.arch = arch
        self._abi, self._layout = ARCHES[arch]
        self._cpu = emu.Emulator(arch)
        self._kept = [*self._abi.callee_saved, *PLATFORM_REG[arch]]
        self._names = [self._abi.sp, *self._kept, *self._abi.caller_saved]
        self._regs = self._cpu.regs(self._names)
        self._scratch = self._cpu.regs([reg for reg in self._abi.caller_saved if reg != "x30"])
        self._flags = self._cpu.regs([self._cpu.flags])
        self._result = self._cpu.regs([self._abi.result])
        self._sp_pc = self._cpu.regs([self._abi.sp, "pc" if arch == "arm64" else "rip"])
        self._pads = {emu.PADS_BASE + n * emu.PAD_STRIDE: name for n, name in enumerate(HOOKS)}

    def run(self, scenario: Scenario, code: bytes) -> Outcome:
        """Calls the traced function once; never raises for what the trampoline does."""
        self._scenario, self._out = scenario, Outcome()
        self._truth = layout_of(self.arch, scenario)
        whole = scenario.target is Target.BPF
        self._args = [_whole(raw) if whole else raw for raw in scenario.args]
        self._given = _whole(scenario.result) if whole else scenario.result
        self._expected = expected_events(scenario.steps)
        self._cookies: dict[int, int] = {}
        self._final = self._given
        self._body = places(self.arch, scenario.target).body
        image = self._stub().ljust(TRAMPOLINE_AT - emu.CODE_BASE, b"\0") + code
        self._decoded = decode_code(self.arch, image, emu.CODE_BASE)
        self._cpu.map_values(())
        self._cpu.load(image, [self._body])
        self._set_up()
        called = scenario.target is Target.STRUCT_OPS
        if called and not code.startswith(_LANDING[self.arch]):
            self._report(
                "ABI-LAND", "the trampoline, which is called through a pointer, has no landing pad", TRAMPOLINE_AT
            )
        fault = self._cpu.run(TRAMPOLINE_AT if called else emu.CODE_BASE, self._on_code, self._on_memory, 100_000)
        if fault is not None:
            self._report("END" if fault.endless else "MEM", fault.what, fault.pc)
        elif self._cpu.pc() == emu.STOP:
            self._finish()
        return self._out

    # --- the caller

    def _stub(self) -> bytes:
        """The traced function's patched entry, and its body, which only returns."""
        jumps = self._scenario.attached.calls_original
        return _entry(self.arch, self._scenario.target, jumps=jumps) + _RETURN[self.arch]

    def _set_up(self) -> None:
        self._cpu.write(emu.STACK_BASE, bytes([_FILL]) * emu.STACK_BYTES)
        values = {name: _POISON + n for n, name in enumerate(self._names)}
        self._caller_sp = emu.STACK_TOP - 0x400
        values[self._abi.sp] = self._caller_sp - self._abi.return_address_bytes
        area = bytearray(b"\xb5" * self._truth.stack_bytes)
        for placed, raw in zip(self._truth.args, self._args, strict=True):
            for piece in placed.pieces:
                part = raw[piece.at : piece.at + piece.size]
                if isinstance(piece.where, InReg):
                    low = int.from_bytes(part, "little")
                    mask = (1 << 8 * len(part)) - 1
                    values[piece.where.reg] = low | values[piece.where.reg] & ~mask
                else:
                    area[piece.where.off : piece.where.off + len(part)] = part
        self._cpu.write(self._caller_sp, bytes(area))
        if self.arch == "arm64":
            values["x30"] = emu.STOP
        else:
            self._cpu.write(self._caller_sp - 8, emu.STOP.to_bytes(8, "little"))
        self._before = values
        self._above = self._cpu.read(self._caller_sp, emu.STACK_TOP - self._caller_sp)
        self._regs.write([values[name] for name in self._names])

    def _finish(self) -> None:
        """The caller goes on."""
        values = self._values()
        if values[self._abi.sp] != self._caller_sp:
            self._report("ABI-SAVED", f"the caller is back with SP {values[self._abi.sp]:#x}, not {self._caller_sp:#x}")
        self._check_kept(values, "the caller is back")
        if self._cpu.read(self._caller_sp, len(self._above)) != self._above:
            self._report("ABI-STACK", "the caller's own stack changed")
        if self._out.events != self._expected:
            wanted, got = "; ".join(self._expected), "; ".join(self._out.events)
            self._report("TRAMP-ORDER", f"{got}, not {wanted}")
        placed = self._truth.result
        if placed is not None and not placed.by_reference:
            back = _passed(placed, self._fetch(placed, values, 0), self._given)
            wanted_back = self._final[: len(back)]
            if back != wanted_back:
                self._report("TRAMP-RESULT", f"the caller gets {_hex(back)}, not {_hex(wanted_back)}")
            self._out.result = back[: len(self._scenario.result)]

    def _check_kept(self, values: Mapping[str, int], when: str) -> None:
        for reg in self._kept:
            if values[reg] != self._before[reg]:
                self._report("ABI-SAVED", f"{when} with {reg} = {values[reg]:#x}; it was {self._before[reg]:#x}")

    # --- the traced function and its programs

    def _on_code(self, address: int) -> None:
        if address == self._body:
            self._original()
        elif address in self._pads:
            self._hook(self._pads[address])
        elif (number := self._program_at(address)) is not None:
            self._program(number)
        elif (address - emu.PADS_BASE) % emu.PAD_STRIDE == 0:
            self._report("TRAMP-ORDER", f"a call to {address:#x}, where nothing is")
            self._cpu.stop()

    def _program_at(self, address: int) -> int | None:
        number, rest = divmod(address - prog_address(0), emu.PAD_STRIDE)
        return number if not rest and 0 <= number < len(self._scenario.steps) else None

    def _hook(self, name: str) -> None:
        values = self._values()
        self._check_sp(values, name)
        first, second = (values[reg] for reg in self._abi.int_args[:2])
        number, rest = divmod(first - _OBJECTS, 0x1000)
        result = _POISON
        if name in ("__bpf_tramp_enter", "__bpf_tramp_exit"):
            self._event(name.removeprefix("__bpf_tramp_"))
            if first != _OBJECTS:
                self._report("ABI-ARG", f"{name} is given the image {first:#x}, not {_OBJECTS:#x}")
        elif rest or not 1 <= number <= len(self._scenario.steps):
            self._report("ABI-ARG", f"{name} is given {first:#x}, which is no program")
            self._cpu.stop()
        else:
            self._event(f"{name.removeprefix('__bpf_prog_')} {number - 1}")
            refused = self._scenario.steps[number - 1].refused
            if name == "__bpf_prog_enter":
                self._check_cookie(number - 1, second)
            start = 0 if refused else 0x1234_5678_9000 + number
            if name == "__bpf_prog_exit" and second != start:
                self._report(
                    "ABI-ARG", f"{name} of program {number - 1} is given the start time {second:#x}, not {start:#x}"
                )
            result = start
        self._return(result)

    def _check_cookie(self, number: int, run_context: int) -> None:
        """The first word of what a program runs in. TR-40, TR-50."""
        wanted = self._scenario.steps[number].cookie
        try:
            got = int.from_bytes(self._cpu.read(run_context, EIGHTBYTE), "little")
        except emu.UnmappedError as error:
            self._report("TRAMP-CTX", f"program {number} runs in {error}, where nothing is")
            return
        if got != wanted:
            self._report("TRAMP-CTX", f"program {number} has the cookie {got:#x}, not {wanted:#x}")

    def _program(self, number: int) -> None:
        values = self._values()
        step = self._scenario.steps[number]
        self._check_sp(values, f"program {number}")
        self._event(f"{step.kind.value} {number}")
        self._check_ctx(number, step, values[self._abi.int_args[0]])
        if step.kind is Kind.FMOD_RET and step.returns:
            self._final = (step.returns & (1 << 64) - 1).to_bytes(8, "little").ljust(16, b"\0")
        returns = {Kind.FMOD_RET: step.returns, Kind.STRUCT_OPS: self._of_member()}
        self._return(returns.get(step.kind, _POISON))

    def _of_member(self) -> int:
        """What a struct_ops program leaves in R0."""
        low = self._given[:EIGHTBYTE]
        return int.from_bytes(low, "little") | _POISON >> 8 * len(low) << 8 * len(low)

    def _check_ctx(self, number: int, step: Step, ctx: int) -> None:
        """What a program may rely on. TR-10 to TR-13."""
        who = f"{step.kind.value} program {number}"
        sizes = [len(raw) for raw in self._scenario.args]
        count = sum(rounded_up(size, EIGHTBYTE) for size in sizes) // EIGHTBYTE
        try:
            raw = self._cpu.read(ctx - EIGHTBYTE, EIGHTBYTE * (count + 2))
        except emu.UnmappedError as error:
            self._report("TRAMP-CTX", f"{who}: ctx is {ctx:#x}: {error}, where nothing is")
            return
        words = [int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8)]
        meta, array = words[0], raw[EIGHTBYTE:]
        self._out.ctx.append((f"{step.kind.value} {number}", tuple(words[1:])))
        if meta & 0xFF != count:
            self._report("TRAMP-CTX", f"{who}: {meta & 0xFF} words of arguments, not {count}")
        at = 0
        rows = zip(self._truth.args, self._scenario.proto.params, self._scenario.args, strict=True)
        for index, (placed, param, wanted) in enumerate(rows, 1):
            got = _passed(placed, array[at : at + len(wanted)], wanted)
            if got != wanted:
                text = f"{who}: argument {index} `{param.name}` at ctx[{at // 8}] is {_hex(got)}, not {_hex(wanted)}"
                self._report("TRAMP-CTX", text)
            at += rounded_up(len(wanted), EIGHTBYTE)
        self._check_ctx_result(who, step, array[at : at + EIGHTBYTE], meta)
        if step.kind is Kind.FSESSION:
            self._check_session(who, number, ctx, meta)
        if self._scenario.func_ip:
            ip = int.from_bytes(self._cpu.read(ctx - 16, 8), "little")
            if ip != emu.CODE_BASE:
                self._report(
                    "TRAMP-CTX", f"{who}: the function's address at ctx[-2] is {ip:#x}, not {emu.CODE_BASE:#x}"
                )

    def _check_ctx_result(self, who: str, step: Step, got: bytes, meta: int) -> None:
        """TR-10, TR-11: behind the arguments, not at their number."""
        before = step.kind is Kind.FMOD_RET or (step.kind is Kind.FSESSION and not meta >> 63)
        if step.kind in (Kind.FENTRY, Kind.STRUCT_OPS):
            return
        replaced = self._final is not self._given
        length = EIGHTBYTE if replaced or before else min(len(self._scenario.result), EIGHTBYTE)
        wanted = bytes(EIGHTBYTE) if before else self._final[:length]
        if got[:length] != wanted:
            self._report(
                "TRAMP-CTX", f"{who}: the result behind the arguments is {_hex(got[:length])}, not {_hex(wanted)}"
            )

    def _check_session(self, who: str, number: int, ctx: int, meta: int) -> None:
        """TR-65: a word of its own, 0 at entry, kept until the return."""
        at = ctx - EIGHTBYTE * (meta >> 8 & 0xFF)
        value = int.from_bytes(self._cpu.read(at, 8), "little")
        returning = bool(meta >> 63)
        if returning != (number in self._cookies):
            self._report("TRAMP-CTX", f"{who}: the meta word says {'return' if returning else 'entry'}")
        if value != self._cookies.get(number, 0):
            self._report("TRAMP-CTX", f"{who}: the session cookie is {value:#x}, not {self._cookies.get(number, 0):#x}")
        self._cookies[number] = 0xC00C_1E00 + number
        self._cpu.write(at, self._cookies[number].to_bytes(8, "little"))

    def _original(self) -> None:
        """The traced function's body: arguments as the ABI document says, then everything it may destroy is destroyed."""
        values = self._values()
        self._event("original")
        sp = values[self._abi.sp] + self._abi.return_address_bytes
        if sp % self._truth.stack_align or (self.arch == "arm64" and sp % 16):
            self._report(
                "ABI-SP", f"SP is {sp:#x} at the traced function, no multiple of {max(self._truth.stack_align, 8)}"
            )
        rows = zip(self._truth.args, self._scenario.proto.params, self._args, strict=True)
        got: list[bytes] = []
        for index, (placed, param, wanted) in enumerate(rows, 1):
            got.append(_passed(placed, self._fetch(placed, values, sp), wanted))
            if got[-1] != wanted:
                where = ", ".join(str(piece.where) for piece in placed.pieces)
                text = (
                    f"argument {index} `{param.name}` at {where} ({placed.rule}) is {_hex(got[-1])}, not {_hex(wanted)}"
                )
                self._report("TRAMP-ARG", text)
        self._out.args = tuple(got)
        if self._scenario.tail_call and self.arch == "x86_64" and values["rax"] != self._before["rax"]:
            counter, wanted_counter = values["rax"], self._before["rax"]
            text = f"the tail-call counter's address in rax is {counter:#x}, not {wanted_counter:#x}"
            self._report("TRAMP-ARG", text)
        if not self._scenario.attached.calls_original:
            self._check_kept(values, "the traced function begins")
            if sp != self._caller_sp:
                self._report("ABI-SAVED", f"the traced function begins with SP {sp:#x}, not {self._caller_sp:#x}")
        else:
            self._cpu.write(sp, b"\xd7" * self._truth.stack_bytes)  # its own arguments' memory is its own
        self._destroy()
        self._redden(values[self._abi.sp])
        self._give_result()

    def _give_result(self) -> None:
        placed = self._truth.result
        for piece in placed.pieces if placed is not None and not placed.by_reference else ():
            part = self._given[piece.at : piece.at + piece.size]
            if isinstance(piece.where, InReg) and piece.where.reg in self._names:
                mask = (1 << 8 * len(part)) - 1
                low = int.from_bytes(part, "little")
                self._cpu.regs([piece.where.reg]).write([low | _POISON & ~mask])

    # --- all of them

    def _return(self, result: int) -> None:
        sp = self._values()[self._abi.sp]
        self._destroy()
        self._redden(sp)
        self._result.write([result & (1 << 64) - 1])

    def _destroy(self) -> None:
        names = [reg for reg in self._abi.caller_saved if reg != "x30"]
        self._scratch.write([_POISON + 0x800 + n for n, _ in enumerate(names)])
        self._flags.write([0xF000_0000 if self.arch == "arm64" else 0])

    def _redden(self, sp: int) -> None:
        low = max(sp - RED_BYTES, emu.STACK_BASE)
        if emu.STACK_BASE < sp <= emu.STACK_BASE + emu.STACK_BYTES:
            self._cpu.write(low, b"\xd1" * (sp - low))

    def _values(self) -> dict[str, int]:
        return dict(zip(self._names, self._regs.read(), strict=True))

    def _fetch(self, placed: Placed, values: Mapping[str, int], sp: int) -> bytes:
        raw = bytearray(placed.size)
        for piece in placed.pieces:
            if isinstance(piece.where, InReg):
                part = values[piece.where.reg].to_bytes(8, "little")[: piece.size]
            else:
                part = self._cpu.read(sp + piece.where.off, piece.size)
            raw[piece.at : piece.at + piece.size] = part
        return bytes(raw)

    def _event(self, what: str) -> None:
        self._out.events.append(what)
        if len(self._out.events) > len(self._expected) + 8:
            self._report("TRAMP-ORDER", "; ".join(self._out.events))
            self._cpu.stop()

    def _check_sp(self, values: Mapping[str, int], who: str) -> None:
        sp = values[self._abi.sp] + self._abi.return_address_bytes
        if sp % self._abi.stack_align:
            self._report("ABI-SP", f"SP is {sp:#x} at the call of {who}, no multiple of {self._abi.stack_align}")

    def _on_memory(self, is_write: bool, address: int, size: int) -> None:
        if not emu.STACK_BASE <= address < emu.STACK_BASE + emu.STACK_BYTES:
            return
        sp, pc = self._sp_pc.read()
        native = self._decoded.get(pc - emu.CODE_BASE)
        if native is None:
            return  # a landing pad
        word = "writes" if is_write else "reads"
        if native.base == self._abi.sp and self.arch == "arm64" and sp % 16:
            self._report("ABI-SP", f"`{native.text}` uses SP {sp:#x}, no multiple of 16", pc)
        top = self._caller_sp if is_write else self._caller_sp + self._truth.stack_bytes
        if address < sp - native.pushes:
            self._report("ABI-STACK", f"`{native.text}` {word} {sp - address} bytes below SP", pc)
        elif is_write and address + size > self._caller_sp - self._abi.return_address_bytes:
            self._report(
                "ABI-SAVED", f"`{native.text}` writes to its caller's frame, at SP+{address - self._caller_sp}", pc
            )
        elif address + size > top:
            self._report(
                "ABI-STACK", f"`{native.text}` reads {address - self._caller_sp} bytes above its caller's SP", pc
            )

    def _report(self, check: str, message: str, pc: int | None = None) -> None:
        offset = None if pc is None else pc - TRAMPOLINE_AT
        self._out.violations.append(Violation(check, message, None, offset))
        if len(self._out.violations) >= 16:
            self._cpu.stop()


def _whole(raw: bytes) -> bytes:
    """A value of BPF code: registers of 64 bits, whatever the type says."""
    return raw.ljust(rounded_up(len(raw), EIGHTBYTE), bytes([_BEHIND]))


def _passed(placed: Placed, got: bytes, wanted: bytes) -> bytes:
    """What was got, padding that the ABI does not pass as it was wanted."""
    passed = [any(piece.at <= at < piece.at + piece.size for piece in placed.pieces) for at in range(len(wanted))]
    return bytes(one if is_passed else other for one, other, is_passed in zip(got, wanted, passed, strict=True))


def _hex(raw: bytes) -> str:
    """As a number is written, the last byte first."""
    return f"0x{raw[::-1].hex() or '0'}"
