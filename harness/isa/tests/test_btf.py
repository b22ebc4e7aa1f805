"""BTF as it is written: bytes typed by hand from Linux Documentation/bpf/btf.rst."""

from harness.isa.btf import GLOBAL, Btf, func_info, line_info
from harness.isa.proto import CInt, CPtr, CVoid, parse_proto


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
