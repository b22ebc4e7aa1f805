"""Kernel modules that hold kfuncs, made without kernel headers: one C file, laid out by the running kernel's own BTF.

Linux Documentation/bpf/kfuncs.rst, Documentation/bpf/btf.rst, kernel/module/main.c, include/linux/btf.h.
"""

import hashlib
import io
import json
import re
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from backends.calls import Body
from harness.isa import btf
from harness.isa.ctypes import CArray, CInt, CPtr, CStruct, CType, CVoid, declaration
from harness.isa.slots import SLOT_BYTES, Slot, groups, is_pair, slots_of

Compile = Callable[[str], bytes]  # a C source to an object file, with the flags that `c_flags` gives

PROG_TYPE_SYSCALL: Final = 31  # include/uapi/linux/bpf.h, enum bpf_prog_type
SET8_KFUNCS: Final = 1  # include/linux/btf_ids.h, BTF_SET8_KFUNCS
SESSION_COOKIE: Final = "bpf_session_cookie"  # kernel/trace/bpf_trace.c
MAX_KFUNCS: Final = 256  # of one module; kernel/bpf/btf.c, BTF_KFUNC_SET_MAX_CNT
BTF_HEADER: Final = 24  # include/uapi/linux/btf.h, struct btf_header
MODULE_NAME_BYTES: Final = 56  # include/linux/moduleparam.h, MODULE_NAME_LEN on 64-bit machines, with the final 0
MODULE_ALIGN: Final = 64  # at least a cache line: include/linux/module.h, struct module
VERSION_BYTES: Final = 64  # include/linux/module.h, struct modversion_info on 64-bit machines

# Nothing that the kernel would have to patch, protect or unwind.
_FLAGS: Final = (
    "-c", "-std=gnu11", "-O2", "-ffreestanding", "-fno-pic", "-fno-common", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-fno-unwind-tables",
)  # fmt: skip
_ARCH_FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    # The top 2 GB; interrupts use the memory below SP; nobody saves the vector registers; ENDBR64 where IBT is on.
    "x86_64": ("-m64", "-mcmodel=kernel", "-mno-red-zone", "-mno-mmx", "-mno-sse", "-fcf-protection=branch"),
    "arm64": ("-mgeneral-regs-only", "-mbranch-protection=bti"),
}
# arch/arm64/include/asm/module.lds.h: the kernel puts its far calls there, and refuses a module without them (ENOEXEC).
_ARCH_SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "x86_64": (),
    "arm64": (".plt", ".init.plt", ".text.ftrace_trampoline", ".init.text.ftrace_trampoline"),
}
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*\Z")
_VERMAGIC: Final = re.compile(r"version magic '[^']*' should be '([^']*)'")  # kernel/module/main.c


class ModuleError(Exception):
    """A module cannot be made for a kernel: what was expected, and what was found."""


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """What a module has to know of one kernel; sizes and offsets in bytes, -1 where the kernel has no such member."""

    release: str
    vermagic: str  # empty where it is not known
    btf_types: int  # the first id after vmlinux's
    btf_strings: int  # the length of vmlinux's strings
    module_size: int  # struct module
    name_at: int
    init_at: int
    exit_at: int  # -1: CONFIG_MODULE_UNLOAD is off
    set_size: int  # struct btf_kfunc_id_set
    owner_at: int
    set_at: int
    session_cookie: int  # the BTF id of this kfunc
    ops_size: int  # struct bpf_struct_ops; -1 where the kernel has none
    ops_members: Mapping[str, int]
    ops_common: int  # the BTF id of struct bpf_struct_ops_common_value
    ops_verifier_size: int  # struct bpf_verifier_ops

    def to_json(self) -> str:
        """As an object of its fields."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "KernelFacts":
        """Of what `to_json` gave. Raises ValueError or TypeError where it is anything else."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Kfunc:
    """A function of a module: the name that the kernel knows it by, and what it does."""

    symbol: str
    body: Body


@dataclass(frozen=True, slots=True)
class Module:
    """A loadable module. `ids`: the imm of a call of each symbol; `offsets`: bytes from the start of .text."""

    name: str
    image: bytes
    ids: Mapping[str, int]
    offsets: Mapping[str, int]


def c_flags(arch: str) -> list[str]:
    """What GCC and clang need to be told besides source and output."""
    return [*_FLAGS, *_ARCH_FLAGS[arch]]


def kfunc_symbol(body: Body) -> str:
    """A name that no other function of the kernel has, as the kernel finds kfuncs by name alone."""
    digest = hashlib.blake2s(repr(body).encode(), digest_size=4).hexdigest()
    return f"cc_{body.proto.name}_{digest}"


def kfuncs_of(bodies: Sequence[Body]) -> list[Kfunc]:
    """Each body once, in the order given; the kernel refuses a kfunc that another module has. Raises ModuleError where two that differ would have one name."""
    found: dict[str, Kfunc] = {}
    for body in bodies:
        kfunc = Kfunc(kfunc_symbol(body), body)
        if found.setdefault(kfunc.symbol, kfunc).body != body:
            raise ModuleError(f"expected a name for each kfunc, found {kfunc.symbol} for two of them")
    return list(found.values())


def vermagic_in(log: str) -> str | None:
    """What the kernel's log says that it wants, last, after a module with another vermagic was refused."""
    found = _VERMAGIC.findall(log)
    return found[-1] if found else None


# --- what the kernel's BTF says ---

# Bytes after the 12 of struct btf_type: fixed, and for each of its `vlen` rows. include/uapi/linux/btf.h.
_ROWS: Final[Mapping[int, tuple[int, int]]] = {
    1: (4, 0), 2: (0, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 7: (0, 0), 8: (0, 0), 9: (0, 0), 10: (0, 0),
    11: (0, 0), 12: (0, 0), 13: (0, 8), 14: (4, 0), 15: (0, 12), 16: (0, 0), 17: (4, 0), 18: (0, 0), 19: (0, 12),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Layout:
    """A structure: its size, and the offset of each member with a name."""

    size: int
    members: Mapping[str, int]
    id: int = 0


_STRUCT_OPS: Final = ("bpf_struct_ops", "bpf_struct_ops_common_value", "bpf_verifier_ops")


def facts_from_btf(blob: bytes, release: str, vermagic: str = "") -> KernelFacts:
    """The facts of the kernel whose /sys/kernel/btf/vmlinux this is. Raises ModuleError."""
    if len(blob) < BTF_HEADER or struct.unpack_from("<HB", blob) != (btf.MAGIC, 1):
        raise ModuleError(f"expected BTF version 1, found {blob[:4].hex() or 'nothing'}")
    header, type_at, type_len, string_at, string_len = struct.unpack_from("<IIIII", blob, 4)
    types = blob[header + type_at : header + type_at + type_len]
    strings = blob[header + string_at : header + string_at + string_len]
    wanted = ("module", "btf_kfunc_id_set", "btf_id_set8")
    count, found, cookie = _structs(types, strings, (*wanted, *_STRUCT_OPS))
    module, kfunc_set, id_set = (found.get(name, _Layout(0, {})) for name in wanted)
    for name, layout, members in (
        ("module", module, ("name", "init")),
        ("btf_kfunc_id_set", kfunc_set, ("owner", "set")),
        ("btf_id_set8", id_set, ("cnt", "flags", "pairs")),
    ):
        if any(member not in layout.members for member in members):
            raise ModuleError(
                f"expected struct {name} with {', '.join(members)}, found {list(layout.members) or 'none'}"
            )
    if (id_set.members["cnt"], id_set.members["flags"], id_set.members["pairs"]) != (0, 4, 8):
        raise ModuleError(f"expected struct btf_id_set8 of cnt, flags, pairs at 0, 4, 8, found {dict(id_set.members)}")
    ops, common, verifier = (found.get(name, _Layout(-1, {})) for name in _STRUCT_OPS)
    return KernelFacts(
        release=release, vermagic=vermagic, btf_types=count + 1, btf_strings=string_len,
        module_size=module.size, name_at=module.members["name"], init_at=module.members["init"],
        exit_at=module.members.get("exit", -1),
        set_size=kfunc_set.size, owner_at=kfunc_set.members["owner"], set_at=kfunc_set.members["set"],
        session_cookie=cookie, ops_size=ops.size, ops_members=ops.members,
        ops_common=common.id, ops_verifier_size=verifier.size,
    )  # fmt: skip


def _structs(types: bytes, strings: bytes, wanted: Sequence[str]) -> tuple[int, dict[str, _Layout], int]:
    """How many types there are, the first structure of each name, and the id of the kfunc SESSION_COOKIE or -1."""
    cookie, cookie_name = -1, strings.find(b"\0%s\0" % SESSION_COOKIE.encode()) + 1
    names = {strings.find(b"\0%s\0" % name.encode()) + 1: name for name in wanted}
    names.pop(0, None)
    rows = [_ROWS.get(kind) for kind in range(32)]
    found: dict[str, _Layout] = {}
    unpack = struct.Struct("<II").unpack_from
    at = count = 0
    # Some hundred thousand types, of differing lengths: one look at each.
    while at < len(types):
        name, info = unpack(types, at)
        row = rows[info >> 24 & 31]
        if row is None:
            raise ModuleError(f"expected a kind of BTF type up to {max(_ROWS)}, found {info >> 24 & 31}")
        if name in names and info >> 24 & 31 == btf.STRUCT:
            found.setdefault(names[name], replace(_layout(types, strings, at, info), id=count + 1))
        elif name == cookie_name and name and info >> 24 & 31 == btf.FUNC:
            cookie = count + 1
        at += 12 + row[0] + row[1] * (info & 0xFFFF)
        count += 1
    return count, found, cookie


def _layout(types: bytes, strings: bytes, at: int, info: int) -> _Layout:
    size = struct.unpack_from("<I", types, at + 8)[0]
    members = {}
    for name, _, bits in struct.iter_unpack("<III", types[at + 12 : at + 12 + 12 * (info & 0xFFFF)]):
        text = strings[name : strings.index(b"\0", name)].decode()
        members[text] = (bits & 0xFFFFFF if info >> 31 else bits) // 8
    return _Layout(size, members)


# --- the module's own BTF ---


def module_btf(facts: KernelFacts, kfuncs: Sequence[Kfunc]) -> tuple[bytes, dict[str, int]]:
    """Split BTF on top of vmlinux's, and the id of each kfunc, which rise."""
    types = btf.Btf(facts.btf_types, facts.btf_strings)
    ids = {}
    for kfunc in kfuncs:
        ids[kfunc.symbol] = types.func(kfunc.body.proto, btf.STATIC, kfunc.symbol)
        types.decl_tag("bpf_kfunc", ids[kfunc.symbol])
    return types.blob(), ids


# --- the C file ---


class _Member(NamedTuple):
    """A member of a C struct: offset and size in bytes, name, declaration with %s for the name, value."""

    at: int
    size: int
    name: str
    text: str
    value: str


_HEAD: Final = """\
typedef unsigned char u8;
typedef signed char s8;
typedef unsigned short u16;
typedef short s16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;
#ifdef __clang__
#define KFUNC __attribute__((noinline, used))
#else
#define KFUNC __attribute__((noipa, used)) /* equal functions stay apart */
#endif
#define IN(name) __attribute__((section(name), used))
#define UNUSED __attribute__((unused))
#define COPY(to, from) __builtin_memcpy(to, &from, sizeof(from)) /* no call: the size is known */
"""


def c_source(arch: str, facts: KernelFacts, kfuncs: Sequence[Kfunc], name: str) -> str:
    """The whole module as C."""
    return "\n".join(_lines(arch, facts, kfuncs, name))


def _lines(arch: str, facts: KernelFacts, kfuncs: Sequence[Kfunc], name: str) -> Iterator[str]:
    types, ids = module_btf(facts, kfuncs)
    yield from module_head(arch, facts, name, types)
    for kfunc in kfuncs:
        yield from _function(kfunc)
    yield from id_set(facts, [ids[kfunc.symbol] for kfunc in kfuncs])
    yield "int register_btf_kfunc_id_set(int prog_type, const void *set);"
    yield f"static int start(void) {{ return register_btf_kfunc_id_set({PROG_TYPE_SYSCALL}, &set); }}"
    yield from module_tail(facts, name)


def module_head(arch: str, facts: KernelFacts, name: str, types: bytes) -> Iterator[str]:
    """What every module begins with; `types` is its BTF."""
    info = ["license=GPL", f"name={name}", *([f"vermagic={facts.vermagic}"] if facts.vermagic else [])]
    yield _HEAD
    yield _bytes("modinfo", ".modinfo", "".join(f"{line}\0" for line in info).encode())
    yield _bytes("btf", ".BTF", types)
    # With a list of versions that names none of our imports, a kernel that checks them has nothing to compare.
    yield _bytes("versions", "__versions", bytes(VERSION_BYTES))
    for section in _ARCH_SECTIONS[arch]:
        yield f'__asm__(".pushsection {section}, \\"ax\\", %progbits\\n.byte 0\\n.popsection");'
    yield "struct module;\nextern struct module this_module;"


def id_set(facts: KernelFacts, ids: Sequence[int]) -> Iterator[str]:
    """`set`, a struct btf_kfunc_id_set of BTF ids, which rise."""
    pairs = ", ".join(f"{{{number}, 0}}" for number in ids)
    yield f"static struct {{ u32 cnt, flags; struct {{ u32 id, flags; }} pairs[{len(ids)}]; }} ids = {{"
    yield f"\t{len(ids)}, {SET8_KFUNCS}, {{{pairs}}}}};"
    owner = _Member(facts.owner_at, 8, "owner", "struct module *%s", "&this_module")
    yield from _record("kfunc_set", facts.set_size, [owner, _Member(facts.set_at, 8, "set", "void *%s", "&ids")])
    yield "static struct kfunc_set set = KFUNC_SET;"


def module_tail(facts: KernelFacts, name: str) -> Iterator[str]:
    """`this_module`, which begins with `start`."""
    yield "static void UNUSED stop(void) {}"
    members = [
        _Member(facts.name_at, MODULE_NAME_BYTES, "name", f"char %s[{MODULE_NAME_BYTES}]", f'"{name}"'),
        _Member(facts.init_at, 8, "init", "int (*%s)(void)", "start"),
    ]
    if facts.exit_at >= 0:
        members.append(_Member(facts.exit_at, 8, "exit", "void (*%s)(void)", "stop"))
    yield from _record("module", facts.module_size, members)
    yield 'struct module this_module IN(".gnu.linkonce.this_module") = MODULE;\n'


def _bytes(name: str, section: str, data: bytes) -> str:
    return f'static const u8 {name}[{len(data)}] IN("{section}") = {{{",".join(map(str, data))}}};'


def _record(name: str, size: int, members: Iterable[_Member]) -> Iterator[str]:
    """A struct of `size` bytes with holes between the members that are given, and a macro of its value."""
    fields, at = [], 0
    members = sorted(members)
    for member in members:
        if member.at > at:
            fields.append(f"u8 hole{at}[{member.at - at}];")
        fields.append(f"{member.text % member.name};")
        at = member.at + member.size
    if size > at:
        fields.append(f"u8 hole{at}[{size - at}];")
    values = ", ".join(f".{member.name} = {member.value}" for member in members)
    align = MODULE_ALIGN if size % MODULE_ALIGN == 0 else 8
    yield f"struct {name} {{ {' '.join(fields)} }} __attribute__((packed, aligned({align})));"
    yield f'_Static_assert(sizeof(struct {name}) == {size}, "of another size than in the kernel");'
    yield f"#define {name.upper()} {{ {values} }}"


def _function(kfunc: Kfunc) -> Iterator[str]:
    """A kfunc in C, whose parameters have names of ours.

    Integers come as 64 bits and are cut in the body, because what is above a narrow one is anybody's, while clang relies
    on the caller to have extended it. A register or a slot holds one either way. The result has all 64 bits, too, or a
    pair's 128. Structs and __int128 come by their own types, as their places hang on them.
    """
    params = kfunc.body.proto.params
    names = {at: f"{kfunc.symbol}_t{at}" for at, param in enumerate(params) if _is_copied(param.type)}
    yield from (f"typedef {declaration(_named(params[at].type), name)};" for at, name in names.items())
    args = ", ".join(f"{names.get(at, 'u64')} p{at} UNUSED" for at in range(len(params)))
    pair, value = is_pair(kfunc.body.proto.result), _result(kfunc.body)
    head = f"KFUNC {'unsigned __int128' if pair else 'u64'} {kfunc.symbol}({args or 'void'})"
    copied = [at for at, param in enumerate(params) if _is_copied(param.type) and f"c{at}[" in value]
    copies = "".join(f"u64 c{at}[(sizeof(p{at}) + 7) / 8] = {{0}}; COPY(c{at}, p{at}); " for at in copied)
    yield f"{head};"
    yield f"{head} {{ {copies}return {value}; }}"


def _is_copied(ctype: CType) -> bool:
    return isinstance(ctype, CStruct) or (isinstance(ctype, CInt) and ctype.size > SLOT_BYTES)


def _named(ctype: CType) -> CType:
    """By names that the file knows: no tags, which two kfuncs may use for two things."""
    match ctype:
        case CStruct(members=tuple() as members):
            inner = tuple(replace(member, type=_named(member.type)) for member in members)
            return replace(ctype, name="", members=inner)
        case CArray(of, count):
            return CArray(_named(of), count)
        case CInt(_, size, signed) if size <= SLOT_BYTES:
            return CInt(f"{'s' if signed else 'u'}{size * 8}", size, signed)
        case CPtr():
            return CPtr(CVoid())
        case _:
            return ctype


def _values(at: int, slots: Sequence[Slot], ctype: CType) -> list[str]:
    """The slots of a parameter as their types see them, extended to 64 bits."""
    if _is_copied(ctype):
        return [f"c{at}[{slot.half}]" for slot in slots]
    return [_value(at, ctype)]


def _value(at: int, ctype: CType) -> str:
    return f"(u64)({'s' if ctype.signed else 'u'}{ctype.size * 8})p{at}" if isinstance(ctype, CInt) else f"p{at}"


def _result(body: Body) -> str:
    pair = is_pair(body.proto.result)
    if isinstance(body.returns, int):
        low, high = (f"{body.returns >> bits & (1 << 64) - 1:#x}ull" for bits in (0, 64))
        return f"(unsigned __int128){high} << 64 | {low}" if pair else low
    params, rows = body.proto.params, groups(body.proto, slots_of(body.proto))
    values = {
        param.name: _values(at, slots, param.type) for at, (param, slots) in enumerate(zip(params, rows, strict=True))
    }
    # A parameter may be called `sum`: the sum has priority, as in backends.calls.
    if body.returns == "sum":
        return " + ".join(text for texts in values.values() for text in texts) or "0"
    low, *rest = values[body.returns]
    return f"(unsigned __int128){rest[0]} << 64 | {low}" if rest and pair else low


# --- the module ---


def build(compiler: Compile, arch: str, facts: KernelFacts, bodies: Sequence[Body], name: str) -> Module:
    """A module of the kfuncs that the bodies describe. Raises ModuleError, and whatever the compiler does."""
    if not _NAME.match(name) or len(name) >= MODULE_NAME_BYTES:
        raise ModuleError(f"expected a module's name of a-z, 0-9, _, shorter than {MODULE_NAME_BYTES}, found {name!r}")
    kfuncs = kfuncs_of(bodies)
    if not 1 <= len(kfuncs) <= MAX_KFUNCS:
        raise ModuleError(f"expected 1 to {MAX_KFUNCS} kfuncs in a module, found {len(kfuncs)}")
    image = compiler(c_source(arch, facts, kfuncs, name))
    _, ids = module_btf(facts, kfuncs)
    return Module(name, image, ids, text_offsets(image, ids))


def text_offsets(image: bytes, symbols: Collection[str]) -> dict[str, int]:
    """Where functions are in .text of an object file. Raises ModuleError where one is not there."""
    try:
        elf = ELFFile(io.BytesIO(image))
        table, text = elf.get_section_by_name(".symtab"), elf.get_section_index(".text")
        rows = table.iter_symbols() if isinstance(table, SymbolTableSection) else ()
        found = {row.name: row["st_value"] for row in rows if text is not None and row["st_shndx"] == text}
    except ELFError as error:
        raise ModuleError(f"expected an ELF object from the compiler, found none: {error}") from error
    if missing := [symbol for symbol in symbols if symbol not in found]:
        raise ModuleError(f"expected {missing[0]} in .text, found {sorted(found)[:5]}")
    return {symbol: found[symbol] for symbol in symbols}
