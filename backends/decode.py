"""Native code decoded once: the insns a probe has to know, found by Capstone."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

import capstone

from backends.image import Image

MAX_INSN_BYTES: Final = 15  # of x86-64. Intel SDM, "Instruction Format"
_ARM64_SP_MEMORY: Final = re.compile(r"\[sp(?:, #(-?\w+))?\](!)?")
_ARM64_MEMORY: Final = re.compile(r"\[(\w+)")
_X86_MEMORY: Final = re.compile(r"\[(\w+)")


@dataclass(frozen=True, slots=True)
class Native:
    """One native insn. `base` is the register its memory operand starts from, or empty.

    `pushes` is how many bytes below SP it may write, because it lowers SP by as many itself.
    """

    offset: int
    size: int
    mnemonic: str
    operands: str
    base: str
    pushes: int

    @property
    def text(self) -> str:
        """As a listing shows it."""
        return f"{self.mnemonic} {self.operands}".rstrip()


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image's insns by offset, the offsets after its calls, and its indirect calls and jumps."""

    insns: dict[int, Native]
    return_sites: frozenset[int]
    indirect: frozenset[int]

    def start_of(self, offset: int) -> int:
        """The offset of the insn that covers `offset`, or `offset` itself outside the image."""
        return next((at for at in range(offset, max(offset - MAX_INSN_BYTES, -1), -1) if at in self.insns), offset)


@cache
def _disassembler(arch: str) -> capstone.Cs:
    if arch == "arm64":
        return capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def disassemble(arch: str, code: bytes, base: int) -> list[tuple[int, int, str, str]]:
    """(address, size, mnemonic, operands) of every insn; bytes that are none come as `.byte`."""
    rows: list[tuple[int, int, str, str]] = []
    at, step = 0, 4 if arch == "arm64" else 1
    while at < len(code):
        for address, size, mnemonic, operands in _disassembler(arch).disasm_lite(code[at:], base + at):
            rows.append((address, size, mnemonic, operands))
            at = address - base + size
        if at < len(code):
            chunk = code[at : at + step]
            rows.append((base + at, len(chunk), ".byte", chunk.hex(" ")))
            at += len(chunk)
    return rows


def _arm64_pushes(mnemonic: str, operands: str) -> int:
    match = _ARM64_SP_MEMORY.search(operands)
    if match and match.group(2) and mnemonic.startswith("st"):
        return max(0, -int(match.group(1) or "0", 0))
    return 0


def _native(arch: str, offset: int, size: int, mnemonic: str, operands: str) -> Native:
    if arch == "arm64":
        memory = _ARM64_MEMORY.search(operands)
        pushes = _arm64_pushes(mnemonic, operands)
    else:
        memory = _X86_MEMORY.search(operands)
        pushes = 8 if mnemonic in ("push", "call") else 0
    base = memory.group(1) if memory and mnemonic != "lea" else ""
    if arch == "x86_64" and mnemonic in ("push", "pop", "call", "ret"):
        base = "rsp"
    return Native(offset, size, mnemonic, operands, base, pushes)


def decode_code(arch: str, code: bytes, base: int) -> dict[int, Native]:
    """Every insn by its offset."""
    rows = disassemble(arch, code, base)
    return {
        address - base: _native(arch, address - base, size, mnemonic, text) for address, size, mnemonic, text in rows
    }


def decode_image(image: Image) -> Decoded:
    """Every insn of an image, and the places that matter."""
    insns = decode_code(image.arch, image.code, image.base)
    sites: set[int] = set()
    indirect: set[int] = set()
    for offset, native in insns.items():
        mnemonic, operands, size = native.mnemonic, native.operands, native.size
        if mnemonic in ("bl", "blr", "blraa", "blrab", "call"):
            sites.add(offset + size)
        if mnemonic in ("blr", "br") or (mnemonic in ("call", "jmp") and not operands[:1].isdigit()):
            indirect.add(offset)
    return Decoded(insns, frozenset(sites), frozenset(indirect))


def is_landing_pad(arch: str, native: Native | None, *, by_jump: bool = False) -> bool:
    """Whether an indirect call may land on this insn: BTI c/jc or PACIASP (Arm ARM, "BTI"), ENDBR64 (Intel SDM, "CET").

    `by_jump`: a BR through another register than X16 and X17, which may land on BTI j/jc alone.
    """
    if native is None:
        return False
    if arch == "x86_64":
        return native.mnemonic == "endbr64"
    if by_jump:
        return native.mnemonic == "bti" and native.operands in ("j", "jc")
    if native.mnemonic == "bti":
        return native.operands in ("c", "jc")
    return native.mnemonic in ("paciasp", "pacibsp")
