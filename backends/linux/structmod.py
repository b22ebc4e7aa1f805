"""Kernel modules of struct_ops types: a struct with one function pointer for each prototype, which a BPF program may fill.

Linux include/linux/bpf.h, struct bpf_struct_ops; kernel/bpf/bpf_struct_ops.c, bpf_struct_ops_desc_init().
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from backends.linux.kmod import Compile, KernelFacts, Module, ModuleError, module_head, module_tail
from backends.linux.models import MODELS
from harness.isa import btf
from harness.isa.ctypes import CFunc, CPtr
from harness.isa.proto import Proto

MEMBER: Final = "member"
DATA_AT: Final = 64  # of the struct in its map's value: a cache line
VALUE_BYTES: Final = DATA_AT + 8
_NEEDED: Final = ("verifier_ops", "init", "init_member", "reg", "unreg", "cfi_stubs", "owner", "name")


def value_name(name: str) -> str:
    """What Linux calls the value of a map of such a struct."""
    return f"bpf_struct_ops_{name}"


def image_name(name: str) -> str:
    """What /proc/kallsyms calls the trampoline of a struct's member."""
    return f"bpf__{name}_{MEMBER}"


def build(compiler: Compile, arch: str, facts: KernelFacts, protos: Mapping[str, Proto], name: str) -> Module:
    """A module of structs with these names; its `ids` are of structs and values. Raises ModuleError, and what the compiler does."""
    if facts.ops_size < 0 or any(member not in facts.ops_members for member in _NEEDED):
        raise ModuleError(f"expected struct bpf_struct_ops with {', '.join(_NEEDED)}, found {dict(facts.ops_members)}")
    types = btf.Btf(facts.btf_types, facts.btf_strings, MODELS[arch])
    ids: dict[str, int] = {}
    for struct_name, proto in protos.items():
        # The stub of a member has a prototype of its own, where the kernel looks for suffixes of parameters.
        types.func(proto, btf.STATIC, _stub(struct_name))
        pointer = types.type_id(CPtr(CFunc(proto.result, proto.params, proto.variadic)))
        row = struct.pack("<III", types.string(MEMBER), pointer, 0)
        ids[struct_name] = types.add(btf.STRUCT, struct_name, 8, row, vlen=1)
        rows = [("common", facts.ops_common, 0), ("data", ids[struct_name], 8 * DATA_AT)]
        members = b"".join(struct.pack("<III", types.string(text), of, at) for text, of, at in rows)
        value = value_name(struct_name)
        ids[value] = types.add(btf.STRUCT, value, VALUE_BYTES, members, vlen=2)
    return Module(name, compiler("\n".join(_lines(arch, facts, protos, types.blob(), name))), ids, {})


def _stub(name: str) -> str:
    return f"{name}_stub"


def _lines(arch: str, facts: KernelFacts, protos: Mapping[str, Proto], types: bytes, name: str) -> Iterator[str]:
    yield from module_head(arch, facts, name, types)
    yield f"static u64 verifier_ops[{facts.ops_verifier_size // 8}];"
    yield "static int nothing(void) { return 0; }"
    at = {member: offset // 8 for member, offset in facts.ops_members.items()}
    for number, one in enumerate(protos):
        stub = _stub(one)
        yield f"KFUNC int {stub}(void);\nKFUNC int {stub}(void) {{ return {number}; }}"
        yield f"static void *stubs_{number}[] = {{ {stub} }};"
        values = {
            "verifier_ops": "verifier_ops", "init": "nothing", "init_member": "nothing", "reg": "nothing", "unreg": "nothing",
            "cfi_stubs": f"stubs_{number}", "owner": "&this_module", "name": f'"{one}"',
        }  # fmt: skip
        fields = ", ".join(f"[{at[member]}] = {value}" for member, value in values.items())
        yield f"static void *ops_{number}[{facts.ops_size // 8}] = {{ {fields} }};"
    yield "int __register_bpf_struct_ops(void *ops);"
    calls = " ".join(f"__register_bpf_struct_ops(ops_{number});" for number in range(len(protos)))
    # A prototype that the kernel does not take costs its own struct only.
    yield f"static int start(void) {{ {calls} return 0; }}"
    yield from module_tail(facts, name)
