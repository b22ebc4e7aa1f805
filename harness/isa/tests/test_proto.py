"""Prototypes as text: what C writes, what BPF functions may have, and what is refused at which column."""

import random

import pytest

from harness.isa.ctypes import (
    CAligned,
    CArray,
    CComplex,
    CFloat,
    CFunc,
    CInt,
    CPtr,
    CStruct,
    CType,
    CVector,
    CVoid,
    Member,
    Param,
    type_text,
)
from harness.isa.proto import Proto, ProtoError, parse_bpf_proto, parse_proto

INT, LONG, CHAR = CInt("int", 4, True), CInt("long", 8, True), CInt("char", 1, True)
FLOAT, DOUBLE = CFloat("float", 4), CFloat("double", 8)


def param(text: str) -> CType:
    return parse_proto(f"void f({text})").params[0].type


def test_bpf_types() -> None:
    proto = parse_bpf_proto(
        "static u64 f(u8 a, s16, const struct pair *p, void *q, bool e, struct big {u64 a; s8 b[3];} b, void *c __arg_ctx)"
    )
    assert [(p.name, p.type) for p in proto.params] == [
        ("a", CInt("u8", 1, False)),
        ("a2", CInt("s16", 2, True)),
        ("p", CPtr(CStruct("pair"))),
        ("q", CPtr(CVoid())),
        ("e", CInt("bool", 1, False)),
        ("b", CStruct("big", (Member("a", CInt("u64", 8, False)), Member("b", CArray(CInt("s8", 1, True), 3))))),
        ("c", CPtr(CVoid(), ctx=True)),
    ]
    assert not proto.is_global
    assert str(proto) == "u64 f(u8 a, s16 a2, struct pair *p, void *q, bool e, struct big {u64 a; s8 b[3];} b, void *c)"


def test_no_parameters_and_linkage() -> None:
    assert parse_proto("void f(void)").params == ()
    assert parse_proto("global int f()").is_global
    assert parse_proto("static inline __must_check int f(void);") == Proto("f", INT, ())


@pytest.mark.parametrize(
    ("text", "ctype"),
    [
        ("unsigned", CInt("unsigned int", 4, False)),
        ("long unsigned int long", CInt("unsigned long long", 8, False)),
        ("const volatile short int x", CInt("short", 2, True)),
        ("signed char", CInt("signed char", 1, True)),
        ("_Bool", CInt("bool", 1, False)),
        ("unsigned __int128", CInt("unsigned __int128", 16, False)),
        ("__uint128_t", CInt("__uint128_t", 16, False)),
        ("uint16_t", CInt("uint16_t", 2, False)),
        ("__be32", CInt("__be32", 4, False)),
        ("ssize_t", CInt("ssize_t", 8, True)),
        ("enum color", CInt("enum color", 4, False)),
        ("enum {A, B = -1}", CInt("enum", 4, True)),
        ("enum big {A = 1, B = A << 40}", CInt("enum big", 8, False)),
        ("enum {A = 3, B} __attribute__((packed))", CInt("enum", 1, False)),
        ("float", FLOAT),
        ("double long", CFloat("long double", 16)),
        ("_Float16", CFloat("_Float16", 2)),
        ("double _Complex", CComplex(DOUBLE)),
        ("float __attribute__((vector_size(16))) v", CVector(FLOAT, 16)),
        ("char **const *p", CPtr(CPtr(CPtr(CHAR)))),
        ("int a[3][4]", CPtr(CArray(INT, 4))),
        ("int a[]", CPtr(INT)),
        ("int g(void)", CPtr(CFunc(INT, ()))),
        ("int (*g)(long, char c)", CPtr(CFunc(INT, (Param("a1", LONG), Param("c", CHAR))))),
        ("int (*)(long)", CPtr(CFunc(INT, (Param("a1", LONG),)))),
        ("int (*a[2])(void)", CPtr(CPtr(CFunc(INT, ())))),
        ("int (*p)[2]", CPtr(CArray(INT, 2))),
        ("int (x)", INT),
        ("void __user *p /* of the caller */", CPtr(CVoid())),
    ],
)
def test_a_parameter(text: str, ctype: CType) -> None:
    assert param(text) == ctype


def test_structs() -> None:
    assert param("struct {long x, *y; char c[9]; int :3, b:5;} __attribute__((packed)) s") == CStruct(
        "",
        (
            Member("x", LONG),
            Member("y", CPtr(LONG)),
            Member("c", CArray(CHAR, 9)),
            Member("", INT, bits=3),
            Member("b", INT, bits=5),
        ),
        packed=True,
    )
    assert param("union u {struct {int a;}; char n[2 * sizeof(long) - 1];} x") == CStruct(
        "u", (Member("", CStruct("", (Member("a", INT),))), Member("n", CArray(CHAR, 15))), union=True
    )
    assert param("struct {int n; char tail[];} x") == CStruct(
        "", (Member("n", INT), Member("tail", CArray(CHAR, None)))
    )


@pytest.mark.parametrize(
    "text",
    [
        "struct {_Alignas(16) long a; long b;} s",
        "struct {long a __attribute__((aligned(16))); long b;} s",
        "struct {long __attribute__((__aligned__(8), aligned)) a; long b;} s",
        "struct {long a __aligned(8 << 1); long b;} s",
        "struct {alignas(long double) long a; long b;} s",
    ],
)
def test_a_member_has_its_own_alignment(text: str) -> None:
    assert param(text) == CStruct("", (Member("a", LONG, aligned=16), Member("b", LONG)))


def test_attributes_belong_to_what_they_stand_at() -> None:
    whole = CStruct("p", (Member("a", LONG),), packed=True, aligned=16)
    assert param("struct __attribute__((packed)) p {long a;} __aligned(16) s") == whole
    # After a name that is already defined, an attribute belongs to the member, not to the type.
    struct = param("struct {struct p {int a;} m; struct p __attribute__((packed)) n;} s")
    assert isinstance(struct, CStruct)
    assert struct.members is not None
    assert [member.packed for member in struct.members] == [False, True]


def test_declarations_before_the_prototype() -> None:
    proto = parse_proto(
        "typedef unsigned long word, *words; typedef u64 wide __attribute__((aligned(16)));\n"
        "struct pair {word a, b;}; // two of them\n"
        "enum e {ONE = 1}; typedef int (*callback)(struct pair *);\n"
        "struct pair f(words p, wide w, callback c, enum e e)"
    )
    word = CInt("unsigned long", 8, False)
    pair = CStruct("pair", (Member("a", word), Member("b", word)))
    assert proto.result == pair
    assert [p.type for p in proto.params] == [
        CPtr(word),
        CAligned("wide", CInt("u64", 8, False), 16),
        CPtr(CFunc(INT, (Param("a1", CPtr(pair)),))),
        CInt("enum e", 4, False),
    ]


def test_what_one_call_passes_for_the_dots() -> None:
    proto = parse_proto("int printf(const char *format, ..., char c, float, short s[], _Float16)")
    assert proto.variadic
    assert [p.name for p in proto.params] == ["format"]
    # C11 6.5.2.2: char becomes int, float becomes double; the array is a pointer; _Float16 stays (C23, H.6).
    assert [(p.name, p.type) for p in proto.anonymous] == [
        ("c", INT),
        ("a3", DOUBLE),
        ("s", CPtr(CInt("short", 2, True))),
        ("a5", CFloat("_Float16", 2)),
    ]
    assert str(proto) == "int printf(char *format, ..., int c, double a3, short *s, _Float16 a5)"
    assert parse_proto("int g(int n, ...)").anonymous == ()


@pytest.mark.parametrize(
    "text",
    [
        "void (*signal(int sig, void (*func)(int a1)))(int a1)",
        "struct s {int a:3; union {long x; char c[16] __attribute__((aligned(16)));};} __attribute__((packed)) *f(struct s *p)",
        "double _Complex f(float __attribute__((vector_size(8))) v, int (*a)[3], enum e e, ...)",
    ],
)
def test_text_of_a_prototype(text: str) -> None:
    proto = parse_proto(text)
    assert str(proto) == text.replace(
        "struct s {int a:3; union {long x; char c[16] __attribute__((aligned(16)));};} __attribute__((packed)) *",
        "struct s *",
    )
    assert parse_proto(str(proto)) == proto or "struct s" in text


def test_text_of_a_struct() -> None:
    text = "struct {int a:3; union {long x; char c[16] __attribute__((aligned(16)));};} __attribute__((packed, aligned(32)))"
    assert type_text(param(f"{text} s")) == text


BAD = [
    ("u64", 3, "expected a function name, found the end"),
    ("u64 f", 5, "expected '(', found the end"),
    ("u64 f(u63 a)", 6, "expected a type (void, u8 to u64, int, long, bool, struct NAME, ...), found 'u63'"),
    ("u64 f(u64 a u64 b)", 12, "expected ',' or ')', found 'u64'"),
    ("u64 f(u64 a, u64 a)", 13, "there are two parameters 'a'"),
    ("u64 f(u64 a, void)", 13, "a parameter cannot be void"),
    ("u64 f(u64 a,)", 12, "expected a parameter, found ')'"),
    ("u64 f(u64 a) x", 13, "expected the end, found 'x'"),
    ("u64 f(u64 a __arg_ctx)", 6, "__arg_ctx needs a pointer"),
    ("u64 f(" + ", ".join(["u64"] * 65) + ")", 326, "more than 64 parameters"),
    ("u64 f(static u64 a)", 6, "expected a type"),
    ("u64 f(int a, ..., ...)", 18, "expected a type"),
    ("int f(signed char unsigned a)", 6, "expected a type, found 'signed char unsigned'"),
    ("int f(struct {int a} s)", 19, "expected ';', found '}'"),
    ("int f(struct {int a;)", 20, "expected a type"),
    ("int f(struct {} s) {", 19, "expected the end, found '{'"),
    ("int f(struct s {int a;} s, struct s {int a;} t)", 34, "struct s is defined twice"),
    ("int f(struct s {int a;} s, union s t)", 33, "s is a struct"),
    ("int f(struct s {int a;} s, enum s t)", 32, "s is a struct"),
    ("int f(struct {struct t x;} s)", 23, "the members of struct t are not given, so it has no size here"),
    ("int f(struct {void x;} s)", 19, "void has no size"),
    ("int f(struct {int;} s)", 17, "expected the name of a member, found ';'"),
    ("int f(struct {int a; long a;} s)", 29, "there are two members 'a'"),
    ("int f(struct {char t[]; int n;} s)", 24, "t, an array without a length, must be the last member"),
    ("int f(union {char t[];} s)", 13, "an array without a length cannot be in a union"),
    ("int f(struct {int a:33;} s)", 20, "expected a bit-field of an integer type, within its 32 bits, found 33"),
    ("int f(struct {float a:3;} s)", 22, "expected a bit-field of an integer type"),
    ("int f(struct {int a:0;} s)", 20, "expected a bit-field"),
    ("int f(struct {int a __attribute__((aligned(12)));} s)", 43, "expected a power of 2 as alignment, found 12"),
    ("int f(int a __attribute__((aligned(16))))", 6, "aligned and packed belong to a type or a member"),
    ("int f(struct {int a __attribute__((mode(DI)));} s)", 35, "expected packed, aligned, vector_size"),
    ("int f(float __attribute__((vector_size(12))) v)", 6, "expected a vector_size that is a power of 2"),
    ("int f(void *v __attribute__((vector_size(16))))", 6, "vector_size needs an integer or a floating type"),
    ("typedef struct {char c;} __packed p __packed; int f(p p)", 34, "packed belongs to a struct or a member"),
    ("int f(int a[1 / 0])", 14, "1 / 0 has no value"),
    ("int f(int a[sizeof(struct {char c; int :5;})])", 19, "this is 4 on arm64 and 2 on x86-64"),
    ("int f(int a[N])", 12, "expected a number, found 'N'"),
    ("int f(int (*a)[-1])", 14, "expected 0 to"),
    ("typedef int t __attribute__((aligned(8))); int f(t a[2])", 52, "a multiple of their alignment, found 4 and 8"),
    ("int f(struct unknown a[2])", 22, "the members of struct unknown are not given"),
    ("int f(int a[](void))", 11, "expected elements with a size"),
    ("int f(void)[3]", 11, "a function cannot return an array"),
    ("int f(struct {int a[1 << 50];} s)", 19, "expected 0 to"),
    ("int f(struct {int a[1 << 20][1 << 20];} s)", 18, "an object of more than"),
    ("int (f(int a", 4, "this '(' is not closed"),
    ("int " + "(" * 100 + "f" + ")" * 100 + "(void)", 142, "nested more than 64 deep"),
    ("int f(int a[" + "-" * 100 + "1])", 72, "nested more than 64 deep"),
    ("int f(enum {A = 1 << 63 << 1} a)", 24, "a constant of more than 64 bits"),
]


@pytest.mark.parametrize(("text", "column", "message"), BAD)
def test_refusals(text: str, column: int, message: str) -> None:
    with pytest.raises(ProtoError) as caught:
        parse_proto(text)
    assert message in caught.value.message
    assert caught.value.column == column


@pytest.mark.parametrize(
    ("text", "column", "found"),
    [
        ("float f(u64 a)", 0, "float"),
        ("u64 f(u64 a, struct pair b)", 13, "struct pair"),
        ("struct pair f(u64 a)", 0, "struct pair"),
        ("typedef __int128 t __attribute__((aligned(8))); u64 f(t a)", 54, "t"),
        ("u64 f(u64 a, double *p)", 13, "double *"),
        ("u64 f(u64 a, int (*g)(void))", 13, "int (*)(void)"),
        ("u64 f(u64 a, ...)", 13, "'...'"),
    ],
)
def test_what_bpf_functions_do_not_have(text: str, column: int, found: str) -> None:
    with pytest.raises(ProtoError) as caught:
        parse_bpf_proto(text)
    assert caught.value.message.endswith(f"found {found}")
    assert caught.value.column == column


WORDS = [
    "int",
    "long",
    "char",
    "unsigned",
    "struct",
    "union",
    "enum",
    "s",
    "t",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "*",
    ",",
    ";",
    ":",
    "...",
    "__attribute__",
    "((",
    "))",
    "packed",
    "aligned",
    "vector_size",
    "16",
    "3",
    "0",
    "float",
    "_Complex",
    "__int128",
    "void",
    "bool",
    "const",
    "typedef",
    "u64",
    "a",
    "=",
    "<<",
    "/",
    "~",
    "+",
    "sizeof",
    "_Alignas",
    "__arg_ctx",
    "/*",
    "//",
    "\n",
    "99999999999999999999",
    '"',
    "é",
]


@pytest.mark.parametrize("seed", range(4))
def test_any_text_is_read_or_refused_at_a_column(seed: int) -> None:
    rng, read, columns = random.Random(seed), 0, list[tuple[int, str]]()
    for _ in range(1500):
        words = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 12)))
        text = "int f(" * rng.randint(0, 1) + words + ")" * rng.randint(0, 1)
        try:
            read += str(parse_proto(text)) != ""
        except ProtoError as error:
            columns.append((error.column, text))
    assert [text for column, text in columns if not 0 <= column <= len(text)] == []
    assert read


DOUBLED = "typedef int t0; " + "".join(f"typedef struct {{t{n} a; t{n} b;}} t{n + 1}; " for n in range(40))
LARGE = {
    "void f(int " + "*" * 1000 + "p)": "pointers to pointers more than 64 deep",
    "typedef int " + "*" * 60 + "P; void f(P " + "*" * 10 + "p)": "pointers to pointers more than 64 deep",
    "void f(struct s {" + "".join(f"int a{n};" for n in range(4097)) + "} s)": "struct s has more than 4096 members",
    DOUBLED + "void f(t40 a)": "struct has more than 4096 members, those of its members among them",
}


@pytest.mark.parametrize("text", LARGE, ids=["stars", "typedefs", "members", "doubled"])
def test_what_is_too_large_is_refused_at_once(text: str) -> None:
    with pytest.raises(ProtoError, match=LARGE[text]):
        parse_proto(text)
