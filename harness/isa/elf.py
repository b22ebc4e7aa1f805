"""BPF objects as compilers make them: ELF, relocatable, EM_BPF. A program per function of a program section.

Sections and relocations: Linux Documentation/bpf/llvm_reloc.rst and libbpf's program types.
"""

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from harness.isa import opcodes as op
from harness.isa.btf import EXTERN, MAGIC
from harness.isa.btfread import BtfError, Ext, Line, Types, read_btf, read_btf_ext
from harness.isa.elfmaps import ElfMapError, ElfMaps, externs, read_maps
from harness.isa.insn import INSN_BYTES, LD_IMM64, Insn, Prog, Subprog, insns_from_bytes
from harness.isa.maps import MAX_MAPS, Map
from harness.isa.proto import Proto

MAX_BYTES: Final = 16 << 20
MAX_INSNS: Final = 1_000_000
R_BPF_64_64, R_BPF_64_32 = 1, 10
_CALL: Final = op.JMP_CLASS.code | op.CALL_CODE << 4
_EXECUTABLE: Final = 4  # SHF_EXECINSTR
# What the library meets damaged files with.
_DAMAGE: Final = (
    ELFError, struct.error, UnicodeDecodeError, ValueError, KeyError, AttributeError, IndexError, TypeError, OverflowError,
)  # fmt: skip


class ElfError(ValueError):
    """An object that cannot be used; the message names section, symbol or insn, what was expected and found."""


@dataclass(frozen=True, slots=True)
class ElfProgram:
    """One program: its main function, and those of .text that it reaches. `lines`: the source, by insn."""

    name: str
    section: str
    prog: Prog
    lines: Mapping[int, Line]


@dataclass(frozen=True, slots=True)
class _Function:
    """A function of a section, in insns; `proto` is its BTF."""

    name: str
    section: str
    start: int
    end: int
    proto: Proto | None


@dataclass(frozen=True, slots=True)
class _Call:
    """What a call calls: a place in a section, or the name of a function that is not here."""

    section: str
    insn: int
    extern: str = ""


@dataclass(frozen=True, slots=True)
class _Data:
    """What a relocation says of an LD_IMM64: a place in a section; `name` is for messages."""

    section: str
    offset: int
    name: str


@dataclass(slots=True)
class _Object:
    """The parts of a file."""

    code: dict[str, tuple[Insn, ...]] = field(default_factory=dict)
    functions: dict[str, list[_Function]] = field(default_factory=dict)
    calls: dict[tuple[str, int], _Call] = field(default_factory=dict)
    data: dict[tuple[str, int], _Data] = field(default_factory=dict)
    maps: ElfMaps = field(default_factory=ElfMaps)
    types: Types | None = None
    ext: Ext | None = None

    def function_at(self, section: str, insn: int) -> _Function | None:
        """The function that begins at an insn."""
        return next((f for f in self.functions.get(section, ()) if f.start == insn), None)

    def call_at(self, section: str, index: int) -> _Call | None:
        """What an insn calls, by a relocation or by its distance; None where it calls no function."""
        insn = self.code[section][index]
        if (section, index) in self.calls:
            return self.calls[section, index]
        is_call = insn.opcode == _CALL and insn.src == op.CALL_SUBPROG.src
        return _Call(section, index + 1 + insn.imm) if is_call else None


def load_types(raw: bytes) -> Types:
    """The BTF of any ELF object, or of a section by itself. Raises ElfError, BtfError."""
    if len(raw) > MAX_BYTES:
        raise ElfError(f"expected at most {MAX_BYTES} bytes")
    if raw[:2] == MAGIC.to_bytes(2, "little"):
        return read_btf(raw)
    try:
        section = ELFFile(io.BytesIO(raw)).get_section_by_name(".BTF")
        data = None if section is None else section.data()
    except _DAMAGE as error:
        raise ElfError(f"no ELF object that can be read: {error or type(error).__name__}") from error
    if data is None:
        raise ElfError("expected a section .BTF, found none")
    return read_btf(data)


def load_object(raw: bytes) -> list[ElfProgram]:
    """The programs of an object file. Raises ElfError."""
    if len(raw) > MAX_BYTES:
        raise ElfError(f"expected at most {MAX_BYTES} bytes")
    try:
        return _load(raw)
    except ElfError:
        raise
    except (BtfError, ElfMapError) as error:
        raise ElfError(str(error)) from error
    except _DAMAGE as error:
        raise ElfError(f"no ELF object that can be read: {error or type(error).__name__}") from error


def _load(raw: bytes) -> list[ElfProgram]:
    elf = ELFFile(io.BytesIO(raw))
    if elf["e_machine"] != "EM_BPF" or elf["e_type"] != "ET_REL" or not elf.little_endian:
        raise ElfError(
            f"expected a little-endian relocatable object for EM_BPF, found {elf['e_machine']}, {elf['e_type']}"
        )
    found = _Object()
    sections = list(elf.iter_sections())
    _read_code(found, sections)
    _read_types(found, sections)
    symbols = elf.get_section_by_name(".symtab")
    if symbols is None:
        raise ElfError("expected a section .symtab, found none")
    found.maps = read_maps(sections, symbols, found.types)
    _read_functions(found, sections, symbols)
    _read_relocations(found, sections, symbols)
    programs = [f for section in found.code if section != ".text" for f in found.functions.get(section, ())]
    if not programs:
        raise ElfError('expected a function in a section of its program type (SEC("syscall")), found none')
    return [_Linker(found, main).run() for main in programs]


def _read_code(found: _Object, sections: list[Any]) -> None:
    for section in sections:
        if section["sh_type"] == "SHT_PROGBITS" and section["sh_flags"] & _EXECUTABLE and section["sh_size"]:
            try:
                found.code[section.name] = insns_from_bytes(section.data())
            except ValueError as error:
                raise ElfError(f"section {section.name}: {error}") from error


def _read_types(found: _Object, sections: list[Any]) -> None:
    by_name = {section.name: section for section in sections}
    if ".BTF" in by_name:
        found.types = read_btf(by_name[".BTF"].data())
        if ".BTF.ext" in by_name:
            found.ext = read_btf_ext(by_name[".BTF.ext"].data(), found.types)


def _read_functions(found: _Object, sections: list[Any], symbols: Any) -> None:
    for symbol in symbols.iter_symbols():
        at = symbol["st_shndx"]
        if symbol["st_info"]["type"] != "STT_FUNC" or not isinstance(at, int) or at >= len(sections):
            continue
        section = sections[at].name
        start, size = symbol["st_value"], symbol["st_size"]
        if section not in found.code:
            raise ElfError(f"function {symbol.name}: section {section} is no code")
        if (
            start % INSN_BYTES
            or size % INSN_BYTES
            or not size
            or (start + size) // INSN_BYTES > len(found.code[section])
        ):
            raise ElfError(f"function {symbol.name}: {size} bytes at {start} are no insns of section {section}")
        proto = _proto(found, section, start)
        row = _Function(symbol.name, section, start // INSN_BYTES, (start + size) // INSN_BYTES, proto)
        found.functions.setdefault(section, []).append(row)
    for rows in found.functions.values():
        rows.sort(key=lambda row: row.start)


def _proto(found: _Object, section: str, start: int) -> Proto | None:
    if found.types is None or found.ext is None or (section, start) not in found.ext.functions:
        return None
    return found.types.proto(found.ext.functions[section, start])


def _read_relocations(found: _Object, sections: list[Any], symbols: Any) -> None:
    for table in sections:
        if table["sh_type"] != "SHT_REL" or table["sh_info"] >= len(sections):
            continue
        section = sections[table["sh_info"]].name
        if section not in found.code:
            continue
        for row in table.iter_relocations():
            offset, kind = row["r_offset"], row["r_info_type"]
            where = f"section {section}, byte {offset}"
            index, rest = divmod(offset, INSN_BYTES)
            if rest or index >= len(found.code[section]):
                raise ElfError(f"{where}: a relocation of no insn")
            if row["r_info_sym"] >= symbols.num_symbols():
                raise ElfError(f"{where}: there is no symbol {row['r_info_sym']}")
            _relocation(found, sections, symbols.get_symbol(row["r_info_sym"]), section, index, kind, where)


def _relocation(
    found: _Object, sections: list[Any], symbol: Any, section: str, index: int, kind: int, where: str
) -> None:
    insn = found.code[section][index]
    at = symbol["st_shndx"]
    target = sections[at].name if isinstance(at, int) and at < len(sections) else ""
    if kind == R_BPF_64_32 and insn.opcode == _CALL:
        if at == "SHN_UNDEF":
            found.calls[section, index] = _Call("", 0, symbol.name)
        elif target in found.code:
            found.calls[section, index] = _Call(target, symbol["st_value"] // INSN_BYTES + insn.imm + 1)
        else:
            raise ElfError(f"{where}: a call of {symbol.name or target!r}, which is no code")
    elif kind == R_BPF_64_64 and insn.opcode == LD_IMM64:
        if at == "SHN_UNDEF":
            kind_of = externs(found.types).get(symbol.name, "another object")
            raise ElfError(f"{where}: {symbol.name} is a variable of {kind_of}, which is not supported")
        found.data[section, index] = _Data(target, symbol["st_value"] + insn.imm, symbol.name or target)
    else:
        raise ElfError(f"{where}: relocation {kind} of an insn with opcode {insn.opcode:#x} is not known")


@dataclass(slots=True)
class _Linker:
    """Puts a main function and what it reaches one after the other."""

    found: _Object
    main: _Function
    order: list[_Function] = field(default_factory=list)
    kfuncs: list[Proto] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)

    def run(self) -> ElfProgram:
        """The program. Raises ElfError."""
        self.order.append(self.main)
        for function in self.order:  # it grows meanwhile
            for target in self._targets(function):
                if target not in self.order:
                    self.order.append(target)
        starts, at = dict[tuple[str, int], int](), 0
        for function in self.order:
            starts[function.section, function.start] = at
            at += function.end - function.start
        if at > MAX_INSNS:
            raise ElfError(f"function {self.main.name}: more than {MAX_INSNS} insns")
        insns: list[Insn] = []
        lines: dict[int, Line] = {}
        for function in self.order:
            for index in range(function.start, function.end):
                line = self.found.ext.lines.get((function.section, index * INSN_BYTES)) if self.found.ext else None
                if line is not None:
                    lines[len(insns)] = line
                insns.append(self._linked(function, index, len(insns), starts))
        subprogs = (self._subprog(function, starts) for function in self.order)
        return ElfProgram(
            self.main.name, self.main.section,
            Prog(tuple(insns), tuple(subprogs), tuple(self.kfuncs), tuple(self.maps)), lines,
        )  # fmt: skip

    def _subprog(self, function: _Function, starts: Mapping[tuple[str, int], int]) -> Subprog:
        start = starts[function.section, function.start]
        proto = function.proto
        return Subprog(
            function.name, start, start + function.end - function.start, proto, proto is not None and proto.is_global
        )

    def _targets(self, function: _Function) -> Iterator[_Function]:
        for index in range(function.start, function.end):
            call = self.found.call_at(function.section, index)
            if call is not None and call.extern:
                self._kfunc(call.extern)
            elif call is not None:
                target = self.found.function_at(call.section, call.insn)
                if target is None:
                    where = f"{function.name} insn {index - function.start}"
                    raise ElfError(f"{where}: no function begins at {call.section} insn {call.insn}")
                yield target

    def _kfunc(self, name: str) -> int:
        """The number of an extern function, from 1."""
        known = next((i for i, proto in enumerate(self.kfuncs, 1) if proto.name == name), None)
        if known is not None:
            return known
        types = self.found.types
        number = next((n for n, f in types.functions() if f.name == name and f.vlen == EXTERN), None) if types else None
        if types is None or number is None:
            raise ElfError(f"function {name} is not here, and BTF has no extern of that name")
        self.kfuncs.append(types.proto(number))
        return len(self.kfuncs)

    def _map(self, data: _Data, where: str) -> tuple[int, int]:
        """The number of the map that an insn names, and the offset in its value; -1 is the map itself."""
        try:
            place = self.found.maps.find(data.section, data.offset)
        except ElfMapError as error:
            raise ElfError(f"{where}: {data.name}: {error}") from error
        if place is None:
            kind = "a function" if data.section in self.found.code else f"section {data.section or 'none'}"
            raise ElfError(f"{where}: the address of {data.name} ({kind}) is not supported")
        if place[0] not in self.maps:
            self.maps.append(place[0])
        if len(self.maps) > MAX_MAPS:
            raise ElfError(f"{where}: expected at most {MAX_MAPS} maps in a program")
        return self.maps.index(place[0]), place[1]

    def _linked(self, function: _Function, index: int, here: int, starts: Mapping[tuple[str, int], int]) -> Insn:
        section = function.section
        insn, call = self.found.code[section][index], self.found.call_at(section, index)
        for at in (index, index - 1):  # both slots of an LD_IMM64
            if (data := self.found.data.get((section, at))) is not None:
                number, offset = self._map(data, f"{function.name} insn {at - function.start}")
                if at != index:
                    return Insn(0, imm=max(offset, 0))
                return Insn(insn.opcode, insn.dst, op.MAP_INDEX if offset < 0 else op.MAP_INDEX_VALUE, imm=number)
        if call is not None and call.extern:
            return Insn(insn.opcode, src=op.CALL_KFUNC.src, imm=self._kfunc(call.extern))
        if call is not None:
            return Insn(insn.opcode, src=op.CALL_SUBPROG.src, imm=starts[call.section, call.insn] - here - 1)
        return insn
