"""Maps: what a program keeps outside itself, as bpf(2) makes them."""

from dataclasses import dataclass
from typing import Final

TYPES: Final = {"hash": 1, "array": 2, "prog_array": 3}  # Linux include/uapi/linux/bpf.h, enum bpf_map_type
RDONLY_PROG: Final = 1 << 7  # BPF_F_RDONLY_PROG
MAX_BYTES: Final = (1 << 20) - (1 << 12)  # of all values of one map
SLOT_BYTES: Final = 16  # of a prog array: a pointer to the program, and one that a JIT may keep to its code
MAX_TAIL_CALLS: Final = (
    33  # of one run of a program, all its subprogs together. Linux include/linux/bpf.h, MAX_TAIL_CALL_CNT
)
MAX_MAPS: Final = 64  # Linux include/linux/bpf_verifier.h, MAX_USED_MAPS


class MapError(ValueError):
    """A map that no kernel would make, or that is too large for the engines here."""


@dataclass(frozen=True, slots=True)
class Map:
    """One map; sizes in bytes. `rdonly`: programs may not write it; `frozen`: nobody may once it has its `content`.

    `content` is (key, value) before the program runs; an array's other values are 0. A `prog_array`'s values are numbers of
    programs, little endian; its other slots are empty.
    """

    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    rdonly: bool = False
    frozen: bool = False
    content: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def stride(self) -> int:
        """Bytes from one value to the next. Linux kernel/bpf/arraymap.c: elements are rounded up to 8."""
        return (self.value_size + 7) // 8 * 8

    @property
    def slots(self) -> int:
        """Values that have room: a hash needs one more, as an update makes a new element before it drops the old one."""
        return self.max_entries + (self.type == "hash")

    @property
    def is_constant(self) -> bool:
        """Whether a verifier may read its values. Linux kernel/bpf/verifier.c, bpf_map_is_rdonly()."""
        return self.rdonly and self.frozen and self.type == "array"

    @property
    def has_progs(self) -> bool:
        """Whether it is for tail calls."""
        return self.type == "prog_array"

    def value(self, index: int) -> bytes:
        """An array's value before the program runs."""
        wanted = index.to_bytes(4, "little")
        return next((value for key, value in reversed(self.content) if key == wanted), bytes(self.value_size))


def check(map_: Map) -> Map:
    """The map itself. Raises MapError with what is wrong."""
    if map_.type not in TYPES:
        raise MapError(f"type: expected one of {', '.join(TYPES)}, found {map_.type!r}")
    if map_.type in ("array", "prog_array") and map_.key_size != 4:
        raise MapError(f"key: expected 4 bytes, as an array has, found {map_.key_size}")
    if map_.has_progs and (map_.value_size != 4 or map_.rdonly):
        raise MapError("expected values of 4 bytes, and no access of its own, as a prog_array has")
    if not 1 <= map_.key_size <= 512:
        raise MapError(f"key: expected 1 to 512 bytes, found {map_.key_size}")
    if map_.value_size < 1 or map_.max_entries < 1:
        raise MapError("value and entries: expected 1 or more")
    taken = (SLOT_BYTES if map_.has_progs else map_.stride) * map_.slots
    if taken > MAX_BYTES:
        raise MapError(f"expected at most {MAX_BYTES} bytes of values, found {taken}")
    for key, value in map_.content:
        if len(key) != map_.key_size or len(value) != map_.value_size:
            found = f"{len(key)} and {len(value)}"
            raise MapError(
                f"content: expected {map_.key_size} bytes of key and {map_.value_size} of value, found {found}"
            )
        if map_.type in ("array", "prog_array") and int.from_bytes(key, "little") >= map_.max_entries:
            raise MapError(f"content: there is no entry {int.from_bytes(key, 'little')}; there are {map_.max_entries}")
    if len({key for key, _ in map_.content}) != len(map_.content):
        raise MapError("content: a key is there twice")
    if len(map_.content) > map_.max_entries:
        raise MapError(f"content: expected at most {map_.max_entries} entries, found {len(map_.content)}")
    return map_
