"""Maps as every engine of the suite has them: where they lie, and what the helpers do to them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from backends.base import Entries, Update
from harness.isa import opcodes as op
from harness.isa.insn import LdImm64, Prog
from harness.isa.maps import Map
from harness.isa.verified import Verified

if TYPE_CHECKING:
    from backends.progs import Write

MAPS_BASE: Final = 0x6D61_0000_0000  # above 32 bits, so that a constant's upper half matters, as a kernel's does
STRIDE: Final = 1 << 20  # bytes from one map to the next
VALUES: Final = 0x100  # bytes from a map's own address to its first value
_ANY, _NOEXIST, _EXIST = 0, 1, 2  # flags of an update. Linux include/uapi/linux/bpf.h
_ENOENT, _E2BIG, _EEXIST, _EINVAL = 2, 7, 17, 22


def address_of(index: int) -> int:
    """What a pointer to the `index`-th map is."""
    return MAPS_BASE + index * STRIDE


def values_of(index: int) -> int:
    """Where its first value lies."""
    return address_of(index) + VALUES


def constant(prog: Prog, insn: LdImm64) -> int | None:
    """What an LD_IMM64 loads; None where it stands for what the program does not have."""
    if not insn.pseudo:
        return insn.value
    index, off = insn.value & op.MASK32, insn.value >> 32
    if insn.pseudo not in (op.MAP_INDEX, op.MAP_INDEX_VALUE) or index >= len(prog.maps):
        return None
    return address_of(index) if insn.pseudo == op.MAP_INDEX else values_of(index) + off


def resolved(verified: Verified) -> Verified:
    """A program for a compiler: every constant that stands for a map is an address."""
    prog = verified.prog
    if not prog.maps:
        return verified
    insns = list(prog.insns)
    for index, typed in enumerate(prog.ops):
        if isinstance(typed, LdImm64) and typed.pseudo and (value := constant(prog, typed)) is not None:
            first, second = insns[index : index + 2]
            insns[index] = replace(first, src=op.IMM64, imm=op.signed(value, 32))
            insns[index + 1] = replace(second, imm=op.signed(value >> 32, 32))
    return replace(verified, prog=replace(prog, insns=tuple(insns)))


class Memory(Protocol):
    """The memory of an engine."""

    def read(self, address: int, size: int) -> bytes:
        """Bytes of it."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Changes them."""
        ...


class Progs(Protocol):
    """Prog arrays in an engine's memory: backends.progs.NativeProgs."""

    def begin(self) -> None:
        """All empty."""
        ...

    def writes(self, index: int, key: int, old: int | None, new: int | None) -> "list[Write]":
        """What an update writes, in order."""
        ...

    def apply(self, writes: "Sequence[Write]") -> None:
        """Makes them."""
        ...


@dataclass(slots=True)
class MapStore:
    """The maps of one run. Their values lie in the engine's memory; which key a value belongs to is kept here."""

    maps: Sequence[Map]
    memory: Memory
    progs: Progs | None = None  # where native code finds prog arrays
    errnos: list[int] = field(default_factory=list)  # of the updates before the run
    _slots: list[dict[bytes, int]] = field(default_factory=list)

    def begin(self, updates: Sequence[Update] = (), writes: int | None = None) -> None:
        """Every map as it is before the program runs: after these updates, of the last one so many writes."""
        self._slots, self.errnos = [{} for _ in self.maps], []
        if self.progs is not None:
            self.progs.begin()
        for index, map_ in enumerate(self.maps):
            if map_.has_progs:
                for key, value in map_.content:
                    self.set_prog(index, int.from_bytes(key, "little"), int.from_bytes(value, "little"))
                continue
            self.memory.write(values_of(index), bytes(map_.stride * map_.slots))
            for key, value in map_.content:
                slot = (
                    self._index(key)
                    if map_.type == "array"
                    else self._slots[index].setdefault(key, len(self._slots[index]))
                )
                self.memory.write(self._at(index, slot), value)

        for number, update in enumerate(updates, 1):
            if update.close:
                self.empty(update.map)
                self.errnos.append(0)
                continue
            last = writes if number == len(updates) else None
            self.errnos.append(-self.set_prog(update.map, update.key, update.prog, last))

    def set_prog(self, index: int, key: int, prog: int | None, writes: int | None = None) -> int:
        """A slot of a prog array from user space: 0 or -errno. Linux kernel/bpf/arraymap.c, TC-12."""
        slots, name = self._slots[index], key.to_bytes(4, "little")
        if key >= self.maps[index].max_entries:
            return -_E2BIG
        old = slots.pop(name, None)
        if prog is None and old is None:
            return -_ENOENT
        if prog is not None:
            slots[name] = prog
        if self.progs is not None:
            self.progs.apply(self.progs.writes(index, key, old, prog)[:writes])
        return 0

    def empty(self, index: int) -> None:
        """Nobody in user space has the prog array any more. Linux kernel/bpf/arraymap.c, prog_array_map_clear()."""
        for key in list(self._slots[index]):
            self.set_prog(index, int.from_bytes(key, "little"), None)

    def prog_at(self, index: int, key: int) -> int | None:
        """The number of the program in a slot; None where it is empty, or there is no such slot."""
        return self._slots[index].get(key.to_bytes(4, "little"))

    def _index(self, key: bytes) -> int:
        return int.from_bytes(key, "little")

    def _at(self, index: int, slot: int) -> int:
        return values_of(index) + slot * self.maps[index].stride

    def find(self, address: int) -> int | None:
        """The number of the map that a pointer is to."""
        index, rest = divmod(address - MAPS_BASE, STRIDE)
        return index if not rest and 0 <= index < len(self.maps) else None

    def value_at(self, address: int, size: int) -> int | None:
        """The number of the map in one value of which an access lies wholly; None where there is none."""
        index, rest = divmod(address - MAPS_BASE, STRIDE)
        if not 0 <= index < len(self.maps) or rest < VALUES or self.maps[index].has_progs:
            return None
        slot, at = divmod(rest - VALUES, self.maps[index].stride)
        return index if slot < self.maps[index].slots and at + size <= self.maps[index].value_size else None

    def lookup(self, index: int, key: bytes) -> int:
        """The address of a value; 0 where there is none."""
        slot = self._slot(index, key)
        return 0 if slot is None else self._at(index, slot)

    def _slot(self, index: int, key: bytes) -> int | None:
        if self.maps[index].type == "array":
            return self._index(key) if self._index(key) < self.maps[index].max_entries else None
        return self._slots[index].get(key)

    def update(self, index: int, key: bytes, value: bytes, flags: int) -> int:
        """0 or -errno, as a signed number. Linux kernel/bpf/arraymap.c and hashtab.c."""
        map_, slot = self.maps[index], self._slot(index, key)
        if flags > _EXIST:
            return -_EINVAL
        if map_.type == "array":
            if slot is None:
                return -_E2BIG
            if flags == _NOEXIST:
                return -_EEXIST
            self.memory.write(self._at(index, slot), value)
            return 0
        if flags == _NOEXIST and slot is not None:
            return -_EEXIST
        if flags == _EXIST and slot is None:
            return -_ENOENT
        if slot is None and len(self._slots[index]) >= map_.max_entries:
            return -_E2BIG
        used = set(self._slots[index].values())
        free = next(number for number in range(map_.slots) if number not in used)
        self._slots[index][key] = free
        self.memory.write(self._at(index, free), value)
        return 0

    def delete(self, index: int, key: bytes) -> int:
        """0 or -errno."""
        if self.maps[index].type == "array":
            return -_EINVAL
        return 0 if self._slots[index].pop(key, None) is not None else -_ENOENT

    def contents(self) -> tuple[Entries, ...]:
        """What each map holds, sorted by key."""
        return tuple(tuple(sorted(self._entries(index))) for index in range(len(self.maps)))

    def _entries(self, index: int) -> list[tuple[bytes, bytes]]:
        map_ = self.maps[index]
        slots = self._slots[index]
        if map_.has_progs:
            return [(key, number.to_bytes(4, "little")) for key, number in slots.items()]
        if map_.type == "array":
            slots = {number.to_bytes(4, "little"): number for number in range(map_.max_entries)}
        raw = self.memory.read(values_of(index), map_.stride * map_.slots)
        return [(key, raw[slot * map_.stride :][: map_.value_size]) for key, slot in slots.items()]

    def call(self, name: str, args: Sequence[int]) -> int | None:
        """A helper's result, unsigned 64 bits; None where the helper has nothing to do with maps, or its map is none."""
        index = self.find(args[0]) if name in MAP_HELPERS else None
        if index is None:
            return None
        map_ = self.maps[index]
        key = self.memory.read(args[1], map_.key_size)
        match name:
            case "bpf_map_lookup_elem":
                return self.lookup(index, key)
            case "bpf_map_update_elem":
                return self.update(index, key, self.memory.read(args[2], map_.value_size), args[3]) & op.MASK64
            case _:
                return self.delete(index, key) & op.MASK64


MAP_HELPERS: Final = ("bpf_map_lookup_elem", "bpf_map_update_elem", "bpf_map_delete_elem")
