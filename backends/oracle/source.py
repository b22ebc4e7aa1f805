"""C for generated prototypes: a callee that stores what it was given, a caller that passes given bytes, and what C says of the types."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from backends.oracle.generate import PRELUDE, Generated
from harness.isa.ctypes import IMAGINARY, CStruct, CType, DataModel, Leaf, align_of, bare, leaves, size_of

# Where compiled code finds and leaves values; one place for each argument, and one for the result.
VALUES: Final = 0x2000_0000
PLACE: Final = 0x100
RESULT: Final = VALUES + 0x3000
SEEN: Final = VALUES + 0x4000  # what code stores; the result comes last, as in VALUES
SEEN_RESULT: Final = SEEN + (RESULT - VALUES)

# Compilers copy large objects by a call; these stand in for the C library's. What they copy here does not overlap.
_LIBRARY: Final = {
    "x86_64": """\
__asm__(".globl memcpy, memmove\\nmemcpy: memmove: mov %rdi, %rax\\nmov %rdx, %rcx\\nrep movsb\\nret\\n");
__asm__(".globl memset\\nmemset: mov %rdi, %r9\\nmov %esi, %eax\\nmov %rdx, %rcx\\nrep stosb\\nmov %r9, %rax\\nret\\n");
""",
    "arm64": """\
__asm__(".globl memcpy, memmove\\nmemcpy: memmove: mov x3, x0\\n1: cbz x2, 2f\\nldrb w4, [x1], #1\\nstrb w4, [x3], #1\\nsub x2, x2, #1\\nb 1b\\n2: ret\\n");
__asm__(".globl memset\\nmemset: mov x3, x0\\n1: cbz x2, 2f\\nstrb w1, [x3], #1\\nsub x2, x2, #1\\nb 1b\\n2: ret\\n");
""",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One number that the compiler gives: C for it, and what it is of."""

    text: str
    expression: str
    value: int  # ours


def source(arch: str, model: DataModel, prototypes: Sequence[Generated]) -> str:
    """A whole file."""
    return "".join([PRELUDE, _LIBRARY[arch], *(text for made in prototypes for text in _functions(made, model))])


def types_of(made: Generated) -> list[tuple[str, CType]]:
    """Every type of an argument or result, by its C name, once."""
    proto = made.proto
    names = (*made.params, *made.anonymous, made.result)
    ctypes = (*(param.type for param in (*proto.params, *proto.anonymous)), proto.result)
    return [(name, ctype) for name, ctype in dict(zip(names, ctypes, strict=True)).items() if name != "void"]


def facts(made: Generated, model: DataModel) -> list[Fact]:
    """Sizes, alignments and offsets, ours beside the C expressions for them."""
    found: list[Fact] = []
    for name, ctype in types_of(made):
        found.append(Fact(f"sizeof({name})", f"sizeof({name})", size_of(ctype, model)))
        found.append(Fact(f"_Alignof({name})", f"_Alignof({name})", align_of(ctype, model)))
        if isinstance(bare(ctype), CStruct):
            offsets = [leaf for leaf in leaves(ctype, model) if not leaf.is_bits and not leaf.path.endswith(IMAGINARY)]
            found += [
                Fact(f"{name}{leaf.path}", f"__builtin_offsetof({name}, {leaf.path[1:]})", leaf.at_bit // 8)
                for leaf in offsets
            ]
    return found


def masks(made: Generated, model: DataModel) -> list[tuple[str, str, Leaf]]:
    """The bit-fields: a name for an object in which it alone has ones, the type, and our place of it."""
    rows = [(name, leaf) for name, ctype in types_of(made) for leaf in leaves(ctype, model) if leaf.is_bits]
    return [(f"mask{number}_{made.seed}", name, leaf) for number, (name, leaf) in enumerate(rows)]


def pairs(arch: str, prototypes: Sequence[Generated]) -> str:
    """A whole file of callers and callees alone."""
    texts = (text for made in prototypes for text in (made.declarations, _callee(made), _caller(made)))
    return "".join([PRELUDE, _LIBRARY[arch], *texts])


def _functions(made: Generated, model: DataModel) -> Iterator[str]:
    yield made.declarations
    numbers = ", ".join(fact.expression for fact in facts(made, model))
    if numbers:
        yield f"const unsigned long facts{made.seed}[] = {{{numbers}}};\n"
    for name, ctype, leaf in masks(made, model):
        yield f"const {ctype} {name} = {{{leaf.path} = -1}};\n"
    yield _callee(made)
    yield _caller(made)


def _copy(to: str, of: str, name: str) -> str:
    return f" __builtin_memcpy({to}, {of}, sizeof {name});"


def _callee(made: Generated) -> str:
    """Stores every argument, anonymous ones by `va_arg`, and returns the bytes at RESULT."""
    count = len(made.params)
    params = ", ".join([*(f"{ctype} a{n}" for n, ctype in enumerate(made.params)), *(["..."] if made.variadic else [])])
    lines = [f"{made.result} callee{made.seed}({params or 'void'}) {{"]
    lines += [_copy(f"(char *){SEEN + PLACE * n:#x}ul", f"&a{n}", f"a{n}") for n in range(count)]
    if made.variadic:
        lines.append(f" __builtin_va_list list; __builtin_va_start(list, a{count - 1});")
        for n, ctype in enumerate(made.anonymous, count):
            lines.append(f" {ctype} a{n} = __builtin_va_arg(list, {ctype});")
            lines.append(_copy(f"(char *){SEEN + PLACE * n:#x}ul", f"&a{n}", f"a{n}"))
        lines.append(" __builtin_va_end(list);")
    if made.result != "void":
        lines.append(f" {made.result} r;{_copy('&r', f'(char *){RESULT:#x}ul', 'r')} return r;")
    return "\n".join([*lines, "}\n"])


def _caller(made: Generated) -> str:
    """Passes the bytes at VALUES to a function whose address it is given, and stores what that returns."""
    types = (*made.params, *made.anonymous)
    named = ", ".join([*made.params, *(["..."] if made.variadic else [])])
    lines = [f"void caller{made.seed}({made.result} (*f)({named or 'void'})) {{"]
    for n, ctype in enumerate(types):
        lines.append(f" {ctype} a{n};{_copy(f'&a{n}', f'(char *){VALUES + PLACE * n:#x}ul', f'a{n}')}")
    call = f"f({', '.join(f'a{n}' for n in range(len(types)))})"
    if made.result == "void":
        lines.append(f" {call};")
    else:
        lines.append(f" {made.result} r = {call};{_copy(f'(char *){SEEN_RESULT:#x}ul', '&r', 'r')}")
    return "\n".join([*lines, "}\n"])
