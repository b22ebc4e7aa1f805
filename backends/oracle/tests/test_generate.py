"""Generated prototypes: the same for a seed, of every kind, and read back as they were meant."""

from collections import Counter

from backends.oracle.generate import MAX_BYTES, generate
from backends.oracle.source import facts, masks, source
from harness.isa.ctypes import ARM64, X86_64, CComplex, CFloat, CInt, CPtr, CStruct, CType, CVector, bare, size_of


def kind(ctype: CType) -> str:
    ctype = bare(ctype)
    match ctype:
        case CInt():
            return f"int{ctype.size}"
        case CFloat() | CVector() | CStruct() | CComplex() | CPtr():
            return type(ctype).__name__
        case _:
            return "void"


def test_a_seed_is_one_prototype() -> None:
    assert generate(7) == generate(7)
    assert generate(7).text != generate(8).text


def test_every_kind_of_type_comes_up() -> None:
    made = [generate(seed) for seed in range(400)]
    protos = [one.proto for one in made]
    kinds = Counter(kind(param.type) for proto in protos for param in (*proto.params, *proto.anonymous))
    assert {"int1", "int2", "int4", "int8", "int16", "CFloat", "CVector", "CStruct", "CComplex", "CPtr"} <= set(kinds)
    assert {"void", "CStruct", "CFloat", "int4"} <= {kind(proto.result) for proto in protos}
    declared = "".join(one.declarations for one in made)
    for word in (
        "packed",
        "aligned(16)",
        "union",
        "enum",
        "vector_size",
        "[0]",
        ":0;",
        "(*",
        "_Float16",
        "typedef struct",
    ):
        assert word in declared
    assert any(proto.variadic for proto in protos)
    assert max(len(proto.params) for proto in protos) > 12


def test_what_it_says_is_what_is_read() -> None:
    for seed in range(200):
        made = generate(seed)
        proto = made.proto
        assert (len(proto.params), len(proto.anonymous)) == (len(made.params), len(made.anonymous))
        # What is passed for `...` is promoted already, so that `va_arg` names its type.
        assert not any(isinstance(bare(p.type), CInt | CFloat) and size_of(p.type, ARM64) < 4 for p in proto.anonymous)
        assert all(size_of(p.type, X86_64) <= MAX_BYTES for p in proto.params)


def test_the_source_names_every_function_and_fact() -> None:
    made = generate(17)
    text = source("arm64", ARM64, [made])
    assert f"callee{made.seed}(" in text
    assert f"void caller{made.seed}(" in text
    assert all(fact.expression in text for fact in facts(made, ARM64))
    assert all(name in text for name, _, _ in masks(made, ARM64))
