"""Modules of struct_ops types: what their BTF and their data tell the kernel."""

import io
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from backends.linux.kmod import ModuleError, facts_from_btf
from backends.linux.structmod import build, image_name, value_name
from backends.linux.tests.test_kmod import FACTS, compiler, read_types, section, vmlinux
from harness.isa import btf
from harness.isa.proto import parse_proto

# struct bpf_struct_ops of Linux 7.2.13, shortened.
MEMBERS = {
    "verifier_ops": 0, "init": 8, "check_member": 16, "init_member": 24, "reg": 32, "unreg": 40, "update": 48,
    "validate": 56, "cfi_stubs": 64, "owner": 72, "name": 80, "func_models": 88,
}  # fmt: skip
OPS = replace(FACTS, ops_size=128, ops_members=MEMBERS, ops_common=55, ops_verifier_size=56)
PROTOS = {"cc_a": parse_proto("u64 f(u64 a, struct {u8 b; u64 c;} d)"), "cc_b": parse_proto("void g(void)")}


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_a_module(arch: str, tmp_path: Path) -> None:
    module = build(compiler(arch, tmp_path), arch, OPS, PROTOS, "callconv_traced1")
    types = read_types(section(module.image, ".BTF"), OPS.btf_types, OPS.btf_strings)
    for name in PROTOS:
        assert types[module.ids[name]] == (btf.STRUCT, name, 1, 8)
        assert types[module.ids[value_name(name)]] == (btf.STRUCT, value_name(name), 2, 72)
        assert (btf.FUNC, f"{name}_stub") in {row[:2] for row in types.values()}
    assert b"__register_bpf_struct_ops" in module.image


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_what_is_where_in_the_data(arch: str, tmp_path: Path) -> None:
    """Pointers are relocations; the names of what they point to are those of the sections or functions."""
    elf = ELFFile(io.BytesIO(build(compiler(arch, tmp_path), arch, OPS, PROTOS, "callconv_traced1").image))
    table = elf.get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    (ops,) = [row for row in table.iter_symbols() if row.name == "ops_1"]
    moves = [
        move["r_offset"] - ops["st_value"]
        for part in elf.iter_sections()
        if isinstance(part, RelocationSection) and part["sh_info"] == ops["st_shndx"]
        for move in part.iter_relocations()
        if 0 <= move["r_offset"] - ops["st_value"] < ops["st_size"]
    ]
    wanted = ("verifier_ops", "init", "init_member", "reg", "unreg", "cfi_stubs", "owner", "name")
    assert sorted(moves) == sorted(MEMBERS[name] for name in wanted)
    assert ops["st_size"] == OPS.ops_size


def test_a_kernel_without_struct_ops() -> None:
    with pytest.raises(ModuleError, match=r"expected struct bpf_struct_ops with verifier_ops, .*, found \{\}"):
        build(lambda source: b"", "arm64", FACTS, PROTOS, "callconv_traced1")


def test_names_that_the_kernel_gives() -> None:
    assert (value_name("cc_a"), image_name("cc_a")) == ("bpf_struct_ops_cc_a", "bpf__cc_a_member")


def test_facts_of_struct_ops() -> None:
    """Behind the types of `vmlinux`, whose last one is the fourteenth."""
    blob = bytearray(vmlinux())
    header, _, type_len, string_at, string_len = struct.unpack_from("<IIIII", blob, 4)
    strings = bytes(blob[header + string_at :])
    names = b"bpf_struct_ops\0bpf_struct_ops_common_value\0bpf_verifier_ops\0reg\0"
    at = [
        string_len + names.index(name) for name in (b"bpf_struct_ops\0", b"bpf_struct_ops_common", b"bpf_ver", b"reg")
    ]
    more = struct.pack("<IIIIII", at[0], btf.STRUCT << 24 | 1, 1816, at[3], 1, 8 * 32)
    more += struct.pack("<III", at[1], btf.STRUCT << 24, 8) + struct.pack("<III", at[2], btf.STRUCT << 24, 56)
    whole = bytes(blob[header : header + type_len]) + more
    head = struct.pack("<HBBIIIII", btf.MAGIC, 1, 0, 24, 0, len(whole), len(whole), len(strings + names))
    facts = facts_from_btf(head + whole + strings + names, "7.2.13")
    assert (facts.ops_size, facts.ops_members, facts.ops_common, facts.ops_verifier_size) == (1816, {"reg": 32}, 16, 56)
