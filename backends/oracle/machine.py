"""Compiled code against a layout, both ways: the layout sets registers and stack for a callee, and reads those of a caller."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from backends import emulator as emu
from backends.abi import Abi, InReg, Layout, Piece, Placed
from backends.oracle.source import PLACE, RESULT, SEEN, SEEN_RESULT, VALUES
from harness.isa.ctypes import CFloat, CInt, CType, DataModel, leaves, size_of

TARGET: Final = emu.PADS_BASE  # the function that callers call; nothing there is executed
COPIES: Final = VALUES + 0x8000  # what is passed by reference
RETURNED: Final = VALUES + 0xC000  # a result in memory
MOST_INSNS: Final = 100_000
X87_BITS: Final = 80  # of a long double on x86-64; the rest of its 16 bytes is padding
WIDE: Final = emu.WideRegFile.BYTES


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where compiled code and a layout differ: in the callee or the caller, at what, and how."""

    side: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.side}, {self.what}: {self.text}"


@dataclass(frozen=True, slots=True)
class Registers:
    """The registers that a call uses on one architecture."""

    general: tuple[str, ...]  # arguments, results, and others that a callee may change; without SP
    wide: tuple[str, ...]


_REGISTERS: Final = {
    "arm64": Registers((*(f"x{n}" for n in range(18)), "x30"), tuple(f"v{n}" for n in range(8))),
    "x86_64": Registers(
        ("rax", "rdi", "rsi", "rdx", "rcx", "r8", "r9", "r10", "r11"), (*(f"xmm{n}" for n in range(8)), "st0", "st1")
    ),
}


class State:
    """Registers and stack at a call or return; everything that nobody sets is random."""

    def __init__(self, names: Registers, rng: random.Random, stack_bytes: int) -> None:
        self.general = {reg: rng.getrandbits(64) for reg in names.general}
        self.wide = {reg: bytearray(rng.randbytes(WIDE)) for reg in names.wide}
        self.stack = bytearray(rng.randbytes(stack_bytes))

    def put(self, piece: Piece, data: bytes) -> None:
        """The bytes of one piece."""
        if not isinstance(piece.where, InReg):
            self.stack[piece.where.off : piece.where.off + piece.size] = data
        elif piece.where.reg in self.general:
            reg, bits = piece.where.reg, piece.size * 8
            self.general[reg] = self.general[reg] >> bits << bits | int.from_bytes(data, "little")
        else:
            self.wide[piece.where.reg][: piece.size] = data

    def get(self, piece: Piece) -> bytes:
        """The bytes of one piece."""
        if not isinstance(piece.where, InReg):
            return bytes(self.stack[piece.where.off : piece.where.off + piece.size])
        if piece.where.reg in self.general:
            return self.general[piece.where.reg].to_bytes(8, "little")[: piece.size]
        return bytes(self.wide[piece.where.reg][: piece.size])


def mask_of(ctype: CType, model: DataModel) -> int:
    """The bits of an object that are its value, padding left out."""
    mask = 0
    for leaf in leaves(ctype, model):
        bits = X87_BITS if leaf.type == CFloat("long double", 16) and model.arch == "x86_64" else leaf.size_bits
        mask |= ((1 << bits) - 1) << leaf.at_bit
    return mask


def value_of(ctype: CType, model: DataModel, rng: random.Random) -> bytes:
    """Random bytes, with 0 or 1 where a bool is."""
    return with_bools(ctype, model, rng.randbytes(size_of(ctype, model)))


def with_bools(ctype: CType, model: DataModel, raw: bytes) -> bytes:
    """The bytes of an object, 0 or 1 in each bool, which C has no other value for."""
    data = bytearray(raw)
    for leaf in leaves(ctype, model):
        if leaf.type == CInt("bool", 1, False) and not leaf.is_bits:
            data[leaf.at_bit // 8] &= 1
    return bytes(data)


class Machine:
    """An emulated CPU with one object file loaded after the other."""

    def __init__(self, abi: Abi) -> None:
        self.abi = abi
        self._names = _REGISTERS[abi.arch]
        self._cpu = emu.Emulator(abi.arch, watched=False)
        self._general = self._cpu.regs([*self._names.general, abi.sp])
        self._wide = self._cpu.wide_regs(self._names.wide)

    def load(self, code: bytes) -> None:
        """The code of an object."""
        self._cpu.load(code, ())

    def _write(self, state: State, sp: int) -> None:
        self._general.write([*state.general.values(), sp])
        self._wide.write(map(bytes, state.wide.values()))

    def _read(self, stack_bytes: int) -> tuple[State, int]:
        """The state, and the address of the first stacked argument."""
        state = State(self._names, random.Random(0), 0)
        *general, sp = self._general.read()
        state.general = dict(zip(self._names.general, general, strict=True))
        state.wide = {reg: bytearray(data) for reg, data in zip(self._names.wide, self._wide.read(), strict=True)}
        at = sp + self.abi.return_address_bytes
        inside = emu.STACK_BASE <= at <= emu.STACK_BASE + emu.STACK_BYTES - stack_bytes
        state.stack = bytearray(self._cpu.read(at, stack_bytes) if inside else bytes(stack_bytes))
        return state, at

    def _run(self, entry: int, until: int) -> str:
        """What went wrong, or nothing."""
        fault = self._cpu.run(entry, lambda address: None, lambda is_write, address, size: None, MOST_INSNS, until)
        return f"{fault.what} at {fault.pc:#x}" if fault else ""

    def _values(self, layout: Layout, rng: random.Random) -> list[bytes]:
        values = [value_of(placed.type, self.abi.model, rng) for placed in layout.args]
        self._cpu.write(VALUES, b"".join(value.ljust(PLACE, b"\0") for value in values))
        self._cpu.write(SEEN, bytes(SEEN_RESULT + PLACE - SEEN) if len(values) > 32 else bytes(PLACE * len(values)))
        self._cpu.write(SEEN_RESULT, bytes(PLACE))
        return values

    def _differs(self, side: str, placed: Placed, want: bytes, seen: bytes) -> Iterator[Mismatch]:
        mask = mask_of(placed.type, self.abi.model) & (-1 if placed.by_reference else covered(placed))
        if (int.from_bytes(want, "little") ^ int.from_bytes(seen, "little")) & mask:
            yield Mismatch(side, placed.name, f"{seen.hex()} instead of {want.hex()}")

    # --- a compiled callee

    def callee(self, entry: int, layout: Layout, rng: random.Random) -> list[Mismatch]:
        """Calls a function with the arguments where the layout puts them; it has to see them, and return its result there."""
        state = State(self._names, rng, layout.stack_bytes)
        values = self._values(layout, rng)
        for number, (placed, value) in enumerate(zip(layout.args, values, strict=True)):
            data = value
            if placed.by_reference:
                data = (COPIES + PLACE * number).to_bytes(8, "little")
                self._cpu.write(COPIES + PLACE * number, value)
            for piece in placed.pieces:
                state.put(piece, data[piece.at : piece.at + piece.size])
        returned = self._returned(layout, rng)
        if layout.result is not None and layout.result.by_reference:
            state.put(layout.result.pieces[0], RETURNED.to_bytes(8, "little"))
        if layout.vector_args is not None:
            state.general["rax"] = state.general["rax"] >> 8 << 8 | layout.vector_args
        self._enter(state, max(16, layout.stack_align))
        if wrong := self._run(entry, emu.STOP):
            return [Mismatch("callee", "run", wrong)]
        found: list[Mismatch] = []
        for number, (placed, value) in enumerate(zip(layout.args, values, strict=True)):
            found += self._differs("callee", placed, value, self._cpu.read(SEEN + PLACE * number, placed.size))
        return [*found, *self._check_result(layout, returned)]

    def _returned(self, layout: Layout, rng: random.Random) -> bytes:
        """What a callee is to return."""
        value = b"" if layout.result is None else value_of(layout.result.type, self.abi.model, rng)
        self._cpu.write(RESULT, value)
        self._cpu.write(RETURNED, bytes(PLACE))
        return value

    def _enter(self, state: State, align: int) -> None:
        """The state at a function's first insn; the stacked arguments are aligned as told, and not to more."""
        at = emu.STACK_TOP // (2 * align) * (2 * align) - 0x1000 // align * align - align
        at -= 0 if at % (2 * align) else align
        self._cpu.write(at, bytes(state.stack))
        if self.abi.return_address_bytes:
            self._cpu.write(at - 8, emu.STOP.to_bytes(8, "little"))
        else:
            state.general["x30"] = emu.STOP
        self._write(state, at - self.abi.return_address_bytes)

    def _check_result(self, layout: Layout, want: bytes) -> Iterator[Mismatch]:
        if layout.result is None:
            return
        state, _ = self._read(0)
        if layout.result.by_reference:
            seen = self._cpu.read(RETURNED, layout.result.size)
            if self.abi.arch == "x86_64" and state.general["rax"] != RETURNED:
                yield Mismatch("callee", "result", f"rax is {state.general['rax']:#x}, not the address of the result")
        else:
            seen = _gathered(layout.result, state)
        yield from self._differs("callee", layout.result, want, seen)

    # --- a compiled caller

    def caller(self, entry: int, layout: Layout, rng: random.Random) -> list[Mismatch]:
        """Runs a function that calls another; the arguments have to be where the layout says, and its result is returned there."""
        values = self._values(layout, rng)
        state = State(self._names, rng, 0)
        state.general[self.abi.int_args[0]] = TARGET
        self._enter(state, 16)
        if wrong := self._run(entry, TARGET):
            return [Mismatch("caller", "run", wrong)]
        at_call, at = self._read(layout.stack_bytes)
        found = list(self._check_call(layout, values, at_call, at))
        back = self._return(layout, at_call, at, rng)
        if isinstance(back, Mismatch):
            return [*found, back]
        address, returned = back
        if wrong := self._run(address, emu.STOP):
            return [*found, Mismatch("caller", "run", wrong)]
        if layout.result is not None:
            found += self._differs("caller", layout.result, returned, self._cpu.read(SEEN_RESULT, layout.result.size))
        return found

    def _check_call(self, layout: Layout, values: list[bytes], state: State, at: int) -> Iterator[Mismatch]:
        if at % max(16, layout.stack_align):
            yield Mismatch(
                "caller", "stack", f"the arguments are at {at:#x}, no multiple of {max(16, layout.stack_align)}"
            )
        if layout.vector_args is not None and not layout.vector_args <= state.general["rax"] & 0xFF <= 8:
            yield Mismatch("caller", "al", f"{state.general['rax'] & 0xFF}, not {layout.vector_args} to 8")
        for placed, value in zip(layout.args, values, strict=True):
            seen = _gathered(placed, state)
            if placed.by_reference:
                seen = self._referred(int.from_bytes(seen, "little"), placed.size)
            yield from self._differs("caller", placed, value, seen)

    def _referred(self, address: int, size: int) -> bytes:
        for base, length in ((emu.STACK_BASE, emu.STACK_BYTES), (VALUES, emu.CTX_BYTES)):
            if base <= address <= base + length - size:
                return self._cpu.read(address, size)
        return b""

    def _return(self, layout: Layout, state: State, at: int, rng: random.Random) -> tuple[int, bytes] | Mismatch:
        """Gives a result, destroys what a callee may, and tells where to go on."""
        after = State(self._names, rng, 0)
        value = b"" if layout.result is None else value_of(layout.result.type, self.abi.model, rng)
        if layout.result is not None and layout.result.by_reference:
            address = int.from_bytes(state.get(layout.result.pieces[0]), "little")
            if not self._referred(address, layout.result.size):
                return Mismatch("caller", "result", f"{address:#x} is no address for it")
            self._cpu.write(address, value)
            if self.abi.arch == "x86_64":
                after.general["rax"] = address
        elif layout.result is not None:
            for piece in layout.result.pieces:
                after.put(piece, value[piece.at : piece.at + piece.size])
        back = state.general.get("x30", 0)
        if self.abi.return_address_bytes:
            back = int.from_bytes(self._cpu.read(at - 8, 8), "little")
        self._write(after, at)
        return back, value


def covered(placed: Placed) -> int:
    """The bits of an object that are in its pieces."""
    return sum(((1 << piece.size * 8) - 1) << piece.at * 8 for piece in placed.pieces)


def _gathered(placed: Placed, state: State) -> bytes:
    """An argument or result from its pieces; what is in none is 0."""
    data = bytearray(8 if placed.by_reference else placed.size)
    for piece in placed.pieces:
        data[piece.at : piece.at + piece.size] = state.get(piece)
    return bytes(data)
