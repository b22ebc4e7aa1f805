"""Prototypes as text."""

import pytest

from harness.isa.proto import CInt, CPtr, CStruct, CVoid, ProtoError, parse_proto


def test_types() -> None:
    proto = parse_proto(
        "static u64 f(u8 a, s16, const struct pair *p, void *q, bool e, struct big b, void *c __arg_ctx)"
    )
    assert [(p.name, p.type) for p in proto.params] == [
        ("a", CInt("u8", 1, False)),
        ("a2", CInt("s16", 2, True)),
        ("p", CPtr(CStruct("pair"))),
        ("q", CPtr(CVoid())),
        ("e", CInt("bool", 1, False)),
        ("b", CStruct("big")),
        ("c", CPtr(CVoid(), ctx=True)),
    ]
    assert not proto.is_global
    assert str(proto) == "u64 f(u8 a, s16 a2, struct pair *p, void *q, bool e, struct big b, void *c)"


def test_no_parameters_and_linkage() -> None:
    assert parse_proto("void f(void)").params == ()
    assert parse_proto("global int f()").is_global


BAD = [
    ("u64", 3, "expected a function name, found the end"),
    ("u64 f", 5, "expected '(', found the end"),
    ("u64 f(u63 a)", 6, "expected a type"),
    ("u64 f(u64 a u64 b)", 12, "expected ')', found 'u64'"),
    ("u64 f(u64 a, u64 a)", 13, "there are two parameters 'a'"),
    ("u64 f(u64 a, void)", 13, "a parameter cannot be void"),
    ("u64 f(u64 a) x", 13, "expected the end, found 'x'"),
    ("u64 f(u64 a __arg_ctx)", 6, "__arg_ctx needs a pointer"),
    ("u64 f(" + ", ".join(["u64"] * 65) + ")", 326, "more than 64 parameters"),
]


@pytest.mark.parametrize(("text", "column", "message"), BAD)
def test_refusals(text: str, column: int, message: str) -> None:
    with pytest.raises(ProtoError) as caught:
        parse_proto(text)
    assert message in caught.value.message
    assert caught.value.column == column
