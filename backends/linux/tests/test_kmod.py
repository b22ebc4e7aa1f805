"""Modules of kfuncs, without a kernel: their BTF, their C, their object files."""

import io
import re
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from backends.calls import Body
from backends.linux import kmod
from backends.linux.kmod import KernelFacts, ModuleError, build, c_flags, facts_from_btf, kfunc_symbol
from harness.isa import btf
from harness.isa.ctypes import CInt
from harness.isa.proto import parse_proto

FACTS = KernelFacts(
    release="7.2.13", vermagic="7.2.13 SMP preempt mod_unload ", btf_types=118488, btf_strings=2171884,
    module_size=1280, name_at=24, init_at=304, exit_at=1216, set_size=24, owner_at=0, set_at=8, session_cookie=77,
    ops_size=-1, ops_members={}, ops_common=0, ops_verifier_size=-1,
)  # fmt: skip
TWELVE = ", ".join(f"u64 a{n}" for n in range(12))
ROWS: list[tuple[str, int | str]] = [
    ("u64 one(u64 a)", "a"),
    ("u64 one(u64 a)", 0x1122_3344_5566_7788),
    ("u64 one(u64 b)", "b"),
    ("u64 none(void)", "sum"),
    ("u64 narrow(u8 a, s8 b, u16 c, s16 d, u32 e, s32 f, bool g, s64 h, char i)", "sum"),
    ("void nothing(s32 a)", -3),
    (f"u64 twelve({TWELVE})", "a11"),
    (f"u64 thirteen({TWELVE}, u64 m)", "sum"),
    ("u64 pointers(void *p, struct pair *q, u64 *r, u8 s)", "s"),
    ("u64 structs(u64 a, u64 b, u64 c, u64 d, struct pair {u64 a, b;} p, u64 e)", "sum"),
    ("u64 others(struct pair {u8 c[3];} p, union {u64 a; u32 b;} q, struct {struct pair p; void *q;} r)", "sum"),
    ("u64 wide(u64 a, __int128 b, struct {u32 a[3];} c)", "sum"),
    ("__int128 back(u64 a, __int128 b)", "b"),
    ("struct two {u64 a, b;} constant(struct two t)", -2),
    ("u64 large(struct {u64 a, b, c;} t)", "t"),
    ("u64 named(u64 int_, u64 u64_t, u64 sum)", "sum"),
    ("u64 ctx(struct c *p __arg_ctx)", 1),
]
BODIES = [Body(parse_proto(text), returns) for text, returns in ROWS]
COMPILERS = {"x86_64": "x86_64-linux-gnu-gcc", "arm64": "aarch64-linux-gnu-gcc"}
WARNINGS = ("-Wall", "-Wextra", "-Werror")


def compiler(arch: str, folder: Path) -> kmod.Compile:
    path = shutil.which(COMPILERS[arch])
    if path is None:
        pytest.skip(f"no {COMPILERS[arch]} on PATH")

    def run(source: str) -> bytes:
        out = folder / "out.o"
        argv = [path, *c_flags(arch), *WARNINGS, "-x", "c", "-", "-o", str(out)]
        subprocess.run(argv, input=source.encode(), check=True)
        return out.read_bytes()

    return run


def section(image: bytes, name: str) -> bytes:
    found = ELFFile(io.BytesIO(image)).get_section_by_name(name)
    assert found is not None
    return bytes(found.data())


def vmlinux(*, pairs_at: int = 8, without: str = "") -> bytes:
    """BTF with the three structures at odd places, among types of many kinds."""
    types = btf.Btf()
    u32 = types.type_id(CInt("u32", 4, False))
    for kind, rest, vlen in ((3, 12, 0), (6, 24, 3), (13, 8, 1), (15, 12, 1), (17, 4, 0), (19, 12, 1), (7, 0, 0)):
        types.add(kind, "", 0, bytes(rest), vlen)

    def struct_of(name: str, size: int, members: dict[str, int]) -> None:
        members = {member: at for member, at in members.items() if member != without}
        rows = [struct.pack("<III", types.string(member), u32, at * 8) for member, at in members.items()]
        types.add(btf.STRUCT, name, size, b"".join(rows), len(rows))

    struct_of("module", 1280, {"state": 0, "name": 24, "init": 304, "exit": 1216})
    struct_of("btf_id_set8", 8, {"cnt": 0, "flags": 4, "pairs": pairs_at})
    struct_of("btf_kfunc_id_set", 24, {"owner": 0, "set": 8, "filter": 16})
    types.add(btf.PTR, "", u32)
    types.add(btf.FUNC, "bpf_session_cookies", 5)
    types.add(btf.FUNC, "bpf_session_cookie", 5)
    return types.blob()


def strings_len(blob: bytes) -> int:
    return int(struct.unpack_from("<I", blob, 20)[0])


def test_facts_are_read_from_btf() -> None:
    blob = vmlinux()
    facts = facts_from_btf(blob, "7.2.13", FACTS.vermagic)
    assert facts == replace(FACTS, btf_types=1 + 14, btf_strings=strings_len(blob), session_cookie=14)
    # void; INT, seven, three, PTR, two FUNC
    assert KernelFacts.from_json(facts.to_json()) == facts


def test_a_kernel_that_cannot_unload() -> None:
    assert facts_from_btf(vmlinux(without="exit"), "").exit_at == -1


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "expected BTF version 1, found nothing"),
        (b"\x7fELF" + bytes(30), "expected BTF version 1, found 7f454c46"),
        (vmlinux(without="init"), "expected struct module with name, init, found ['state', 'name', 'exit']"),
        (vmlinux(pairs_at=16), "expected struct btf_id_set8 of cnt, flags, pairs at 0, 4, 8"),
        (btf.Btf().blob(), "expected struct module with name, init, found none"),
    ],
)
def test_btf_that_does_not_do(blob: bytes, message: str) -> None:
    with pytest.raises(ModuleError, match=re.escape(message)):
        facts_from_btf(blob, "")


def test_an_unknown_kind_is_refused() -> None:
    types = btf.Btf()
    types.add(31, "", 0)
    with pytest.raises(ModuleError, match="up to 19, found 31"):
        facts_from_btf(types.blob(), "")


def test_a_name_for_each_body() -> None:
    symbols = [kfunc_symbol(body) for body in BODIES]
    assert len(set(symbols)) == len(BODIES)
    assert all(re.fullmatch(rf"cc_{body.proto.name}_[0-9a-f]{{8}}", kfunc_symbol(body)) for body in BODIES)
    assert [kfunc.symbol for kfunc in kmod.kfuncs_of(BODIES + BODIES[:2])] == symbols


def test_two_bodies_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmod, "kfunc_symbol", lambda body: "cc_one_00000000")
    with pytest.raises(ModuleError, match="cc_one_00000000 for two"):
        kmod.kfuncs_of(BODIES[:2])


def read_types(blob: bytes, first: int, first_string: int) -> dict[int, tuple[int, str, int, int]]:
    """Id to kind, name, vlen, and size or type."""
    header, _, type_len, string_at, string_len = struct.unpack_from("<IIIII", blob, 4)
    assert len(blob) == header + string_at + string_len
    strings, at = blob[header + string_at :], header
    found: dict[int, tuple[int, str, int, int]] = {}
    while at < header + type_len:
        name, info, size = struct.unpack_from("<III", blob, at)
        own = name - first_string
        text = strings[own : strings.index(b"\0", own)].decode() if name else ""
        kind, vlen = info >> 24 & 31, info & 0xFFFF
        found[first + len(found)] = (kind, text, vlen, size)
        at += 12 + {1: 4, 3: 12, 4: 12 * vlen, 5: 12 * vlen, 13: 8 * vlen, 17: 4}.get(kind, 0)
    return found


def test_btf_of_the_module() -> None:
    kfuncs = kmod.kfuncs_of(BODIES)
    blob, ids = kmod.module_btf(FACTS, kfuncs)
    types = read_types(blob, FACTS.btf_types, FACTS.btf_strings)
    assert list(ids.values()) == sorted(ids.values())  # the kernel searches the set by halves
    for kfunc in kfuncs:
        kind, name, linkage, proto = types[ids[kfunc.symbol]]
        assert (kind, name, linkage) == (btf.FUNC, kfunc.symbol, btf.STATIC)
        assert types[proto][0] == btf.FUNC_PROTO
        assert types[proto][2] == len(kfunc.body.proto.params)
        tags = [row for row in types.values() if row[:2] == (btf.DECL_TAG, "bpf_kfunc") and row[3] == ids[kfunc.symbol]]
        assert len(tags) == 1


@pytest.mark.parametrize("arch", COMPILERS)
def test_the_object_is_a_module(arch: str, tmp_path: Path) -> None:
    module = build(compiler(arch, tmp_path), arch, FACTS, BODIES, "kf_test")
    elf = ELFFile(io.BytesIO(module.image))
    data = {row.name: row.data() for row in elf.iter_sections() if row["sh_type"] != "SHT_NULL"}
    assert module.name == "kf_test"
    assert len(data[".gnu.linkonce.this_module"]) == 1280
    assert data[".gnu.linkonce.this_module"][24:80].rstrip(b"\0") == b"kf_test"
    assert data[".modinfo"] == b"license=GPL\0name=kf_test\0vermagic=7.2.13 SMP preempt mod_unload \0"
    assert data[".BTF"] == kmod.module_btf(FACTS, kmod.kfuncs_of(BODIES))[0]
    assert len(data["__versions"]) == 64
    assert arch != "arm64" or {".plt", ".init.plt", ".text.ftrace_trampoline"} <= set(data)
    assert not [name for name in data if "eh_frame" in name]
    relocated = elf.get_section_by_name(".rela.gnu.linkonce.this_module")
    assert isinstance(relocated, RelocationSection)
    assert [row["r_offset"] for row in relocated.iter_relocations()] == [304, 1216]
    ids = struct.pack("<II", len(BODIES), kmod.SET8_KFUNCS) + b"".join(
        struct.pack("<II", number, 0) for number in module.ids.values()
    )
    assert ids in data[".data"]
    symbols = elf.get_section_by_name(".symtab")
    assert isinstance(symbols, SymbolTableSection)
    imported = [row.name for row in symbols.iter_symbols() if row["st_shndx"] == "SHN_UNDEF"]
    assert [name for name in imported if name] == ["register_btf_kfunc_id_set"]
    assert set(module.ids) == set(module.offsets) == {kfunc_symbol(body) for body in BODIES}
    assert len(set(module.offsets.values())) == len(BODIES)  # equal functions stay apart
    assert all(0 <= offset < len(data[".text"]) for offset in module.offsets.values())


def test_an_indirect_call_lands_on_endbr64(tmp_path: Path) -> None:
    module = build(compiler("x86_64", tmp_path), "x86_64", FACTS, BODIES, "kf_test")
    text = section(module.image, ".text")
    assert all(text[offset : offset + 4] == b"\xf3\x0f\x1e\xfa" for offset in module.offsets.values())


@pytest.mark.parametrize("arch", COMPILERS)
def test_a_kernel_without_unloading_and_with_another_layout(arch: str, tmp_path: Path) -> None:
    facts = replace(FACTS, vermagic="", exit_at=-1, module_size=1000, set_size=40, owner_at=16, set_at=24, name_at=0)
    module = build(compiler(arch, tmp_path), arch, facts, BODIES[:1], "kf_test")
    assert len(section(module.image, ".gnu.linkonce.this_module")) == 1000
    assert section(module.image, ".modinfo") == b"license=GPL\0name=kf_test\0"


def test_what_a_function_computes() -> None:
    def line(text: str, returns: int | str) -> str:
        lines = list(kmod._function(kmod.Kfunc("f", Body(parse_proto(text), returns))))
        return re.sub(r".*return (.*); \}", r"\1", lines[-1])

    assert line("u64 f(u8 a, s8 b, bool c, s32 d, long e)", "sum") == (
        "(u64)(u8)p0 + (u64)(s8)p1 + (u64)(u8)p2 + (u64)(s32)p3 + (u64)(s64)p4"
    )
    assert line("u64 f(u8 a, s16 b)", "b") == "(u64)(s16)p1"
    assert line("u64 f(void)", "sum") == "0"
    assert line("u64 f(u64 a)", -2) == "0xfffffffffffffffeull"
    assert line("u64 f(struct x *p)", "p") == "p0"
    assert line("u64 f(s8 a, __int128 b)", "sum") == "(u64)(s8)p0 + c1[0] + c1[1]"
    assert line("u64 f(struct {u32 a, b;} p)", "p") == "c0[0]"
    assert line("__int128 f(u8 a, struct {u64 a, b;} p)", "p") == "(unsigned __int128)c1[1] << 64 | c1[0]"
    assert line("__int128 f(u8 a)", -2) == "(unsigned __int128)0xffffffffffffffffull << 64 | 0xfffffffffffffffeull"


@pytest.mark.parametrize("name", ["", "9", "A", "a-b", 'a"', "a" * 56])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ModuleError, match="expected a module's name"):
        build(lambda source: b"", "x86_64", FACTS, BODIES, name)


def test_how_many_kfuncs_a_module_holds() -> None:
    many = [Body(parse_proto(f"u64 f{n}(u64 a)"), "a") for n in range(257)]
    for bodies in ([], many):
        with pytest.raises(ModuleError, match=f"expected 1 to 256 kfuncs in a module, found {len(bodies)}"):
            build(lambda source: b"", "x86_64", FACTS, bodies, "kf")


def test_a_compiler_that_makes_something_else(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match="expected an ELF object"):
        build(lambda source: b"no object", "x86_64", FACTS, BODIES, "kf")
    run = compiler("x86_64", tmp_path)
    with pytest.raises(ModuleError, match=rf"expected {kfunc_symbol(BODIES[0])} in \.text, found \['other'\]"):
        build(lambda source: run("int other(void); int other(void) { return 1; }"), "x86_64", FACTS, BODIES, "kf")


def test_the_kernel_names_its_vermagic() -> None:
    log = "<6>[ 1.0] x\n<3>[    2.2] m3: version magic '?' should be '7.2.13 SMP preempt mod_unload '\n<4> y\n"
    assert kmod.vermagic_in(log) == "7.2.13 SMP preempt mod_unload "
    assert kmod.vermagic_in("nothing of it") is None
