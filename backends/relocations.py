"""Relocations of a plugin's image: the places in its code that name a function by its address."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from backends.image import Addresses

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "x86_64": ("abs64", "rel32"),
    "arm64": ("abs64", "branch26", "movw"),
}
_SIZES: Final = {"abs64": 8, "rel32": 4, "branch26": 4, "movw": 16}
_MOVW_INSNS: Final = 4


class RelocationError(Exception):
    """A relocation that makes no sense; the text begins with its number."""


def relocated(
    arch: str, code: bytes, addresses: Addresses, starts: Mapping[int, int], rows: Sequence[Mapping[str, Any]]
) -> bytes:
    """The code with every relocation applied. `starts`: offset of each subprog. Raises RelocationError."""
    out = bytearray(code)
    for number, row in enumerate(rows):
        try:
            _apply(arch, out, addresses, starts, row)
        except ValueError as error:
            raise RelocationError(f"[{number}]: {error}") from error
    return bytes(out)


def _apply(arch: str, out: bytearray, addresses: Addresses, starts: Mapping[int, int], row: Mapping[str, Any]) -> None:
    kind, offset, target = row.get("kind"), row.get("offset"), row.get("target")
    if kind not in KINDS[arch]:
        raise ValueError(f"`kind` must be {' or '.join(KINDS[arch])} on {arch}, found {kind!r:.60}")
    if type(offset) is not int or not 0 <= offset <= len(out) - _SIZES[kind]:
        raise ValueError(f"`offset` must leave {_SIZES[kind]} bytes in a code of {len(out)}, found {offset!r:.60}")
    if type(target) is int and target in starts:
        address = addresses.base + starts[target]
    elif type(target) is str and target in addresses.externs:
        address = addresses.externs[target]
    else:
        raise ValueError(f"`target` must be the name of an extern or the number of a subprog, found {target!r:.60}")
    out[offset : offset + _SIZES[kind]] = _patched(kind, bytes(out[offset : offset + _SIZES[kind]]), address,
                                                   addresses.base + offset)  # fmt: skip


def _patched(kind: str, old: bytes, address: int, place: int) -> bytes:
    """The bytes at `place` once they name `address`."""
    match kind:
        case "abs64":
            return struct.pack("<Q", address)
        case "rel32":  # R_X86_64_PLT32 with addend -4: counted from the end of the field
            return struct.pack("<i", _fits(address - place - 4, 32))
        case "branch26":  # R_AARCH64_CALL26, R_AARCH64_JUMP26
            distance = _fits(address - place, 28)
            (insn,) = struct.unpack("<I", old)
            if place % 4 or insn & 0x7C00_0000 != 0x1400_0000:
                raise ValueError(f"there is no B or BL at `offset`: {insn:#x}")
            return struct.pack("<I", insn & 0xFC00_0000 | distance >> 2 & 0x03FF_FFFF)
        case _:  # R_AARCH64_MOVW_UABS_G0 to G3, each where its insn's own field says
            return _moved_wide(old, address, place)


def _moved_wide(old: bytes, address: int, place: int) -> bytes:
    insns = struct.unpack("<4I", old)
    if place % 4 or any(insn & 0xFF80_0000 not in (0xD280_0000, 0xF280_0000) for insn in insns):
        raise ValueError(f"there are no {_MOVW_INSNS} MOVZ or MOVK of 64 bits at `offset`: {old.hex()}")
    return struct.pack(
        "<4I", *(insn & 0xFFE0_001F | (address >> 16 * (insn >> 21 & 3) & 0xFFFF) << 5 for insn in insns)
    )


def _fits(distance: int, bits: int) -> int:
    if not -(1 << bits - 1) <= distance < 1 << bits - 1:
        raise ValueError(f"the target is {distance} bytes away, too far for {bits} bits")
    return distance
