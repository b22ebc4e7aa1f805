"""Kernel modules of functions that are there to be traced: an entry that ftrace can patch, a prototype in BTF, no body.

A trampoline is made from the prototype that BTF has, so that nobody needs to call the function.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from backends.linux.kmod import Compile, KernelFacts, Module, id_set, module_head, module_tail
from backends.linux.models import MODELS
from harness.isa import btf
from harness.isa.proto import Proto

# What a function begins with, and the section that tells ftrace of it. Linux scripts/recordmcount.c,
# arch/arm64/Makefile (two words before the entry for CONFIG_DYNAMIC_FTRACE_WITH_CALL_OPS), arch/x86/kernel/ftrace.c.
_ENTRY: Final[Mapping[str, str]] = {
    "x86_64": '.balign 16\\n%s:\\n1: call __fentry__\\n ret\\n.pushsection __mcount_loc,\\"a\\",@progbits\\n.quad 1b\\n.popsection',
    "arm64": ".balign 8\\n1: nop\\n nop\\n%s:\\n nop\\n nop\\n ret\\n"
    '.pushsection __patchable_function_entries,\\"aw\\",%%progbits\\n.balign 8\\n.quad 1b\\n.popsection',
}  # fmt: skip


def why_untold(proto: Proto) -> str:
    """Why BTF cannot tell of a prototype; empty where it can."""
    try:
        btf.Btf().func(proto, btf.STATIC)
    except ValueError as error:
        return str(error)
    return ""


def build(compiler: Compile, arch: str, facts: KernelFacts, protos: Mapping[str, Proto], name: str) -> Module:
    """A module of functions with these names and prototypes, all of which BTF can tell. Raises what the compiler does."""
    types = btf.Btf(facts.btf_types, facts.btf_strings, MODELS[arch])
    ids = {traced: types.func(proto, btf.STATIC, traced) for traced, proto in protos.items()}
    source = "\n".join(_lines(arch, facts, ids, types.blob(), name))
    return Module(name, compiler(source), ids, {})


def _lines(arch: str, facts: KernelFacts, ids: Mapping[str, int], types: bytes, name: str) -> Iterator[str]:
    yield from module_head(arch, facts, name, types)
    for traced in ids:
        entry = _ENTRY[arch] % traced
        yield f'__asm__(".text\\n.type {traced}, %function\\n{entry}\\n.size {traced}, . - {traced}");'
    yield from id_set(facts, list(ids.values()))
    # fmod_ret programs are taken only by functions that say so.
    yield "int register_btf_fmodret_id_set(const void *set);"
    yield "static int start(void) { return register_btf_fmodret_id_set(&set); }"
    yield from module_tail(facts, name)
