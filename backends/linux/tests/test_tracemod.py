"""Modules of functions to be traced: their BTF, and the entries that ftrace patches."""

import io
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from backends.linux.tests.test_kmod import FACTS, compiler, section
from backends.linux.tracemod import build, why_untold
from harness.isa.proto import parse_proto

PROTOS = {
    "cc_traced_0": parse_proto("u64 f(u64 a, struct {u8 b; u64 c;} d)"),
    "cc_traced_1": parse_proto("void g(void)"),
}
# The insns at the entry, and the section in which ftrace finds them.
ENTRIES = {
    "x86_64": (bytes.fromhex("e800000000c3"), "__mcount_loc", 0),
    "arm64": (bytes.fromhex("1f2003d5") * 2 + bytes.fromhex("c0035fd6"), "__patchable_function_entries", 8),
}


@pytest.mark.parametrize("arch", ENTRIES)
def test_a_module(arch: str, tmp_path: Path) -> None:
    module = build(compiler(arch, tmp_path), arch, FACTS, PROTOS, "callconv_traced1")
    assert list(module.ids) == list(PROTOS)
    entry, where, before = ENTRIES[arch]
    elf = ELFFile(io.BytesIO(module.image))
    table = elf.get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    symbols = {row.name: row for row in table.iter_symbols()}
    text = section(module.image, ".text")
    for name in PROTOS:
        row = symbols[name]
        assert (row["st_info"]["type"], row["st_size"]) == ("STT_FUNC", len(entry))
        assert text[row["st_value"] : row["st_value"] + len(entry)] == entry
        assert text[row["st_value"] - before : row["st_value"]] == bytes.fromhex("1f2003d5") * (before // 4)
    moves = elf.get_section_by_name(f".rela{where}")
    assert isinstance(moves, RelocationSection)
    assert sorted(move["r_addend"] for move in moves.iter_relocations()) == sorted(
        symbols[name]["st_value"] - before for name in PROTOS
    )
    assert b"register_btf_fmodret_id_set" in module.image


def test_what_btf_cannot_tell() -> None:
    assert why_untold(PROTOS["cc_traced_0"]) == ""
    assert why_untold(parse_proto("u64 f(u8 a __attribute__((vector_size(16))))")).startswith("BTF has no kind for")
