"""Argument slots: how many a value takes, what static functions are typed for, and what comes back in a pair."""

import pytest

from harness.isa.proto import Proto, parse_proto
from harness.isa.slots import as_bpf, callee_slots, groups, is_pair, is_prepared, is_scalars, kind_word, slots_of

PAIR = "struct pair {u64 lo, hi;}; "


def sizes(proto: Proto) -> list[list[int]]:
    """The bytes in each slot of each parameter."""
    return [[slot.type.size for slot in rows] for rows in groups(proto, slots_of(proto))]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("params", "want"),
    [
        ("void", []),
        ("u8 a, s64 b, void *p", [[1], [8], [8]]),
        ("struct pair {u64 lo, hi;} p, u64 c", [[8, 8], [8]]),
        ("u64 a, __int128 v, unsigned __int128 w", [[8], [8, 8], [8, 8]]),
        ("struct {u8 c[3];} a, struct {u32 c[3];} b, union {u8 c[9]; u64 d;} e", [[3], [8, 4], [8, 8]]),
        ("struct {u8 a; u64 b;} __attribute__((packed)) p", [[8, 1]]),
    ],
)
def test_slots(params: str, want: list[list[int]]) -> None:
    assert sizes(parse_proto(f"u64 f({params})")) == want


def test_a_value_that_cannot_be_passed_is_one_slot() -> None:
    proto = parse_proto("u64 f(struct {u64 a, b, c;} s, struct {} e, struct unknown *p, u64 b)")
    assert [slot.param for slot in slots_of(proto)] == [0, 1, 2, 3]


SCALARS = {
    "struct {u8 a; union {u64 b; u32 c[2];} d;}": True,
    "struct {void *p;}": False,
    "struct {u64 a; struct {void *p;} b;}": False,
    "union {u64 a; double b;}": False,
    "struct {u64 a[0];}": False,
    "struct {struct {struct {struct {u8 a;} b;} c;} d;}": True,  # four structs in each other
    "struct {struct {struct {struct {struct {u8 a;} b;} c;} d;} e;}": False,
}


@pytest.mark.parametrize("text", SCALARS)
def test_what_is_made_of_scalars(text: str) -> None:
    assert is_scalars(parse_proto(f"void f({text} s)").params[0].type) is SCALARS[text]


PREPARED = {
    PAIR + "u64 f(u64 a, struct pair p)": True,
    PAIR + "struct pair f(void *c __arg_ctx, __int128 v)": True,
    "void f(bool b)": True,
    PAIR + "u64 f(u64 *a, struct pair p)": False,  # a pointer
    "u64 f(struct {u64 a, b, c;} s)": False,
    "u64 f(struct {u64 a; void *b;} s)": False,
    "u64 f(struct {} s)": False,
    "struct {u64 a, b, c;} f(u64 a)": False,
    "void *f(u64 a)": False,
    PAIR + f"u64 f({', '.join(['struct pair'] * 6)})": True,
    PAIR + f"u64 f({', '.join(['struct pair'] * 6)}, u8)": False,  # 13 slots
}


@pytest.mark.parametrize("text", PREPARED)
def test_what_a_static_function_is_typed_for(text: str) -> None:
    proto = parse_proto(text)
    assert is_prepared(proto) is PREPARED[text]
    assert len(callee_slots(proto)) == (len(slots_of(proto)) if PREPARED[text] else len(proto.params))


def test_a_global_function_is_always_counted_in_slots() -> None:
    assert len(callee_slots(parse_proto(PAIR + "global u64 f(u64 *a, struct pair p)"))) == 3


def test_results() -> None:
    found = [is_pair(parse_proto(f"{text} f(void)").result) for text in ("u64", "__int128", "void", "void *", "long")]
    assert found == [False, True, False, False, False]
    found = [
        is_pair(parse_proto(f"struct s {{{text}}} f(void)").result)
        for text in ("u32 a, b;", "u32 c[3];", "u64 a, b, c;")
    ]
    assert found == [False, True, False]


def test_as_bpf_code_passes_it() -> None:
    assert str(as_bpf(parse_proto("u32 f(u8 a, __int128 v)"))) == "u64 f(u64 a, u64 v (low half), u64 v (high half))"


def test_words() -> None:
    proto = parse_proto("void f(u8 a, void *p, struct {u8 b;} s, union {u8 c;} u)")
    assert [kind_word(param.type) for param in proto.params] == ["INT", "PTR", "STRUCT", "UNION"]
