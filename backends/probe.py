"""Watches one native run against the ABI document: every call, every return, every access to stack and context."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Final

from backends import emulator as emu
from backends.abi import Abi, InReg, Layout, Location
from backends.base import CTX_BASE, Call, FrameView, Job, StackRef, Value, Violation
from backends.calls import HELPER_RESULTS, as_type, result_of
from backends.decode import Decoded, is_landing_pad
from backends.image import Image, Symbol
from backends.maps import MAP_HELPERS, MAPS_BASE, MapStore
from backends.progs import NativeProgs
from harness.isa.calls import HELPERS_BY_NAME
from harness.isa.ctypes import CInt, CVoid
from harness.isa.maps import MAX_TAIL_CALLS
from harness.isa.opcodes import MASK64
from harness.isa.proto import Proto
from harness.isa.slots import Slot, as_bpf, callee_slots, is_pair, slots_of, value_bytes

MAX_VIOLATIONS: Final = 16
RED_BYTES: Final = 256  # below SP, overwritten at every intercepted call as an interrupt would
VIEW_SLOTS: Final = 8  # 8-byte stack slots that a FrameView keeps
BELOW_SP: Final = "the memory below SP"
ARG_AREA: Final = "the area of its outgoing stack arguments"
UPPER_BITS: Final = "the bits above a narrow result"
_POISON: Final = 0xDEAD_0000_BAD0_0000  # plus a number, so that a reader sees which register it was
_RED: Final = b"\xd1" * RED_BYTES
# From the entry's SP down to the frame pointer of a function, and what is not its caller's where it is landed at.
_LANDING: Final = {"x86_64": (8, ("rbp",)), "arm64": (16, ("x29", "x26"))}
PLATFORM_REG: Final = {"arm64": ("x18",), "x86_64": ()}


@dataclass(slots=True)
class _Activation:
    """A native function that was entered and has not returned."""

    number: int
    symbol: Symbol
    entry_sp: int
    return_to: int
    kept: list[int]  # callee-saved registers at entry
    incoming_bytes: int
    pair: bool  # its result is in R0 and R2
    fp: int | None = None  # R10, once a pointer to this frame was seen
    landed: bool = False  # it is past the point where tail calls land


class Probe:
    """The checks of one architecture. One Probe serves many runs; `begin` starts each."""

    def __init__(
        self,
        cpu: emu.Emulator,
        abi: Abi,
        layout: Callable[[Proto], Layout],
        make_progs: type[NativeProgs] = NativeProgs,
    ) -> None:
        self.make_progs = make_progs
        self._cpu, self._abi = cpu, abi
        self._layout = lru_cache(maxsize=1024)(layout)  # asked several times at each call
        self._platform = PLATFORM_REG[abi.arch]
        kept = [*abi.callee_saved, *self._platform]
        scratch = [*(reg for reg in abi.caller_saved if reg not in (abi.result, "x30")), cpu.flags]
        self.spoilable = (*scratch, ARG_AREA, UPPER_BITS, BELOW_SP)
        self._names = [abi.sp, *kept, *abi.caller_saved]
        self._kept_at = slice(1, 1 + len(kept))
        self._all = cpu.regs(self._names)
        self._kept_names = kept
        flags = 0x0 if abi.arch == "x86_64" else 0xF000_0000
        poison = [*(_POISON + i for i in range(len(scratch) - 1)), flags]
        self._poison = dict(zip(scratch, poison, strict=True))
        self._every_scratch = cpu.regs(scratch)
        self._result = cpu.regs([abi.result])
        self._high = cpu.regs([abi.int_args[1]])  # R2, with the high half of a BPF function's result
        self._sp_pc = cpu.regs([abi.sp, "pc" if abi.arch == "arm64" else "rip"])

    def begin(
        self, job: Job, image: Image, decoded: Decoded, pads: dict[int, str], spoils: frozenset[str] | None = None
    ) -> None:
        """Forgets the last run. `spoils` is what callees destroy in this one, of `spoilable`; None is everything."""
        self._spoils = spoils
        chosen = [reg for reg in self._poison if spoils is None or reg in spoils]
        self._scratch = self._every_scratch if spoils is None else self._cpu.regs(chosen)
        self._scratch_poison = [self._poison[reg] for reg in chosen]
        self._job, self._image, self._decoded, self._pads = job, image, decoded, pads
        self.progs = self.make_progs(job.prog.maps, image, self._cpu) if job.prog.tail_calls else None
        self.maps = MapStore(job.prog.maps, self._cpu, self.progs)
        self._entries = {image.base + symbol.offset: symbol for symbol in image.symbols}
        self._landings = {image.base + offset: symbol for offset, symbol in landings(image).items()}
        self.tail_calls = 0  # made so far
        self._stack: list[_Activation] = []
        self._activations: list[_Activation] = []
        self._seen_calls = 0
        self._made: list[Call] = []
        self.violations = list[Violation]()
        self.frames = list[FrameView]()
        reference = job.reference.calls if job.reference else ()
        self._expected = reference

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls that were made, as far as they were the expected ones."""
        self._pass_inlined()
        return tuple(self._made)

    def _pass_inlined(self) -> None:
        """Calls that the compiler made into insns come by unseen."""
        rest = self._expected[self._seen_calls :] if self._image.inlined else ()
        for call in takewhile(lambda call: call.insn in self._image.inlined, rest):
            self._made.append(call)
            self._seen_calls += 1

    # --- reporting

    def report(self, check: str, message: str, pc: int | None = None, insn: int | None = None) -> None:
        """Records a violation; after MAX_VIOLATIONS the run ends."""
        offset = self._decoded.start_of(pc - self._image.base) if pc is not None else None
        if insn is None and offset is not None:
            insn = self.origin(offset)
        self.violations.append(Violation(check, message, insn, offset))
        if len(self.violations) >= MAX_VIOLATIONS:
            self._cpu.stop()

    def origin(self, offset: int) -> int | None:
        """The insn, as loaded, whose native code covers a byte offset."""
        rewritten = self._image.insn_at(offset)
        return None if rewritten is None else self._image.source.origin[rewritten]

    # --- the program starts and ends

    def set_up(self, entry: Symbol) -> None:
        """Registers, stack and context as the caller of a main prog leaves them."""
        self._cpu.write(emu.STACK_BASE, b"\xc3" * emu.STACK_BYTES)
        self._cpu.write(CTX_BASE, b"\xc7" * emu.CTX_BYTES)
        self._cpu.write(CTX_BASE, self._job.ctx)
        self.maps.begin(self._job.updates, self._job.writes)
        del self._entries[self._image.base + entry.offset]
        values = {name: _POISON + 0x100 + i for i, name in enumerate(self._names)}
        values[self._abi.int_args[0]] = CTX_BASE
        if self._job.length_in_r2:
            values[self._abi.int_args[1]] = len(self._job.ctx)
        values[self._abi.sp] = emu.STACK_TOP
        if self._abi.arch == "arm64":
            values["x30"] = emu.STOP
        else:
            values[self._abi.sp] -= 8
            self._cpu.write(emu.STACK_TOP - 8, emu.STOP.to_bytes(8, "little"))
        self._all.write([values[name] for name in self._names])
        if self._image.landing_pads and not is_landing_pad(self._abi.arch, self._decoded.insns.get(entry.offset)):
            self._report_landing(entry.offset, "the entry of the main prog, which is called indirectly,")
        self._push(entry, emu.STOP, None)

    def finish(self) -> int:
        """To be called when the run stopped where it should: the main prog's return. Gives R0."""
        if len(self._stack) > 1:
            names = ", ".join(activation.symbol.name for activation in self._stack[1:])
            self.report("ABI-SAVED", f"the main prog's caller is back while {names} never returned")
            del self._stack[1:]
        self._on_return(emu.STOP)
        return self._result.read()[0]

    # --- code

    def on_code(self, address: int) -> None:
        """A watched address is about to execute."""
        offset = address - self._image.base
        if offset in self._decoded.indirect:
            self._on_indirect(offset)
        if address in self._pads:
            self._on_pad(address)
        elif address in self._entries:
            self._on_entry(self._entries[address])
        elif address in self._landings:
            self._on_landing(address, self._landings[address])
        elif address >= emu.PADS_BASE and address - emu.PAD_RETURN not in self._pads:
            self.report("ABI-ARG", f"a call to {address:#x}, where no function is", insn=None)
            self._cpu.stop()
        elif self._stack and self._stack[-1].return_to == address:
            self._on_return(address)

    def _values(self) -> dict[str, int]:
        return dict(zip(self._names, self._all.read(), strict=True))

    def _return_address(self, values: dict[str, int]) -> int:
        if self._abi.return_address_bytes:
            return int.from_bytes(self._cpu.read(values[self._abi.sp], 8), "little")
        return values["x30"]

    def _push(self, symbol: Symbol, return_to: int, proto: Proto | None) -> None:
        values = self._all.read()
        incoming = self._layout(as_bpf(proto)).stack_bytes if proto else 0
        number = len(self._activations)
        pair = proto is not None and is_pair(proto.result)
        activation = _Activation(number, symbol, values[0], return_to, values[self._kept_at], incoming, pair)
        self._stack.append(activation)
        self._activations.append(activation)

    def _on_entry(self, symbol: Symbol) -> None:
        values = self._values()
        return_to = self._return_address(values)
        proto = self._job.prog.subprogs[symbol.subprog].proto
        self._check_call(symbol.name, proto, values, return_to)
        self._push(symbol, return_to, proto)
        self._redden(values[self._abi.sp])

    def _on_pad(self, address: int) -> None:
        values = self._values()
        name = self._pads[address]
        body = next((b for b in self._job.bodies if b.proto.name == name), None)
        self._pass_inlined()
        calls = sum(not call.is_subprog for call in self._made) if self._job.during else 0
        for number, update in self._job.during:
            if number == calls:
                self.maps.set_prog(update.map, update.key, update.prog)
        if body is None and name not in HELPERS_BY_NAME:
            self.report("ABI-ARG", f"a call of {name}, which the program does not make")
            self._cpu.stop()
            return
        proto = body.proto if body else HELPERS_BY_NAME[name].proto
        return_to = self._return_address(values)
        seen = self._check_call(name, proto, values, return_to)
        result = result_of(body, seen) if body else self._help(name, seen, return_to - 1)
        self._redden(values[self._abi.sp])
        self._spoil(values[self._abi.sp] + self._abi.return_address_bytes, self._layout(proto).stack_bytes)
        self._give(result, proto)

    # --- TAIL-JUMP, TAIL-FRAME and TAIL-COUNT where a tail call lands

    def _on_landing(self, address: int, symbol: Symbol) -> None:
        """Another program begins in the place of the running function. A first run of a main prog comes by, too."""
        values = self._values()
        top = self._stack[-1]
        if top.symbol is symbol and not top.landed:
            top.landed = True
            return
        self._pass_inlined()
        number, self._seen_calls = self._seen_calls, self._seen_calls + 1
        expected = self._expected[number] if number < len(self._expected) else None
        if expected is None or expected.callee != symbol.name:
            wanted = f"a call of {expected.callee}" if expected else "no further call"
            self.report("TAIL-JUMP", f"a tail call goes to {symbol.name}; the program makes {wanted} here")
            self._cpu.stop()
            return
        self._made.append(expected)
        self.tail_calls += 1
        self._check_landing(symbol, values, expected)
        following = _Activation(
            len(self._activations), symbol, top.entry_sp, top.return_to, top.kept, 0, pair=False, landed=True
        )
        self._stack[-1] = following
        self._activations.append(following)
        self._redden(values[self._abi.sp])
        if self._spoils is None:
            ctx, count = values[self._abi.int_args[0]], values["rax"] if self._abi.arch == "x86_64" else None
            self._scratch.write(self._scratch_poison)
            self._cpu.regs([self._abi.int_args[0]]).write([ctx])
            if count is not None:
                self._cpu.regs(["rax"]).write([count])

    def _check_landing(self, symbol: Symbol, values: dict[str, int], expected: Call) -> None:
        top, insn = self._stack[-1], expected.insn
        self._check_registers(expected, values, None)
        want_sp = top.entry_sp - self._image.landing_frame
        if values[self._abi.sp] != want_sp:
            text = f"{symbol.name} is landed at with SP {values[self._abi.sp]:#x}, not {want_sp:#x}"
            self.report("TAIL-FRAME", text, insn=insn)
        record, keeps = _LANDING[self._abi.arch]
        frame = top.entry_sp - record
        if values[self._abi.fp] != frame:
            text = f"{symbol.name} is landed at with {self._abi.fp} = {values[self._abi.fp]:#x}, not {frame:#x}"
            self.report("TAIL-FRAME", text, insn=insn)
        for reg, was in zip(self._kept_names, top.kept, strict=True):
            if reg not in keeps and values[reg] != was:
                text = f"{symbol.name} is landed at with {reg} = {values[reg]:#x}; its caller has {was:#x} there"
                self.report("TAIL-FRAME", text, insn=insn)
        count = self._count_at(values["rax"] if self._abi.arch == "x86_64" else values["x26"])
        if count != self.tail_calls:
            text = f"{symbol.name} is handed a count of {count}; this is tail call {self.tail_calls}"
            self.report("TAIL-COUNT", text, insn=insn)

    def _count_at(self, given: int) -> int:
        """The count, or what its pointer points to. TC-72, TC-92."""
        if self._abi.arch == "x86_64" and given <= MAX_TAIL_CALLS:
            return given
        if not emu.STACK_BASE <= given <= emu.STACK_BASE + emu.STACK_BYTES - 8:
            return -1
        return int.from_bytes(self._cpu.read(given, 8), "little")

    def _help(self, name: str, args: list[int], pc: int) -> int:
        """A helper's result; where it is given what it cannot use, that is reported."""
        if name not in MAP_HELPERS:
            return HELPER_RESULTS[name]
        try:
            result = self.maps.call(name, args)
        except emu.UnmappedError as error:
            self.report("MEM", f"{name} reads {error}, where nothing is", pc)
            return 0
        if result is None:
            self.report("MEM", f"{name}: {args[0]:#x} is no map", pc)
        return result or 0

    def _give(self, result: int, proto: Proto) -> None:
        """A result in its registers, with the bits above its type unspecified, as the ABI leaves them."""
        size = (value_bytes(proto.result) or 8) if not isinstance(proto.result, CVoid) else 8
        size = size if self._spoiled(UPPER_BITS) else max(size, 8)
        mask = (1 << size * 8) - 1
        whole = result & mask | (_POISON << 64 | _POISON) & ~mask
        self._result.write([whole & MASK64])
        placed = self._layout(proto).result if size > 8 else None
        if placed is not None and isinstance(where := placed.eightbyte(8), InReg):
            self._cpu.regs([where.reg]).write([whole >> 64 & MASK64])

    def _spoiled(self, what: str) -> bool:
        return self._spoils is None or what in self._spoils

    def _redden(self, sp: int) -> None:
        low = max(sp - RED_BYTES, emu.STACK_BASE)
        if self._spoiled(BELOW_SP) and emu.STACK_BASE < sp <= emu.STACK_BASE + emu.STACK_BYTES:
            self._cpu.write(low, _RED[: sp - low])

    def _spoil(self, args_at: int, stack_bytes: int) -> None:
        """What a callee may destroy: caller-saved registers, flags, its incoming stack arguments."""
        self._scratch.write(self._scratch_poison)
        if (
            stack_bytes
            and self._spoiled(ARG_AREA)
            and emu.STACK_BASE <= args_at < emu.STACK_BASE + emu.STACK_BYTES - stack_bytes
        ):
            self._cpu.write(args_at, b"\xd7" * stack_bytes)

    # --- ABI-ARG and ABI-SP at a call

    def _check_call(self, name: str, proto: Proto | None, values: dict[str, int], return_to: int) -> list[int]:
        """Compares one call with the interpreter's; gives the arguments as the callee's types see them."""
        sp = values[self._abi.sp] + self._abi.return_address_bytes
        pc = return_to - 1
        self._pass_inlined()
        number, self._seen_calls = self._seen_calls, self._seen_calls + 1
        expected = self._expected[number] if number < len(self._expected) else None
        insn = expected.insn if expected else None
        if sp % self._abi.stack_align:
            text = f"SP is {sp:#x} at the call of {name}, no multiple of {self._abi.stack_align}"
            self.report("ABI-SP", text, pc, insn)
        if self._job.detail:
            self._keep_view(number, name, values, sp)
        if expected is None or expected.callee != name:
            wanted = f"a call of {expected.callee}" if expected else "no further call"
            self.report("ABI-ARG", f"call {number + 1} is of {name}; the program makes {wanted} here", pc, insn)
            self._cpu.stop()
            return [0] * len(slots_of(proto) if proto else ())
        self._made.append(expected)
        if proto is None:
            self._check_registers(expected, values, pc)
            return []
        return self._check_args(expected, proto, values, sp, pc)

    def _check_args(self, expected: Call, proto: Proto, values: dict[str, int], sp: int, pc: int) -> list[int]:
        seen: list[int] = []
        # BPF functions keep to BPF's own places, C functions to their ABI's.
        slots = callee_slots(proto) if expected.is_subprog else slots_of(proto)
        places = self._places(proto, is_subprog=expected.is_subprog)
        for number, (where, slot, want) in enumerate(zip(places, slots, expected.args, strict=True), 1):
            if where is None:
                seen.append(want if isinstance(want, int) else 0)
                continue
            raw = self._fetch(where, values, sp)
            seen.append(as_type(raw, slot.type))
            # A BPF subprog takes all 64 bits of a register, whatever its prototype says; a C function only its type's.
            # One that the program never set (compilers leave out what a static function does not read) may be anything.
            same = want is None or (
                self._same(raw, want) if expected.is_subprog else self._same(seen[-1], _typed(want, slot.type))
            )
            if not same:
                text = f"{expected.callee}: argument {number} `{slot.name}` at {where} is {raw:#x}, not {_show(want)}"
                self.report("ABI-ARG", text, pc, expected.insn)
        self._check_places(expected, proto, slots, places, pc)
        return seen

    def _places(self, proto: Proto, *, is_subprog: bool) -> list[Location | None]:
        """Where each slot of a call is; None for padding that C does not pass."""
        if is_subprog:
            return [placed.eightbyte(0) for placed in self._layout(as_bpf(proto)).args]
        args = self._layout(proto).args
        return [args[slot.param].eightbyte(8 * slot.half) for slot in slots_of(proto)]

    def _check_places(
        self, expected: Call, proto: Proto, slots: Sequence[Slot], places: Sequence[Location | None], pc: int
    ) -> None:
        """Against the places that the case types by hand."""
        for place in self._job.places:
            if place.callee != expected.callee or place.arch != self._abi.arch:
                continue
            rows = zip(slots, places, strict=True)
            found = ", ".join(str(where) for slot, where in rows if proto.params[slot.param].name == place.param)
            if found != place.where:
                text = f"{expected.callee}: `{place.param}` is at {found}; the case says {place.where}"
                self.report("ABI-ARG", text, pc, expected.insn)

    def _check_registers(self, expected: Call, values: dict[str, int], pc: int | None) -> None:
        for number, want in enumerate(expected.args):
            reg = self._abi.int_args[number]
            if want is not None and not self._same(values[reg], want):
                text = f"{expected.callee}: R{number + 1} in {reg} is {values[reg]:#x}, not {_show(want)}"
                self.report("ABI-ARG", text, pc, expected.insn)

    def _fetch(self, where: Location, values: dict[str, int], sp: int) -> int:
        if isinstance(where, InReg):
            return values[where.reg]
        at = sp + where.off
        if not emu.STACK_BASE <= at <= emu.STACK_BASE + emu.STACK_BYTES - 8:
            return 0
        return int.from_bytes(self._cpu.read(at, 8), "little")

    def _same(self, raw: int, want: Value | None) -> bool:
        if isinstance(want, StackRef):
            return self._same_pointer(raw, want)
        return raw == want

    def _same_pointer(self, raw: int, want: StackRef) -> bool:
        """A stack pointer is right if its frame's R10 lies in that frame and is the same each time it is seen."""
        if want.activation >= len(self._activations):
            return False
        frame, fp = self._activations[want.activation], raw - want.off
        if frame.fp is None and emu.STACK_BASE <= fp <= frame.entry_sp:
            frame.fp = fp
        return frame.fp == fp

    def _keep_view(self, number: int, name: str, values: dict[str, int], sp: int) -> None:
        regs = tuple((reg, values[reg]) for reg in (*self._abi.int_args, *self._abi.callee_saved))
        top = emu.STACK_BASE + emu.STACK_BYTES
        count = min(VIEW_SLOTS, (top - sp) // 8) if emu.STACK_BASE <= sp <= top else 0
        raw = self._cpu.read(sp, 8 * count) if count else b""
        stack = tuple((8 * i, int.from_bytes(raw[8 * i : 8 * i + 8], "little")) for i in range(count))
        self.frames.append(FrameView(number, name, ((self._abi.sp, sp), *regs), stack))

    # --- ABI-SAVED at a return

    def _on_return(self, address: int) -> None:
        done = self._stack.pop()
        values = self._all.read()
        want_sp = done.entry_sp + self._abi.return_address_bytes
        pc = None if address == emu.STOP else address - 1
        if values[0] != want_sp:
            text = f"{done.symbol.name} returns with SP {values[0]:#x}; it was {want_sp:#x} before the call"
            self._report_saved(text, pc, done)
        for reg, was, now in zip(self._kept_names, done.kept, values[self._kept_at], strict=True):
            if was != now:
                text = f"{done.symbol.name} returns with {reg} = {now:#x}; it was {was:#x} at entry"
                self._report_saved(text, pc, done)
        if self._stack:
            high = self._high.read()
            self._spoil(want_sp, done.incoming_bytes)
            self._redden(values[0])
            if done.pair:
                self._high.write(high)

    def _report_saved(self, text: str, pc: int | None, done: _Activation) -> None:
        insn = self.origin(pc - self._image.base) if pc is not None else None
        if insn is None:
            insn = self._job.prog.subprogs[done.symbol.subprog].end - 1
        self.report("ABI-SAVED", text, pc, insn)

    def on_fault(self, fault: emu.Fault) -> None:
        """The CPU stopped by itself: an endless loop is END, a wild return ABI-SAVED, anything else MEM."""
        if fault.endless:
            self.report("END", fault.what, fault.pc)
            return
        values = self._values()
        below = values[self._abi.sp] - self._abi.return_address_bytes
        inside = emu.STACK_BASE <= below < emu.STACK_BASE + emu.STACK_BYTES
        if self._abi.return_address_bytes:
            returned = inside and int.from_bytes(self._cpu.read(below, 8), "little") == fault.pc
        else:
            returned = values["x30"] == fault.pc
        if returned and self._stack:
            top = self._stack[-1]
            last = self._job.prog.subprogs[top.symbol.subprog].end - 1
            text = f"{top.symbol.name} returns to {fault.pc:#x}; its return address was {top.return_to:#x}"
            self.report("ABI-SAVED", text, insn=last)
        else:
            self.report("MEM", fault.what, fault.pc)

    # --- ABI-LAND

    def _on_indirect(self, offset: int) -> None:
        """An indirect call or jump: its target must be a landing pad. Only images that were built for it are watched."""
        target = self._indirect_target(offset)
        if target is None or emu.PADS_BASE <= target < emu.PADS_BASE + emu.PADS_BYTES:
            return
        native = self._decoded.insns[offset]
        by_jump = native.mnemonic == "br" and native.operands not in ("x16", "x17")
        if not is_landing_pad(self._abi.arch, self._decoded.insns.get(target - self._image.base), by_jump=by_jump):
            word = "jump" if native.mnemonic in ("br", "jmp") else "call"
            self._report_landing(offset, f"{target:#x}, the target of this indirect {word},")

    def _indirect_target(self, offset: int) -> int | None:
        operands = self._decoded.insns[offset].operands
        return self._cpu.regs([operands]).read()[0] if operands.isalnum() else None

    def _report_landing(self, offset: int, what: str) -> None:
        name = "ENDBR64" if self._abi.arch == "x86_64" else "BTI"
        self.report("ABI-LAND", f"{what} is no {name} landing pad", self._image.base + offset)

    # --- ABI-STACK, ABI-SP and MEM at an access

    def on_memory(self, is_write: bool, address: int, size: int) -> None:
        """An access to the stack, to the page of the context, or where maps are."""
        if address < emu.STACK_BASE:
            self._on_context(is_write, address, size)
            return
        if address >= MAPS_BASE:
            self._on_map(is_write, address, size)
            return
        sp, pc = self._sp_pc.read()
        native = self._decoded.insns.get(pc - self._image.base)
        if native is None or not self._stack:
            return  # the `ret` of a landing pad
        top = self._stack[-1]
        word = "writes" if is_write else "reads"
        if native.base == self._abi.sp and sp % self._abi.stack_align and self._abi.arch == "arm64":
            self.report("ABI-SP", f"`{native.text}` uses SP {sp:#x}, no multiple of {self._abi.stack_align}", pc)
        if address < sp - native.pushes:
            self.report("ABI-STACK", f"`{native.text}` {word} {sp - address} bytes below SP", pc)
        elif is_write and top.entry_sp <= address < top.entry_sp + self._abi.return_address_bytes:
            self.report("ABI-SAVED", f"`{native.text}` overwrites the return address", pc)
        elif address + size > top.entry_sp + self._abi.return_address_bytes:
            self._above_frame(native.base, address, size, pc, f"`{native.text}` {word}")

    def _above_frame(self, base: str, address: int, size: int, pc: int, what: str) -> None:
        """An access above the running function's frame: its stack arguments are its own; its callers' frames are not.

        A pointer that was passed may reach a caller's BPF stack; SP and a frame pointer may not.
        """
        top = self._stack[-1]
        args = top.entry_sp + self._abi.return_address_bytes
        if address >= args and address + size <= args + top.incoming_bytes:
            return
        if address >= emu.STACK_TOP or base == self._abi.sp or (base == self._abi.fp and self._fp_in_frame()):
            above = address - args
            text = (
                f"{what} {size} bytes at {above:#x} above the frame, where {top.incoming_bytes} bytes of arguments are"
            )
            self.report("ABI-STACK", text, pc)

    def _fp_in_frame(self) -> bool:
        """Whether the frame pointer register really points into the running function's frame."""
        values = dict(zip(self._names, self._all.read(), strict=True))
        return values[self._abi.sp] <= values[self._abi.fp] <= self._stack[-1].entry_sp

    def _on_map(self, is_write: bool, address: int, size: int) -> None:
        index = self.maps.value_at(address, size)
        word = "a write" if is_write else "a read"
        if not is_write and self.progs is not None and self.progs.read_of(address, size) is not None:
            return
        if index is None:
            text = f"{word} of {size} bytes at {address:#x}, outside every value of a map"
        elif is_write and self._job.prog.maps[index].rdonly:
            text = f"a write of {size} bytes to {self._job.prog.maps[index].name}, which programs may only read"
        else:
            return
        self.report("MEM", text, self._sp_pc.read()[1])

    def _on_context(self, is_write: bool, address: int, size: int) -> None:
        if address + size > CTX_BASE + len(self._job.ctx):
            pc = self._sp_pc.read()[1]
            word = "a write" if is_write else "a read"
            text = f"{word} of {size} bytes at context + {address - CTX_BASE}; it has {len(self._job.ctx)} bytes"
            self.report("MEM", text, pc)


def _typed(want: Value | None, ctype: object) -> Value | None:
    if isinstance(want, int) and isinstance(ctype, CInt):
        return as_type(want, ctype)
    return want


def _show(want: Value | None) -> str:
    return str(want) if isinstance(want, StackRef) else f"{want:#x}" if want is not None else "unset"


def landings(image: Image) -> dict[int, Symbol]:
    """Where tail calls land, by offset from the image's base: in the main prog of each program, if there are prog arrays."""
    prog = image.source.prog
    if not prog.tail_calls:
        return {}
    return {symbol.offset + image.landing: symbol for symbol in image.symbols if symbol.subprog in prog.mains}
