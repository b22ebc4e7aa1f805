"""A kernel's native code as an Image: its functions side by side, every address outside them resolved by name."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from backends import maps
from backends.decode import disassemble
from backends.emulator import KERNEL_DATA_BASE
from backends.image import Addresses, Image, Poke, Symbol
from backends.linux.ask import Answer, NativeFunc
from harness.isa.calls import TAIL_CALL
from harness.isa.ctypes import rounded_up
from harness.isa.insn import CallHelper, LdImm64, Prog
from harness.isa.verified import TailSite, Verified

ALIGN: Final = 16
_COUNTER_SET: Final = b"\xfa\x03\x00\x91"  # mov x26, sp
# mov rax, [rbp - x]; cmp qword [rax], 33; jae, short or near; then the jump around the rest.
_DIRECT: Final = re.compile(rb"\x48\x8b\x85....\x48\x83\x38\x21(?:\x73.|\x0f\x83....)(\xe9)", re.DOTALL)
_MOVN, _MOVZ, _MOVK = 0b00, 0b10, 0b11  # Arm ARM, "Move wide (immediate)", field opc
# ENDBR64; BTI c. PACIASP, which begins a function too, does not tell that indirect calls are checked.
_LANDING: Final = {"x86_64": b"\xf3\x0f\x1e\xfa", "arm64": b"\x5f\x24\x03\xd5"}
PADDING: Final = {"x86_64": b"\xcc", "arm64": b"\0"}  # between functions; no byte of it begins an insn of several
_MRS_SP_EL0: Final = 0xD538_4100
_GS: Final = re.compile(r"gs:\[(rip ([+-]) )?0x(\w+)\]")
_NOP: Final = 0xD503_201F
MAP_LOOKUP: Final = 1  # bpf_map_lookup_elem
_FIRST: Final = {"x86_64": "rdi, ", "arm64": "x0, x0, #"}  # R1, the map
_RESULT: Final = {"x86_64": "rax, ", "arm64": "x8, x8, #"}  # R0
_MOV_SIGNED: Final = b"\x48\xc7"  # mov r64, imm32


class ImageError(Exception):
    """Native code that cannot be moved: the message says what it refers to."""


@dataclass(slots=True)
class _Mover:
    """Moves the functions of one program."""

    arch: str
    prog: Prog
    answer: Answer
    names: Mapping[int, str]
    addresses: Addresses
    tail_sites: Mapping[int, TailSite]  # by insn as loaded
    starts: dict[int, int] = field(default_factory=dict)  # offset in the image, by the address in the kernel
    kernel_data: bool = False

    def image(self) -> Image:
        """The image; raises ImageError."""
        at = 0
        for func in self.answer.funcs:
            self.starts[func.address] = at
            at += rounded_up(len(func.code), ALIGN)
        code = bytearray(PADDING[self.arch] * at)
        for func in self.answer.funcs:
            offset = self.starts[func.address]
            code[offset : offset + len(func.code)] = self._moved(func)
        subprogs = self._subprogs()
        symbols = tuple(
            Symbol(self.prog.subprogs[subprog].name, self.starts[func.address], len(func.code), subprog)
            for subprog, func in zip(subprogs, self.answer.funcs, strict=True)
        )
        identity = Verified(self.prog, (), tuple(range(len(self.prog.insns))))
        offsets = self._insn_offsets(symbols)
        return Image(
            self.arch, self.addresses.base, bytes(code), symbols, offsets, self._has_pads(), identity,
            inlined=self._inlined(offsets), kernel_data=self.kernel_data, landing=self._landing(),
            landing_frame=(8 if self.arch == "x86_64" else 32) if self.prog.tail_calls else 0, pokes=tuple(self._pokes(bytes(code))),
        )  # fmt: skip

    def _landing(self) -> int:
        """From a main prog's entry to where tail calls land. TC-70, TC-90."""
        if not self.prog.tail_calls:
            return 0
        if self.arch == "x86_64":
            return 16 if self._has_pads() else 12
        at = self.answer.funcs[0].code.find(_COUNTER_SET)
        return at + 4 if at >= 0 else 0

    def _pokes(self, code: bytes) -> Iterator[Poke]:
        """Tail calls whose target is patched: the kernel does not tell of them, their code and a known key do."""
        for func in self.answer.funcs if self.arch == "x86_64" else ():
            for insn, start, end in self._spans(func):
                typed = self.prog.ops[insn]
                if not isinstance(typed, CallHelper) or typed.id != TAIL_CALL:
                    continue
                site, offset = self.tail_sites.get(insn), self.starts[func.address]
                found = _DIRECT.match(code, offset + start)
                if found is not None and site is not None and site.key is not None:
                    yield Poke(found.start(1), offset + end - 5, site.map, site.key)

    def _has_pads(self) -> bool:
        """Whether the kernel was built for landing pads: then some function begins with one."""
        first = _LANDING[self.arch]
        return any(func.code.startswith(first) for func in self.answer.funcs)

    def _subprogs(self) -> list[int]:
        """The subprog of each native function; the kernel drops those that it never reached."""
        found: list[int] = []
        for func in self.answer.funcs:
            lines = [insn for insn, address in self.answer.lines if address == func.address]
            if not lines:
                raise ImageError(f"the kernel does not say which insns the function at {func.address:#x} has")
            found.append(self.prog.subprog_of(lines[0]))
        return found

    def _insn_offsets(self, symbols: tuple[Symbol, ...]) -> tuple[int, ...]:
        """By insn as loaded. One without native code has the offset of the next that has some, or its function's end."""
        own = {insn: self._offset_of(address) for insn, address in self.answer.lines}
        offsets = [0] * len(self.prog.insns)
        ends = {symbol.subprog: symbol.offset + symbol.size for symbol in symbols}
        for index, subprog in enumerate(self.prog.subprogs):
            following = ends.get(index, self._end())
            for insn in range(subprog.end - 1, subprog.start - 1, -1):
                following = own.get(insn, following)
                offsets[insn] = following
        return tuple(offsets)

    def _offset_of(self, address: int) -> int:
        for func in self.answer.funcs:
            if func.address <= address < func.address + len(func.code):
                return self.starts[func.address] + address - func.address
        raise ImageError(f"an insn's native code is at {address:#x}, outside every function")

    def _inlined(self, offsets: tuple[int, ...]) -> frozenset[int]:
        """Helper calls that the kernel replaced by other insns."""
        calls = {
            self._offset_of(address)
            for func in self.answer.funcs
            for address, _, mnemonic, _ in disassemble(self.arch, func.code, func.address)
            if mnemonic in ("call", "bl", "blr")
        }
        found: set[int] = set()
        for insn, op in enumerate(self.prog.ops):
            if isinstance(op, CallHelper) and op.id != TAIL_CALL:
                end = next((at for at in sorted(offsets) if at > offsets[insn]), self._end())
                if not any(offsets[insn] <= call < end for call in calls):
                    found.add(insn)
        return frozenset(found)

    def _end(self) -> int:
        return max(self.starts[func.address] + len(func.code) for func in self.answer.funcs)

    def _target(self, address: int, what: str) -> int:
        """Where a called address lies after the move."""
        if address in self.starts:
            return self.addresses.base + self.starts[address]
        name = self.names.get(address)
        if name is None or name not in self.addresses.externs:
            raise ImageError(
                f"{what} refers to {address:#x}, which is neither a subprog nor a helper or kfunc of the case"
            )
        return self.addresses.externs[name]

    def _moved(self, func: NativeFunc) -> bytes:
        code = self._moved_x86_64(func) if self.arch == "x86_64" else self._moved_arm64(func)
        for insn, start, end in self._spans(func):
            match self.prog.ops[insn]:
                case LdImm64() as typed if typed.pseudo:
                    value = maps.constant(self.prog, typed)
                    if value is not None:
                        self._move_map(code, start, end, value)
                case CallHelper() as call if call.id == MAP_LOOKUP:
                    self._move_lookup(code, start, end)
                case _:
                    pass
        return bytes(code)

    def _spans(self, func: NativeFunc) -> Iterator[tuple[int, int, int]]:
        """(insn, where its native code begins in the function, where it ends)."""
        end = func.address + len(func.code)
        rows = sorted((address, insn) for insn, address in self.answer.lines if func.address <= address < end)
        ends = sorted({address for address, _ in rows} | {end})
        for address, insn in rows:
            following = ends[bisect_right(ends, address)]
            yield insn, address - func.address, following - func.address

    def _move_map(self, code: bytearray, start: int, end: int, value: int) -> None:
        """The constant that a map's address or its value's is, at the end of its span: where the emulator has it."""
        if self.arch == "x86_64":
            at = end - 10
            if at < start or code[at] & 0xFE != 0x48 or code[at + 1] & 0xF8 != 0xB8:  # mov r64, imm64
                raise ImageError(f"the address of a map is not loaded by a MOV of 64 bits: {code[start:end].hex()}")
            code[at + 2 : end] = value.to_bytes(8, "little")
            return
        words = [int.from_bytes(code[at : at + 4], "little") for at in range(start, end, 4)]
        first = len(words)
        while first and words[first - 1] >> 23 & 0x3F == 0b100101 and words[first - 1] & 31 == words[-1] & 31:
            first -= 1
        parts = [(hw, value >> 16 * hw & 0xFFFF) for hw in range(3, -1, -1) if value >> 16 * hw & 0xFFFF]
        if len(parts) > len(words) - first:
            raise ImageError(f"the address of a map is not loaded by {len(parts)} MOVs: {code[start:end].hex()}")
        moves = [_move_wide(_MOVK if n else _MOVZ, hw, part, words[-1] & 31) for n, (hw, part) in enumerate(parts)]
        moves += [_NOP] * (len(words) - first - len(moves))
        code[start + 4 * first : end] = b"".join(word.to_bytes(4, "little") for word in moves)

    def _move_lookup(self, code: bytearray, start: int, end: int) -> None:
        """A lookup that the kernel inlined adds what lies before a value: here, that of the emulator's maps.

        In an array that is what it begins with, from the map on; in a hash it comes after a call that gives the entry, which
        is the value itself here.
        """
        rows = list(disassemble(self.arch, bytes(code[start:end]), start))
        has_call = any(mnemonic in ("call", "bl", "blr") for _, _, mnemonic, _ in rows)
        adds = [
            row
            for row in rows
            if row[2] == "add" and row[3].startswith(_RESULT[self.arch] if has_call else _FIRST[self.arch])
        ]
        if not adds:
            return  # a call of the helper itself
        at, size = adds[0][:2]
        distance = 0 if has_call else maps.VALUES
        if self.arch == "x86_64" and (size == 7 or distance < 0x80):  # add r64, imm32; add r64, imm8
            code[at + 3 : at + size] = distance.to_bytes(size - 3, "little")
        elif self.arch == "arm64" and code[at + 2] & 0x40 == 0:  # no LSL #12
            word = int.from_bytes(code[at : at + 4], "little") & ~(0xFFF << 10) | distance << 10
            code[at : at + 4] = word.to_bytes(4, "little")
        else:
            raise ImageError(f"an inlined lookup adds in a way that is not known: {code[at : at + size].hex()}")

    # x86-64. Intel SDM, volume 2.

    def _moved_x86_64(self, func: NativeFunc) -> bytearray:
        code, moved = bytearray(func.code), self.addresses.base + self.starts[func.address]
        rows = list(disassemble("x86_64", func.code, func.address))
        for index, (address, size, mnemonic, operands) in enumerate(rows):
            at = address - func.address
            what = f"`{mnemonic} {operands}`"
            if code[at] == 0xE8:
                target = self._target(int(operands, 16), what)
                code[at + 1 : at + 5] = (target - (moved + at + 5)).to_bytes(4, "little", signed=True)
            elif code[at] == 0xE9 and not func.address <= int(operands, 16) < func.address + len(func.code):
                code[at : at + 5] = b"\xc3\xcc\xcc\xcc\xcc"  # a jump to a return thunk: what it does, and traps
            elif (match := _GS.search(operands)) and match.group(1):
                distance = int(match.group(3), 16) * (-1 if match.group(2) == "-" else 1)
                self.kernel_data = True
                to = KERNEL_DATA_BASE + (address + size + distance & 0xFFF) - (moved + at + size)
                code[at + size - 4 : at + size] = to.to_bytes(4, "little", signed=True)
            elif match:
                self._move_per_cpu(code, at + size - 4, int(match.group(3), 16))
                before = rows[index - 1][0] - func.address
                if code[before : before + 2] == _MOV_SIGNED:
                    self._move_per_cpu(code, before + 3, int.from_bytes(code[before + 3 : before + 7], "little"))
        return code

    def _move_per_cpu(self, code: bytearray, at: int, address: int) -> None:
        """A per-CPU variable: the page of kernel data, at the same offset."""
        self.kernel_data = True
        code[at : at + 4] = (KERNEL_DATA_BASE + (address & 0xFFF)).to_bytes(4, "little")

    # arm64. Arm ARM, C6.2.

    def _moved_arm64(self, func: NativeFunc) -> bytearray:
        words = [int.from_bytes(func.code[at : at + 4], "little") for at in range(0, len(func.code), 4)]
        moved = self.addresses.base + self.starts[func.address]
        for index, word in enumerate(words):
            if word >> 26 == 0b100101:  # BL
                distance = (word & 0x3FF_FFFF ^ 0x200_0000) - 0x200_0000
                target = self._target(func.address + 4 * (index + distance), "`bl`")
                words[index] = word & 0xFC00_0000 | (target - moved >> 2) - index & 0x3FF_FFFF
            elif word & 0xFFFF_FC1F == 0xD63F_0000:  # BLR
                self._move_constant(words, index, word >> 5 & 31)
            elif word & 0xFFFF_FFE0 == _MRS_SP_EL0:  # the current task, for a helper that was inlined
                self.kernel_data = True
                words[index] = _move_wide(_MOVZ, 1, KERNEL_DATA_BASE >> 16, word & 31)
        return bytearray(b"".join(word.to_bytes(4, "little") for word in words))

    def _move_constant(self, words: list[int], call: int, reg: int) -> None:
        """The address that the insns before an indirect call put into its register."""
        first = call
        while first and words[first - 1] >> 23 & 0x3F == 0b100101 and words[first - 1] & 31 == reg:
            first -= 1
        value = 0
        for word in words[first:call]:
            shift, part = (word >> 21 & 3) * 16, word >> 5 & 0xFFFF
            if word >> 29 & 3 == _MOVK:
                value = value & ~(0xFFFF << shift) | part << shift
            else:
                value = part << shift if word >> 29 & 3 == _MOVZ else ~(part << shift) & (1 << 64) - 1
        target = self._target(value, "`blr`")
        for number, index in enumerate(range(first, call)):
            part = target >> 16 * number & 0xFFFF
            words[index] = _move_wide(_MOVK if number else _MOVZ, number, part, reg)


def _move_wide(opc: int, hw: int, imm16: int, rd: int) -> int:
    """MOVN, MOVZ or MOVK of 64 bits."""
    return 1 << 31 | opc << 29 | 0b100101 << 23 | hw << 21 | imm16 << 5 | rd


def image_of(
    arch: str,
    prog: Prog,
    answer: Answer,
    names: Mapping[int, str],
    addresses: Addresses,
    tail_sites: Mapping[int, TailSite] = MappingProxyType({}),
) -> Image:
    """The native code of an accepted program for `addresses`; `names` are the kernel's helpers and kfuncs by address.

    `tail_sites`: what the built-in verifier knows of tail calls, by insn as loaded. Raises ImageError where the code refers to what has no name.
    """
    if not answer.funcs:
        raise ImageError("the kernel gave no native code: its JIT is off, or the reader has no right to see it")
    return _Mover(arch, prog, answer, names, addresses, tail_sites).image()


def called(arch: str, func: NativeFunc) -> Iterator[int]:
    """The addresses that a function calls directly, in order."""
    for _, _, mnemonic, operands in disassemble(arch, func.code, func.address):
        if mnemonic in ("call", "bl") and operands.lstrip("#").startswith("0x"):
            yield int(operands.lstrip("#"), 16)
