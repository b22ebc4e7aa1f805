"""BTF as it is written: bytes typed by hand from Linux Documentation/bpf/btf.rst."""

import pytest

from harness.isa.btf import DECL_TAG, GLOBAL, STATIC, Btf, func_info, line_info
from harness.isa.ctypes import CInt, CPtr, CStruct, CVoid
from harness.isa.proto import parse_proto


def words(blob: bytes) -> list[int]:
    return [int.from_bytes(blob[at : at + 4], "little") for at in range(0, len(blob) // 4 * 4, 4)]


def test_a_function() -> None:
    types = Btf()
    assert types.func(parse_proto("int f(u64 a)"), GLOBAL) == 4
    blob = types.blob()
    # magic eb9f, version 1, no flags, header of 24 bytes; types at 0, 64 bytes; strings behind them, 13 bytes
    assert blob[:24].hex(" ", 4) == "9feb0100 18000000 00000000 40000000 40000000 0d000000"
    assert blob[-13:] == b"\0a\0u64\0int\0f\0"
    assert words(blob[24:-13]) == [
        3, 1 << 24, 8, 64,  # 1: INT u64, 8 bytes, unsigned, 64 bits
        7, 1 << 24, 4, 1 << 24 | 32,  # 2: INT int, 4 bytes, signed, 32 bits
        0, 13 << 24 | 1, 2, 1, 1,  # 3: FUNC_PROTO of one parameter, result 2: `a`, 1
        11, 12 << 24 | 1, 3,  # 4: FUNC f, global, 3
    ]  # fmt: skip


def test_the_same_type_once() -> None:
    types = Btf()
    assert types.type_id(CInt("u8", 1, False)) == types.type_id(CInt("u8", 1, False)) == 1
    assert types.type_id(CPtr(CInt("u8", 1, False))) == 2
    assert types.type_id(CVoid()) == 0


def test_split_btf_counts_on() -> None:
    types = Btf(first_id=100, first_string=5000)
    assert types.type_id(CInt("u8", 1, False)) == 100
    assert types.string("u8") == 5000
    assert types.string("") == 0
    assert types.blob().endswith(b"u8\0")


def test_a_context_argument_is_tagged() -> None:
    types = Btf()
    func = types.func(parse_proto("int f(int a, struct c *p __arg_ctx)"), GLOBAL)
    blob = types.blob()
    # the last type: DECL_TAG arg:ctx on the function, component 1
    found = words(blob[24:])
    at = found.index(17 << 24)
    assert found[at : at + 3] == [17 << 24, func, 1]


def test_infos() -> None:
    assert func_info([(0, 4), (7, 9)]).hex(" ", 4) == "00000000 04000000 07000000 09000000"
    assert line_info([(3, 1, 2, 5)]).hex(" ", 4) == "03000000 01000000 02000000 00140000"


def test_nothing_is_a_header_and_an_empty_string() -> None:
    assert Btf().blob().hex() == "9feb0100 18000000 00000000 00000000 00000000 01000000 00".replace(" ", "")


def test_a_whole_section() -> None:
    """`static void f(u8 *p __arg_ctx)`: INT, PTR, FUNC_PROTO, FUNC, DECL_TAG, as `bpftool btf dump` numbers them."""
    types = Btf()
    assert types.func(parse_proto("void f(u8 *p __arg_ctx)"), STATIC) == 4
    blob = types.blob()
    assert blob[:24].hex(" ", 4) == "9feb0100 18000000 00000000 4c000000 4c000000 10000000"
    assert blob[24:-16].hex(" ", 4) == (
        "03000000 00000001 01000000 08000000"  # 1: INT at 3, 1 byte, unsigned, 8 bits
        " 00000000 00000002 01000000"  # 2: PTR to 1
        " 00000000 0100000d 00000000 01000000 02000000"  # 3: FUNC_PROTO, void, of 1: `p` at 1, type 2
        " 06000000 0000000c 03000000"  # 4: FUNC at 6, static, 3
        " 08000000 00000011 04000000 00000000"  # 5: DECL_TAG at 8 on 4, parameter 0
    )
    assert blob[-16:] == b"\0p\0u8\0f\0arg:ctx\0"


def test_a_struct_has_two_u64() -> None:
    types = Btf()
    assert types.type_id(CPtr(CStruct("c"))) == 3
    blob = types.blob()
    assert blob[-11:] == b"\0u64\0a\0b\0c\0"
    assert words(blob[24:-11]) == [
        1, 1 << 24, 8, 64,  # 1: INT u64
        9, 4 << 24 | 2, 16,  # 2: STRUCT c of two members, 16 bytes
        5, 1, 0,  # `a`, u64, at bit 0
        7, 1, 64,  # `b`, u64, at bit 64
        0, 2 << 24, 2,  # 3: PTR to 2
    ]  # fmt: skip


def test_two_functions_share_their_types() -> None:
    types = Btf()
    first, second = (types.func(parse_proto(text), GLOBAL) for text in ("int f(int a)", "int g(int a)"))
    assert (first, second) == (3, 5)
    assert types.blob().endswith(b"\0a\0int\0f\0g\0")


def test_a_function_under_another_name() -> None:
    types = Btf()
    types.func(parse_proto("void f(void)"), GLOBAL, "g")
    assert types.blob().endswith(b"\0g\0")


def test_a_tag_on_a_whole_type() -> None:
    types = Btf()
    func = types.func(parse_proto("void f(void)"), GLOBAL)
    types.decl_tag("bpf_kfunc", func)
    assert words(types.blob()[24:])[6:10] == [3, DECL_TAG << 24, func, 0xFFFF_FFFF]


def test_split_btf_has_no_empty_string_and_offsets_go_on() -> None:
    types = Btf(first_id=100, first_string=5000)
    assert [types.string(text) for text in ("abc", "de", "abc", "f")] == [5000, 5004, 5000, 5007]
    assert types.type_id(CPtr(CInt("u8", 1, False))) == 101
    assert types.blob().endswith(b"abc\0de\0f\0u8\0")
    assert words(types.blob())[3:6] == [28, 28, 12]  # bytes of types, where strings begin, their bytes


def test_no_infos() -> None:
    assert (func_info([]), line_info([])) == (b"", b"")


def test_structs_with_members() -> None:
    types = Btf()
    (param,) = parse_proto("int f(struct s {u8 a; struct {u64 x[2];} b; union {u32 c;} d;} p)").params
    assert types.type_id(param.type) == 8
    blob = types.blob()
    rows = words(blob[24 : 24 + int.from_bytes(blob[12:16], "little")])
    strings = blob[24 + 4 * len(rows) :]

    def at(text: str) -> int:
        return strings.index(b"\0%s\0" % text.encode()) + 1

    assert rows == [
        at("u8"), 1 << 24, 1, 8,  # 1: INT u8
        at("unsigned int"), 1 << 24, 4, 32,  # 2: INT, of indexes
        at("u64"), 1 << 24, 8, 64,  # 3: INT u64
        0, 3 << 24, 0, 3, 2, 2,  # 4: ARRAY of 2 u64
        0, 4 << 24 | 1, 16, at("x"), 4, 0,  # 5: the inner STRUCT of 16 bytes, x at 0
        at("u32"), 1 << 24, 4, 32,  # 6: INT u32
        0, 5 << 24 | 1, 4, at("c"), 6, 0,  # 7: UNION of 4 bytes
        at("s"), 4 << 24 | 3, 32, at("a"), 1, 0, at("b"), 5, 64, at("d"), 7, 192,  # 8: STRUCT s of 32 bytes
    ]  # fmt: skip


def test_bit_fields_have_their_width_beside_the_offset() -> None:
    types = Btf()
    (param,) = parse_proto("int f(struct {u32 a:3; u32 b:5;} p)").params
    types.type_id(param.type)
    blob = types.blob()
    rows = words(blob[24 : 24 + int.from_bytes(blob[12:16], "little")])
    # 1: INT u32; 2: STRUCT with kind_flag: a of 3 bits at 0, b of 5 bits at 3
    assert rows[4:] == [0, 1 << 31 | 4 << 24 | 2, 4, rows[7], 1, 3 << 24, rows[10], 1, 5 << 24 | 3]


def test_floats_typedefs_and_variadic_functions() -> None:
    types = Btf()
    types.func(parse_proto("typedef u64 t __attribute__((aligned(32))); double f(t a, ...)"), STATIC)
    blob = types.blob()
    rows = words(blob[24 : 24 + int.from_bytes(blob[12:16], "little")])
    kinds = [row >> 24 & 31 for row in (rows[1], rows[5], rows[8])]
    assert kinds == [1, 8, 16]  # INT u64, TYPEDEF t, FLOAT double
    assert rows[9:18] == [8, 0, 13 << 24 | 2, 3, rows[13], 2, 0, 0, rows[17]]  # FUNC_PROTO: a of type 2, then nothing


def test_what_btf_has_no_kind_for() -> None:
    (param,) = parse_proto("int f(u8 a __attribute__((vector_size(16))))").params
    with pytest.raises(ValueError, match="BTF has no kind for"):
        Btf().type_id(param.type)
