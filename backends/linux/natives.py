"""A kernel's trampolines as native code: where one ends, what it uses, and the same insns where the bench has things."""

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from backends.decode import disassemble
from backends.trampoline import HOOKS, Places, Target
from backends.trampoline_bench import object_of
from backends.trampoline_code import prog_address


class MoveError(Exception):
    """A trampoline that is not of the known form, so that it cannot be moved to the emulator."""


@dataclass(frozen=True, slots=True)
class Native:
    """A trampoline as the kernel has it, and the addresses that it uses. `programs` are in the order of attachment.

    `body`: where the traced function goes on behind its patched call.
    """

    address: int
    code: bytes
    function: int
    body: int
    programs: tuple[int, ...]
    hooks: Mapping[int, str]


_ARM64_LAST: Final = "mov x30, x9"  # the insn before the last: TR-42, step 11


def whole_image(arch: str, memory: bytes, target: Target = Target.KERNEL) -> bytes:
    """A trampoline without what lies behind it. Raises MoveError."""
    any_return = arch == "x86_64" or target is Target.STRUCT_OPS
    before = ""
    for address, size, mnemonic, operands in disassemble(arch, memory, 0):
        if mnemonic == "ret" and (any_return or before == _ARM64_LAST):
            return memory[: address + size]
        before = f"{mnemonic} {operands}"
    raise MoveError("expected a trampoline, found no return at its end")


@dataclass(slots=True)
class _Constant:
    """A 64-bit constant that a trampoline puts into a register."""

    at: int
    size: int
    reg: str
    value: int


@dataclass(frozen=True, slots=True)
class Uses:
    """What a kernel's trampoline calls and is given. `objects`: of programs, by their number."""

    calls: tuple[tuple[int, int, int], ...]  # offset, size, target
    constants: tuple["_Constant", ...]
    hooks: Mapping[str, int]
    objects: Mapping[int, int]
    image: int

    def places(self, arch: str, native: Native) -> Places:
        """As our own trampolines are told of them."""
        hooks = {**dict.fromkeys(HOOKS, native.address), **self.hooks}  # those that are not used are near, too
        return Places(native.address, native.function, native.body, self.image, hooks)


def uses_of(arch: str, native: Native) -> Uses:
    """What a trampoline uses. Raises MoveError for a call of anything else than hooks, programs and the traced function."""
    programs = {address: number for number, address in enumerate(native.programs)}
    constants = tuple(_CONSTANTS[arch](native.code))
    calls, hooks, objects = list[tuple[int, int, int]](), dict[str, int](), dict[int, int]()
    entered = image = 0
    for address, size, mnemonic, operands in disassemble(arch, native.code, native.address):
        if mnemonic not in ("call", "bl"):
            continue
        target, at = int(operands.lstrip("#"), 16), address - native.address
        given = next((c.value for c in reversed(constants) if c.at < at and c.reg in _OBJECT_REGS), 0)
        hook = native.hooks.get(target)
        if hook is not None:
            hooks[hook] = target
            entered = given if hook == "__bpf_prog_enter" else entered
            image = given if hook.startswith("__bpf_tramp") else image
        elif target in programs:
            objects[programs[target]] = entered
        elif target != native.body:
            raise MoveError(f"{at:#x}: a call of {target:#x}, which is neither hook, program nor function")
        calls.append((at, size, target))
    return Uses(tuple(calls), constants, hooks, objects, image)


def moved(arch: str, native: Native, where: Places) -> bytes:
    """The same insns where the bench has functions, programs and objects. Raises MoveError."""
    uses, code = uses_of(arch, native), bytearray(native.code)
    goals = {native.body: where.body}
    goals |= {target: where.hooks[hook] for hook, target in uses.hooks.items()}
    goals |= {address: prog_address(number) for number, address in enumerate(native.programs)}
    new = {native.function: where.function, uses.image: where.image}
    new |= {value: object_of(number) for number, value in uses.objects.items()}
    for at, size, target in uses.calls:
        _aim(arch, code, at, size, goals[target] - (where.base + at))
    for constant in uses.constants:
        if constant.value and constant.value in new:
            code[constant.at : constant.at + constant.size] = _load(arch, constant, new[constant.value])
    return bytes(code)


_OBJECT_REGS: Final = ("rdi", "x0", "x19")
ENTRY_BYTES: Final = {"x86_64": 5, "arm64": 8}  # what is patched at a function's beginning


def _aim(arch: str, code: bytearray, at: int, size: int, distance: int) -> None:
    """A direct call's distance: x86-64's from its end, arm64's in words."""
    if arch == "x86_64":
        struct.pack_into("<i", code, at + 1, distance - size)
    else:
        struct.pack_into("<I", code, at, 0x9400_0000 | distance >> 2 & (1 << 26) - 1)


_X86_REGS: Final = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
_X86_FORMS: Final = (
    (re.compile(rb"\x48[\xb8-\xbf]", re.DOTALL), 10, "<Q"),
    (re.compile(rb"\x48\xc7[\xc0-\xc7]", re.DOTALL), 7, "<i"),
    (re.compile(rb"[\xb8-\xbf]", re.DOTALL), 5, "<I"),
)


def _x86_constants(code: bytes) -> Iterator[_Constant]:
    """Intel SDM, MOV: REX.W B8 imm64, REX.W C7 /0 imm32, B8 imm32."""
    for at, size, _, _ in disassemble("x86_64", code, 0):
        for form, length, shape in _X86_FORMS:
            if size == length and (found := form.match(code, at)):
                (value,) = struct.unpack_from(shape, code, at + length - struct.calcsize(shape))
                yield _Constant(at, size, _X86_REGS[found.group()[-1] & 7], value & (1 << 64) - 1)


def _arm64_constants(code: bytes) -> Iterator[_Constant]:
    """Arm ARM, MOVN and MOVZ of 64 bits with the MOVKs that follow them."""
    last: _Constant | None = None
    for at in range(0, len(code), 4):
        (word,) = struct.unpack_from("<I", code, at)
        reg, imm, shift = f"x{word & 31}", word >> 5 & 0xFFFF, 16 * (word >> 21 & 3)
        if word >> 23 == 0x1E5 and last is not None and last.reg == reg:  # MOVK
            last.value = last.value & ~(0xFFFF << shift) | imm << shift
            last.size += 4
            continue
        if last is not None:
            yield last
        last = None
        if word >> 23 == 0x125:  # MOVN
            last = _Constant(at, 4, reg, ~(imm << shift) & (1 << 64) - 1)
        elif word >> 23 == 0x1A5:  # MOVZ
            last = _Constant(at, 4, reg, imm << shift)


_CONSTANTS: Final[Mapping[str, Callable[[bytes], Iterator[_Constant]]]] = {
    "x86_64": _x86_constants,
    "arm64": _arm64_constants,
}


def _load(arch: str, constant: _Constant, value: int) -> bytes:
    """The same room with another value. Raises MoveError where it does not fit."""
    reg = constant.reg
    if arch == "x86_64":
        number = _X86_REGS.index(reg)
        if constant.size == 10:
            return bytes([0x48, 0xB8 + number]) + value.to_bytes(8, "little")
        if value < 1 << 31:
            head = bytes([0x48, 0xC7, 0xC0 + number]) if constant.size == 7 else bytes([0xB8 + number])
            return head + value.to_bytes(4, "little")
        raise MoveError(f"expected room for {value:#x}, found {constant.size} bytes")
    parts = [(value >> shift & 0xFFFF, shift) for shift in range(0, 64, 16) if value >> shift & 0xFFFF] or [(0, 0)]
    words = [
        (0xF280_0000 if index else 0xD280_0000) | shift // 16 << 21 | part << 5 | int(reg[1:])
        for index, (part, shift) in enumerate(parts)
    ]
    if 4 * len(words) > constant.size:
        raise MoveError(f"expected room for {value:#x}, found {constant.size} bytes")
    words += [0xD503_201F] * (constant.size // 4 - len(words))
    return b"".join(word.to_bytes(4, "little") for word in words)
