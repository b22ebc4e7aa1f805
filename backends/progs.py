"""Prog arrays as native code finds them: slots, cached landing points, and the sites that updates patch.

Linux kernel/bpf/arraymap.c, arch/x86/net/bpf_jit_comp.c (bpf_arch_poke_desc_update()); offsets as in 7.2.13. The cache is that
of the series "bpf: tailcall: Eliminate max_entries and bpf_func access at runtime" (January 2026, not merged).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from backends.image import Image, Tail
from backends.maps import STRIDE, address_of
from harness.isa.maps import MAX_MAPS, Map

MAX_ENTRIES_AT: Final = 0x4C  # struct bpf_array, map.max_entries
PTRS_AT: Final = 0x130  # struct bpf_array, ptrs
BPF_FUNC_AT: Final = 0x48  # struct bpf_prog, bpf_func
PROGS_BASE: Final = address_of(MAX_MAPS)  # what stands for a program's object, behind all maps
PROG_STRIDE: Final = 0x100
_X86_NOP5: Final = bytes.fromhex("0f1f440000")
_X86_JMP: Final = 0xE9


class Code(Protocol):
    """The memory of a CPU."""

    def write(self, address: int, data: bytes) -> None:
        """Changes data."""
        ...

    def patch(self, address: int, code: bytes) -> None:
        """Changes insns."""
        ...


class Part(Enum):
    """What a tail call reads: of a prog array its limit, a slot or a cached landing point; where a program begins."""

    LIMIT = "max_entries"
    SLOT = "slot"
    CACHE = "cache"
    PROGRAM = "program"


@dataclass(frozen=True, slots=True)
class Write:
    """One write that an update makes, as another CPU sees it: all of it or nothing."""

    what: str
    address: int
    data: bytes
    is_code: bool = False


def map_bytes(map_: Map) -> int:
    """From a prog array's own address to its end; with the cache, which not every lowering has."""
    return PTRS_AT + 16 * map_.max_entries


def object_of(number: int) -> int:
    """The address of a program's object."""
    return PROGS_BASE + number * PROG_STRIDE


@dataclass(slots=True)
class NativeProgs:
    """The prog arrays of one image in a CPU's memory. Each method is one decision, so that a test can make one wrong."""

    maps: Sequence[Map]
    image: Image
    cpu: Code

    def begin(self) -> None:
        """Empty arrays, and the programs' objects."""
        for number, main in enumerate(self.image.source.prog.mains):
            self.cpu.write(object_of(number) + BPF_FUNC_AT, self.entry_of(main).to_bytes(8, "little"))
        for index, map_ in enumerate(self.maps):
            if map_.has_progs:
                self.cpu.write(address_of(index), bytes(map_bytes(map_)))
                self.cpu.write(address_of(index) + MAX_ENTRIES_AT, map_.max_entries.to_bytes(4, "little"))
        for poke in self.image.pokes:
            self.cpu.patch(self.image.base + poke.bypass, self._jump(poke.bypass, self.image.base + poke.target + 5))
            self.cpu.patch(self.image.base + poke.target, _X86_NOP5)

    def entry_of(self, main: int) -> int:
        """Where a program begins."""
        return self.image.base + next(symbol.offset for symbol in self.image.symbols if symbol.subprog == main)

    def landing_of(self, number: int) -> int:
        """Where a tail call of a program goes to. TC-57, TC-70, TC-90."""
        return self.entry_of(self.image.source.prog.mains[number]) + self.image.landing

    def slot(self, index: int, key: int) -> int:
        """The address of a slot."""
        return address_of(index) + PTRS_AT + 8 * key

    def cache(self, index: int, key: int) -> int:
        """The address of a cached landing point."""
        return self.slot(index, self.maps[index].max_entries + key)

    def writes(self, index: int, key: int, old: int | None, new: int | None) -> list[Write]:
        """What an update writes, in order. TC-12, TC-59, TC-46."""
        pointer = 0 if new is None else object_of(new)
        found = [Write("slot", self.slot(index, key), pointer.to_bytes(8, "little"))]
        if self.image.tail is not Tail.BASE:
            landing = 0 if new is None else self.landing_of(new)
            found.append(Write("cache", self.cache(index, key), landing.to_bytes(8, "little")))
        for poke in self.image.pokes:
            if (poke.map, poke.key) == (index, key):
                found += self.poked(poke.bypass, poke.target, old, new)
        return found

    def poked(self, bypass: int, target: int, old: int | None, new: int | None) -> list[Write]:
        """At one site: never is the bypass open while the target is no jump. TC-46, TC-47."""
        base = self.image.base
        if new is not None:
            jump = Write("target", base + target, self._jump(target, self.landing_of(new)), True)
            return [jump] if old is not None else [jump, Write("bypass", base + bypass, _X86_NOP5, True)]
        if old is None:
            return []
        closed = Write("bypass", base + bypass, self._jump(bypass, base + target + 5), True)
        return [closed, Write("target", base + target, _X86_NOP5, True)]

    def read_of(self, address: int, size: int) -> Part | None:
        """What a tail call may read there; None where it may not."""
        number, rest = divmod(address - PROGS_BASE, PROG_STRIDE)
        if number >= 0:
            known = number < len(self.image.source.prog.mains) and (rest, size) == (BPF_FUNC_AT, 8)
            return Part.PROGRAM if known else None
        index, at = divmod(address - address_of(0), STRIDE)
        if index >= len(self.maps) or not self.maps[index].has_progs:
            return None
        if (at, size) == (MAX_ENTRIES_AT, 4):
            return Part.LIMIT
        key, rest = divmod(at - PTRS_AT, 8)
        if rest or size != 8 or key < 0:
            return None
        if key < self.maps[index].max_entries:
            return Part.SLOT
        return Part.CACHE if self.image.tail is not Tail.BASE and key < 2 * self.maps[index].max_entries else None

    def _jump(self, at: int, to: int) -> bytes:
        distance = to - (self.image.base + at + 5)
        return bytes([_X86_JMP]) + distance.to_bytes(4, "little", signed=True)

    def apply(self, writes: Sequence[Write]) -> None:
        """Makes them."""
        for write in writes:
            (self.cpu.patch if write.is_code else self.cpu.write)(write.address, write.data)
