"""The maps of an object: those that its .maps section defines by BTF, and its data sections, which are arrays of one value.

Linux tools/lib/bpf/libbpf.c and bpf_helpers.h say what compilers and programs agree on; nothing of an object is trusted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from harness.isa.btf import ARRAY, DATASEC, PTR, STRUCT, VAR
from harness.isa.btfread import BtfError, Types
from harness.isa.maps import RDONLY_PROG, TYPES, Map, MapError, check

DEFINITIONS: Final = ".maps"
_DATA: Final = (".rodata", ".data", ".bss")
_ALLOCATED: Final = 2  # SHF_ALLOC
_NAMES: Final = {number: name for name, number in TYPES.items()}
_SIZED: Final = ("type", "key_size", "value_size", "max_entries", "map_flags")  # `int (*name)[NUMBER]`
_TYPED: Final = {"key": "key_size", "value": "value_size"}  # `TYPE *name`
_IGNORED: Final = ("pinning", "numa_node")


class ElfMapError(ValueError):
    """A map or data section that cannot be used; the message names it."""


@dataclass(slots=True)
class ElfMaps:
    """What an LD_IMM64 of an object may refer to: data sections by name, maps by where .maps has them."""

    data: dict[str, Map] = field(default_factory=dict)
    defined: dict[int, Map] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)  # why, by section

    def find(self, section: str, offset: int) -> tuple[Map, int] | None:
        """The map that a place in a section belongs to, and the offset in its value; -1 stands for the map itself.

        None where the section holds no data. Raises ElfMapError.
        """
        if section == DEFINITIONS:
            if offset not in self.defined:
                raise ElfMapError(f"no map begins at byte {offset} of section {DEFINITIONS}")
            return self.defined[offset], -1
        if section in self.unusable:
            raise ElfMapError(self.unusable[section])
        if section not in self.data:
            return None
        if not 0 <= offset < self.data[section].value_size:
            raise ElfMapError(f"byte {offset} is outside section {section}, of {self.data[section].value_size} bytes")
        return self.data[section], offset


def read_maps(sections: list[Any], symbols: Any, types: Types | None) -> ElfMaps:
    """Every map of an object. Raises ElfMapError."""
    found = ElfMaps()
    for section in sections:
        name = section.name
        if name == DEFINITIONS:
            if types is None:
                raise ElfMapError(f"section {DEFINITIONS} is of no use without .BTF")
            by_name = dict(_defined(types))
            for symbol in symbols.iter_symbols():
                at = symbol["st_shndx"]
                if symbol.name in by_name and isinstance(at, int) and at < len(sections) and sections[at].name == name:
                    found.defined[symbol["st_value"]] = by_name[symbol.name]
        elif name.startswith(_DATA) and section["sh_flags"] & _ALLOCATED and section["sh_size"]:
            _data(found, section)
    for table in sections:
        if table["sh_type"] == "SHT_REL" and table["sh_info"] < len(sections):
            name = sections[table["sh_info"]].name
            if name in found.data:
                found.unusable[name] = f"section {name} holds addresses, which are not supported in data"
    return found


def _data(found: ElfMaps, section: Any) -> None:
    name, size = section.name, section["sh_size"]
    constant = name.startswith(".rodata")
    try:
        shape = check(Map(name, "array", 4, size, 1, rdonly=constant, frozen=constant))
    except MapError as error:
        raise ElfMapError(f"section {name}: {error}") from error
    raw = bytes(size) if section["sh_type"] == "SHT_NOBITS" else section.data()
    found.data[name] = Map(name, "array", 4, size, 1, shape.rdonly, shape.frozen, ((bytes(4), raw),))


def _defined(types: Types) -> Iterator[tuple[str, Map]]:
    """Each map by its name. Where it lies, BTF does not say before it is linked."""
    for section in types.types:
        if section.kind != DATASEC or section.name != DEFINITIONS:
            continue
        for number in section.variables:
            var = types.at(number)
            if var.kind != VAR:
                raise BtfError(f"section {DEFINITIONS}: type {number} is no variable")
            yield var.name, _map(types, var.name, types.resolved(var.value))


def _map(types: Types, name: str, number: int) -> Map:
    shape = types.at(number) if number else None
    if shape is None or shape.kind != STRUCT:
        raise ElfMapError(f"map {name}: expected a struct that defines it")
    values: dict[str, int] = {}
    for text, kind, _ in shape.members:
        _member(types, name, types.text(text), kind, values)
    type_ = values.get("type", 0)
    if type_ not in _NAMES:
        known = ", ".join(f"{text} ({number})" for number, text in sorted(_NAMES.items()))
        raise ElfMapError(f"map {name}: type {type_} is not known here; known: {known}")
    flags = values.get("map_flags", 0)
    if flags & ~RDONLY_PROG:
        raise ElfMapError(
            f"map {name}: flags {flags:#x} are not known here; known: BPF_F_RDONLY_PROG ({RDONLY_PROG:#x})"
        )
    key, value, entries = (values.get(word, 0) for word in ("key_size", "value_size", "max_entries"))
    try:
        return check(Map(name, _NAMES[type_], key, value, entries, rdonly=bool(flags & RDONLY_PROG)))
    except MapError as error:
        raise ElfMapError(f"map {name}: {error}") from error


def _member(types: Types, name: str, word: str, kind: int, values: dict[str, int]) -> None:
    """One member of a definition: a number as an array's length, or the size of a type."""
    pointer = types.at(types.resolved(kind))
    if word in _IGNORED:
        return
    if pointer.kind != PTR or (word not in _SIZED and word not in _TYPED):
        raise ElfMapError(f"map {name}: member {word!r} is not known here")
    target = types.at(types.resolved(pointer.value))
    if word in _TYPED:
        values[_TYPED[word]] = types.size(pointer.value)
    elif target.kind == ARRAY:
        _, values[word] = target.array
    else:
        raise ElfMapError(f"map {name}: member {word!r} is no `__uint`")


def externs(types: Types | None) -> Mapping[str, str]:
    """Variables that the kernel gives: name to section (.kconfig, .ksyms)."""
    found: dict[str, str] = {}
    for section in types.types if types else ():
        if section.kind == DATASEC and section.name in (".kconfig", ".ksyms"):
            for number in section.variables:
                found[types.at(number).name if types else ""] = section.name
    return found
