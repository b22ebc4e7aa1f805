import os
import pickle
import random
import time
from pathlib import Path

import pytest

from backends.calls import Body
from harness.case import Case, CaseError, Expect, ExpectedCall, ExpectedPlace, find_files, load_file
from harness.isa.proto import parse_proto


@pytest.fixture
def load(tmp_path: Path) -> "Loads":
    return Loads(tmp_path / "bad.yaml")


class Loads:
    """Loads a text as a file named bad.yaml."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cases(self, text: str | bytes) -> tuple[Case, ...]:
        loaded = self(text)
        assert [str(error) for error in loaded[1]] == []
        return loaded[0]

    def errors(self, text: str | bytes) -> list[str]:
        return [str(error) for error in self(text)[1]]

    def __call__(self, text: str | bytes) -> tuple[tuple[Case, ...], tuple[CaseError, ...]]:
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        loaded = load_file(self.path, shown="bad.yaml")
        return loaded.cases, loaded.errors


SMALL = """\
- case: small
  about: It is small.
  spec: SA-V-02; AAPCS64, stage C
  prog:
    main: |
      r0 = 6
      exit
  expect: {verdict: accept, retval: 6}
"""

NINE = """\
# yaml-language-server: $schema=../../harness/case.schema.json
- case: nine_args
  about: Nine arguments reach a static subprog in order.
  spec: [SA-V-02, "AAPCS64, stage C"]
  needs: [stack_args, subprogs, kfuncs]
  type: syscall
  ctx: "01 02 0a ff"
  kfuncs:
    "u64 kf(u8 p, s8 q, int r)": sum
    "s64 kg(s64 t)": t
    "void kh(u64 u)": 0xffffffffffffffff
  prog:
    main: |
      r1 = 11
      *(u64 *)(r11 - 8) = 16
      call f9
      r0 = 0x123456789 ll
      exit
    "global u64 f9(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h, u64 i)": |
      r0 = *(u64 *)(r11 + 32)
      exit
    bare: exit
  expect:
    verdict: accept
    retval: -1
    memory: "0102 0aff"
    calls:
      - {f9: [11, 12, 13, 14, 15, 16, 17, 18, 0xffffffffffffffff]}
      - {kf: [255, -128, -2147483648]}
      - {kg: [0xffffffffffffffff]}
      - {f9: [1, 2, 3, 4, 5, 6, 7, 8, -1]}
    place:
      arm64: {f: x5, f9.i: "[sp + 0]", h: "[sp+0x10]"}
      x86_64: {f: r9, g: "[rsp]", i: "[rsp + 16]"}
"""

REJECT = """\
- case: rejected
  about: R1 is not readable.
  spec: SA-V-17
  prog: {main: call f, f: r0 = r1}
  expect: {verdict: reject, at: f 0, rule: reg-readable, msg: [func#1, 'R{{[0-9]}} !ok']}
"""

PARAMS = """\
- case: variants
  about: Argument ${n} arrives.
  spec: SA-V-${n}
  prog:
    main: |
      r1 = ${imm}
      ${stores}
      call f
      exit
    "u64 f(${list})": |
      exit
  expect:
    verdict: accept
    retval: "${imm}"
    calls: [{f: "${args}"}]
    place: "${place}"
  params:
    - n: 1
      imm: -8
      stores: |
        r2 = 1
        r3 = 2
      list: u64 a
      args: [1]
      place: {arm64: {a: x0}}
    - {n: 2, imm: 0x10, stores: "", list: "u64 a, u64 b", args: [1, -2], place: {arm64: {b: x1}}}
"""


def test_a_small_case(load: Loads) -> None:
    (case,) = load.cases(SMALL)
    assert (case.name, case.file, case.line, case.about) == ("small", "bad.yaml", 1, "It is small.")
    assert case.spec == ("SA-V-02", "AAPCS64, stage C")
    assert (case.needs, case.type, case.ctx, case.kfuncs) == ((), "syscall", b"", ())
    assert [(source.name, source.text, source.proto) for source in case.sources] == [("main", "r0 = 6\nexit\n", None)]
    assert [insn.to_bytes().hex() for insn in case.assembled.prog.insns] == ["b700000006000000", "9500000000000000"]
    assert case.expect == Expect(verdict="accept", retval=6)


def test_every_key(load: Loads) -> None:
    (case,) = load.cases(NINE)
    assert (case.line, case.needs, case.ctx) == (2, ("stack_args", "subprogs", "kfuncs"), b"\x01\x02\x0a\xff")
    assert case.kfuncs == (
        Body(parse_proto("u64 kf(u8 p, s8 q, int r)"), "sum"),
        Body(parse_proto("s64 kg(s64 t)"), "t"),
        Body(parse_proto("void kh(u64 u)"), 2**64 - 1),
    )
    assert [(s.name, s.is_global) for s in case.assembled.prog.subprogs] == [
        ("main", False),
        ("f9", True),
        ("bare", False),
    ]
    expect = case.expect
    assert (expect.retval, expect.memory) == (2**64 - 1, b"\x01\x02\x0a\xff")
    assert expect.calls == (
        ExpectedCall("f9", (11, 12, 13, 14, 15, 16, 17, 18, 2**64 - 1)),
        ExpectedCall("kf", (255, -128, -2147483648)),
        ExpectedCall("kg", (-1,)),
        ExpectedCall("f9", (1, 2, 3, 4, 5, 6, 7, 8, 2**64 - 1)),
    )
    assert expect.place == (
        ExpectedPlace("arm64", "f9", "f", "x5"),
        ExpectedPlace("arm64", "f9", "i", "[sp]"),
        ExpectedPlace("arm64", "f9", "h", "[sp+16]"),
        ExpectedPlace("x86_64", "f9", "f", "r9"),
        ExpectedPlace("x86_64", "f9", "g", "[rsp]"),
        ExpectedPlace("x86_64", "f9", "i", "[rsp+16]"),
    )


def test_a_reject(load: Loads) -> None:
    (case,) = load.cases(REJECT)
    assert case.expect == Expect(
        verdict="reject", at="f 0", rule="reg-readable", msg=("func#1", "R{{[0-9]}} !ok"), retval=None
    )


def test_variants(load: Loads) -> None:
    first, second = load.cases(PARAMS)
    assert [first.name, second.name] == ["variants@n=1", "variants@n=2"]
    assert (first.about, second.spec, first.line, second.line) == ("Argument 1 arrives.", ("SA-V-2",), 1, 1)
    assert first.sources[0].text == "r1 = -8\nr2 = 1\nr3 = 2\n\ncall f\nexit\n"
    assert second.sources[1].proto == parse_proto("u64 f(u64 a, u64 b)")
    assert (first.expect.retval, second.expect.retval) == (2**64 - 8, 16)
    assert second.expect.calls == (ExpectedCall("f", (1, 2**64 - 2)),)
    assert second.expect.place == (ExpectedPlace("arm64", "f", "b", "x1"),)


WIDE = """\
- case: wide
  about: Values of two slots are written as their halves.
  spec: SA-V-13
  since: "7.4"
  kfuncs: {"__int128 kf(struct {u32 c[3];} s)": s}
  prog:
    main: exit
    "struct pair {u64 lo, hi;}; u64 f(u8 a, struct pair p, u64 b)": exit
    "u64 g(u64 *a, __int128 v)": exit
  expect:
    verdict: accept
    calls:
      - {f: [1, [2, -1], 3]}
      - {kf: [[4, 0xffffffff]]}
      - {g: [5, 6]}
    place:
      arm64: {f.p: "x1, x2", kf.s: "[sp+0], [sp + 8]"}
      x86_64: {f.p: "r9, [rsp]"}
"""


def test_values_of_two_slots(load: Loads) -> None:
    (case,) = load.cases(WIDE)
    assert case.since == "7.4"
    assert case.expect.calls == (
        ExpectedCall("f", (1, 2, 2**64 - 1, 3)),
        ExpectedCall("kf", (4, 0xFFFF_FFFF)),
        ExpectedCall("g", (5, 6)),  # a pointer: a static function that has a slot for each parameter
    )
    assert [place.where for place in case.expect.place] == ["x1, x2", "[sp], [sp+8]", "r9, [rsp]"]


def test_names_of_variants(load: Loads) -> None:
    def names(rows: str) -> list[str]:
        return [case.name for case in load.cases(SMALL.replace("r0 = 6", "r0 = ${v}") + f"  params: [{rows}]\n")]

    assert names("{k: -64, v: 6}, {k: a b, v: 6}") == ["small@k=-64", "small@k=a b"]
    assert names("{k: 1, v: 6}, {k: 1, v: r6}") == ["small@k=1,v=6", "small@k=1,v=r6"]
    assert names("{k: [1], v: 6}, {k: [1], v: 7}") == ["small@v=6", "small@v=7"]


def test_cases_are_frozen(load: Loads) -> None:
    (case,) = load.cases(SMALL)
    with pytest.raises(AttributeError):
        case.name = "x"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        case.expect.retval = 5  # type: ignore[misc]


def test_good_cases_of_a_bad_file_are_kept(load: Loads) -> None:
    text = SMALL + SMALL.replace("small", "bad").replace("exit", "exi") + SMALL.replace("small", "other")
    text += SMALL.replace("small", "odd").replace("retval: 6", "retval: 06") + REJECT
    cases, errors = load(text)
    assert [case.name for case in cases] == ["small", "other", "rejected"]
    assert [str(error) for error in errors] == [
        "bad.yaml:15:7: expected an insn: exit, goto, call, if, a store, or an operation on a register, found 'exi'",
        "bad.yaml:32:37: '06' is ambiguous in YAML: quote it, or write an integer in decimal or 0x form",
    ]


def test_a_case_with_an_ambiguous_part_is_not_used(load: Loads) -> None:
    cases, errors = load(SMALL.replace("It is small.", "on") + REJECT)
    assert [case.name for case in cases] == ["rejected"]
    assert len(errors) == 1


def small(old: str, new: str) -> str:
    assert old in SMALL
    return SMALL.replace(old, new)


def nine(old: str, new: str) -> str:
    assert old in NINE
    return NINE.replace(old, new)


def reject(old: str, new: str) -> str:
    assert old in REJECT
    return REJECT.replace(old, new)


def params(old: str, new: str) -> str:
    assert old in PARAMS
    return PARAMS.replace(old, new, 1)


INSN = "expected an insn: exit, goto, call, if, a store, or an operation on a register"
MALFORMED = [
    # the file
    ("", ["1:1: expected a list of cases, found nothing"]),
    ("# only this\n", ["1:1: expected a list of cases, found nothing"]),
    ("[]\n", ["1:1: expected a list of cases, found an empty list"]),
    ("case: a\n", ["1:1: expected a list of cases, found a mapping"]),
    ("- 5\n", ["1:3: expected a mapping, found integer 5"]),
    (SMALL + "---\n" + SMALL, ["9:1: a case file is one document: remove '---'"]),
    (SMALL + SMALL, ["9:9: there is a case 'small' already, at line 1"]),
    # its shape
    (small("verdict", "verdit"), ["8:12: unknown key 'verdit' (did you mean 'verdict'?)"]),
    (small("verdict: accept, ", ""), ["8:11: missing key 'verdict'"]),
    (small("  about: It is small.\n", ""), ["1:3: missing key 'about'"]),
    (
        small("accept", "acept"),
        ["8:21: verdict: expected one of accept, reject, found 'acept' (did you mean 'accept'?)"],
    ),
    (small("retval: 6", "retval: '6'"), ["8:37: retval: expected an integer, found text '6'"]),
    (
        small("retval: 6", "retval: 18446744073709551616"),
        ["8:37: retval: expected an integer from -2^63 to 2^64-1, found 18446744073709551616"],
    ),
    (small("retval: 6", "calls: [{f: [x]}]"), ["8:42: f: expected an integer or a list, found text 'x'"]),
    (nine("kfuncs]", "kfunks]"), [
        "5:33: needs: expected one of stack_args, kfuncs, subprogs, global_funcs, found 'kfunks' (did you mean 'kfuncs'?)"
    ]),
    (nine('"01 02 0a ff"', "11223344"), ["7:8: ctx: expected text, found integer 11223344: quote it"]),
    (
        small("small\n", "Small\n").replace("6}", "x}"),
        [
            "1:9: case: expected a name of lower-case letters, digits and _, a letter first, found 'Small'",
            "8:37: retval: expected an integer, found text 'x'",
        ],
    ),
    # assembly and prototypes
    (small("r0 = 6", "r0 = 089"), ["6:12: a 32-bit constant is a decimal without a leading 0, or 0x..."]),
    (small("r0 = 6", "r0 = " + "9" * 5000), ["6:12: a 32-bit constant is a decimal without a leading 0, or 0x..."]),
    (small("exit", "exi"), [f"7:7: {INSN}, found 'exi'"]),
    (small("r0 = 6\n", "\n\n      r0 = 6 6\n"), ["8:14: expected the end of the line, found '6'"]),
    (small("|\n      r0 = 6\n      exit", "|2\n          r0 = 6\n            r0 = é\n      exit"), [
        "7:18: expected a 32-bit constant, found 'é'"
    ]),
    (small("|\n      r0 = 6\n      exit", "call  f"), [
        "5:17: nothing named 'f' to call (subprogs and kfuncs: main)"
    ]),
    (small("|\n      r0 = 6\n      exit", '"r0 = 6\\ncall f"'), [
        "5:25: nothing named 'f' to call (subprogs and kfuncs: main)"
    ]),
    (small("|\n      r0 = 6\n      exit", "''"), ["5:11: there is no insn here"]),
    (small("main:", "ma in:"), [
        "5:5: expected a type (void, u8 to u64, int, long, bool, struct NAME, ...), found 'ma'"
    ]),
    (nine("u64 b, u64 c", "u64 b u64 c"), ["19:33: expected ',' or ')', found 'u64'"]),
    (nine("u8 p", "u8 *p, u9 x"), [
        "9:20: expected a type (void, u8 to u64, int, long, bool, struct NAME, ...), found 'u9'"
    ]),
    (nine("u8 p", "u8 *p, float x"), [
        "9:20: expected an integer, a struct with its members, or a pointer to an integer or struct, found float"
    ]),
    (nine("bare:", "kf:"), ["22:5: there is a function 'kf' already"]),
    (nine("s64 kg", "global s64 kg"), ["10:5: a kfunc is neither global nor static"]),
    (nine("s64 t)\": t", "s64 t)\": tt"), [
        "10:22: kg: expected an integer, sum, or a parameter of kg, found 'tt' (did you mean 't'?)"
    ]),
    # what must fit together
    (small("retval: 6", "rule: r"), ["8:29: rule goes with verdict: reject only"]),
    (small("retval: 6", "msg: r, at: main 0"), [
        "8:29: msg goes with verdict: reject only",
        "8:37: at goes with verdict: reject only",
    ]),
    (reject("at: f 0", "retval: 0"), ["5:29: retval goes with verdict: accept only"]),
    (reject("rule: reg-readable, ", ""), ["5:11: missing key 'rule': a reject names the rule that is broken"]),
    (reject("f 0", "main"), ["5:33: at: expected a subprog and an insn's number (main 3), found 'main'"]),
    (reject("f 0", "g 0"), ["5:33: at: there is no subprog 'g'"]),
    (reject("f 0", "f 1"), ["5:33: at: f has insns 0 to 0, found 1"]),
    (reject("[0-9]", "[0-9"), ["5:76: msg: not a regular expression: unterminated character set at position 0"]),
    (nine("01 02 0a ff", "01 0g"), ["7:13: ctx: expected hex digits, found 'g'"]),
    (nine("01 02 0a ff", "010"), ["7:8: ctx: expected two hex digits a byte"]),
    (nine("0102 0aff", "0102"), ["26:13: memory: expected 4 bytes, as ctx has, found 2"]),
    (nine("- {kg: [0", "- {kj: [0"), ["30:10: calls: there is no function 'kj' (with a prototype: f9, kf, kg, kh)"]),
    (nine("- {kg: [0", "- {bare: [0"), ["30:10: calls: bare has no prototype, so its calls are not traced"]),
    (nine("[255, ", "["), ["29:14: kf: expected 3 arguments, found 2"]),
    (nine("[255, ", "[256, "), ["29:15: kf: u8 holds 0 to 255, found 256"]),
    (nine("-128", "0x80"), ["29:20: kf: s8 holds -128 to 127, found 128"]),
    (nine("f: x5", "z: x5"), ["33:15: place: no function with a prototype has a parameter 'z'"]),
    (nine("u8 p", "u8 f"), [
        "33:15: place: several functions have a parameter 'f': write f9.f or kf.f",
        "34:16: place: several functions have a parameter 'f': write f9.f or kf.f",
    ]),
    (nine("f9.i:", "f9.f:"), ["33:22: place: 'f9.f' is the parameter that 'f' names already"]),
    (nine("f: x5", "f: w5"), ["33:18: f: expected x0 to x30, [sp], [sp+N], or two of them, found 'w5'"]),
    # params
    (small("r0 = 6", "r0 = ${n}"), ["6:12: there is no param 'n': the case has no params"]),
    (params("${stores}", "${store}"), [
        "7:7: there is no param 'store' (did you mean 'stores'?)",
        "20:7: the param 'stores' is used nowhere",
    ]),
    (params("${imm}", "${imm"), ["6:12: '${' is not closed by '}'"]),
    (params("      imm: -8\n", "      imm: -8\n      spare: 1\n"), [
        "20:7: the param 'spare' is used nowhere",
        "27:7: missing key 'spare': all rows have the keys of the first",
    ]),
    (params('stores: "", ', 'stores: "", odd: 1, '), [
        "26:37: unknown key 'odd': all rows have the keys of the first"
    ]),
    (params("n: 2,", "n: '${imm}',"), ["26:11: n: a param's value cannot use a param"]),
    (params("-8", "x"), [
        "19:12: retval: expected an integer, found text 'x' (in variants@n=1)",
    ]),
    (params("0x10", "'16'"), ["26:19: retval: expected an integer, found text '16' (in variants@n=2)"]),
    (params("args: [1, -2]", "args: [1]"), ["26:65: f: expected 2 arguments, found 1 (in variants@n=2)"]),
    (params("r3 = 2", "r3 = "), ["7:7: expected a 32-bit constant, found the end of the line (in variants@n=1)"]),
    (params("call f", "call ${imm}f"), [
        "8:12: expected a subprog, a kfunc, or a helper by name or id, found '-' (in variants@n=1)",
        "8:12: expected a subprog, a kfunc, or a helper by name or id, found '1' (in variants@n=2)",
    ]),
    (params("list: u64 a\n", "list: u65 a\n"), [
        "10:12: expected a type (void, u8 to u64, int, long, bool, struct NAME, ...), found 'u65' (in variants@n=1)"
    ]),
    (params("{b: x1}", "{b: y1}"), ["26:93: b: expected x0 to x30, [sp], [sp+N], or two of them, found 'y1' (in variants@n=2)"]),
    (params("imm: -8", "imm: [8]"), [
        "19:12: imm: a list cannot stand within a text: '${imm}' must be the whole value"
    ]),
    (params("n: 1\n", "n: [1]\n"), ["18:10: n: a list cannot stand within a text: '${n}' must be the whole value"]),
    (small("r0 = 6", "r0 = ${k}") + "  params: [{k: 1}, {k: 1}]\n", ["9:20: there is a row k=1 already"]),
    (small("exit", "exit") + "  params: [{k: [1]}]\n", [
        "9:12: nothing in this row can name it: give it a key with an integer or a short text"
    ]),
]  # fmt: skip


WRONG_WIDE = [
    (("[2, -1]", "2"), "13:17: f: expected a list of two halves for p"),
    (("{f: [1,", "{f: [[1, 2],"), "13:14: f: expected a single value for a"),
    (("0xffffffff]", "0x100000000]"), "14:19: kf: u32 holds 0 to 4294967295, found 4294967296"),
    (("[2, -1]", "[2]"), "13:17: f: expected at least 2 items, found 1"),
    (("x1, x2", "x1, x2, x3"), "17:20: f.p: expected x0 to x30, [sp], [sp+N], or two of them, found 'x1, x2, x3'"),
    (('"7.4"', "7.4"), "4:10: '7.4' is ambiguous in YAML: quote it"),
    (('"7.4"', "soon"), "4:10: since: expected a kernel's version in quotes"),
]


@pytest.mark.parametrize(("change", "want"), WRONG_WIDE)
def test_wrong_values_of_two_slots(change: tuple[str, str], want: str, load: Loads) -> None:
    (error,) = load.errors(WIDE.replace(*change))
    assert error.startswith(f"bad.yaml:{want}")


@pytest.mark.parametrize(("text", "want"), MALFORMED)
def test_malformed(text: str, want: list[str], load: Loads) -> None:
    assert load.errors(text) == [f"bad.yaml:{line}" for line in want]


def test_malformed_is_told_at_length() -> None:
    assert len(MALFORMED) >= 25


def test_an_error_of_all_variants_is_told_once(load: Loads) -> None:
    want = f"bad.yaml:9:7: {INSN}, found 'exi' (in variants@n=1)"
    assert load.errors(params("      exit\n", "      exi\n")) == [want]


def test_key_made_twice_by_a_row(load: Loads) -> None:
    text = small("    main:", "    f: exit\n    ${k}:") + "  params: [{k: main}, {k: f}]\n"
    cases, errors = load(text)
    assert [case.name for case in cases] == ["small@k=main"]
    assert [str(error) for error in errors] == ["bad.yaml:10:27: with this row, the key 'f' is there twice"]


def test_windows_line_ends_and_a_byte_order_mark(load: Loads) -> None:
    (case,) = load.cases(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert case.sources[0].text == "r0 = 6\nexit\n"
    text = small("exit", "exi").replace("\n", "\r\n")
    assert load.errors(text) == [f"bad.yaml:7:7: {INSN}, found 'exi'"]


def test_limits_of_params(load: Loads) -> None:
    def rows(count: int) -> str:
        return "  params:\n" + "".join(f"    - {{n: {n}}}\n" for n in range(count))

    assert len(load.cases(SMALL + rows(4096))) == 4096
    assert load.errors(SMALL + rows(4097)) == ["bad.yaml:10:5: params: expected at most 4096 items, found 4097"]
    long = small("exit\n", "exit\n" * 400).replace("exit\n", "      exit\n").replace("            exit", "      exit")
    (error,) = load.errors(long + rows(4096))
    assert error.endswith("the variants of this file come to more than 4194304 characters")


def test_no_more_errors_than_anyone_reads(load: Loads) -> None:
    errors = load.errors("- {case: Q}\n" * 500)
    assert len(errors) == 101
    assert errors[-1].endswith("there are more errors, from here on")


@pytest.mark.parametrize(
    "text",
    [
        SMALL.replace("r0 = 6", "r0 = 6" + " " * 8000) * 100,
        SMALL.replace("r0 = 6", "r0 = 6" + " " * 900_000),
        SMALL.replace("r0 = 6", "${" * 400_000),
        SMALL.replace("retval: 6", "retval: " + "9" * 900_000),
        SMALL.replace("retval: 6", "calls: [" + "{f: [1]}, " * 9000 + "]"),
        SMALL.replace("retval: 6", "place: {arm64: {" + ", ".join(f"p{n}: x0" for n in range(20_000)) + "}}"),
        REJECT.replace("'R{{[0-9]}} !ok'", "'" + "{{" * 400_000 + "'"),
        REJECT.replace("[0-9]", "(" * 400),
        SMALL + "  params: [{n: " + "q" * 500_000 + ", m: ['${n}']}]\n",
        SMALL.replace("r0 = 6", "${n}" * 2000) + "  params: [{n: " + "q" * 500_000 + "}]\n",
        SMALL.replace("retval: 6", "calls: [" + "'${n}', " * 5000 + "]")
        + "  params: [{k: 1, n: [" + "1, " * 30_000 + "]}]\n",
        "- case: a\n" + "".join(f"  k{n}: 1\n" for n in range(20_000)),
        "[" * 500_000,
        "- {case: 012}\n" * 20_000,
    ],
    ids=range(14),
)  # fmt: skip
def test_time_is_bounded(text: str, load: Loads) -> None:
    started = time.perf_counter()
    load(text)
    assert time.perf_counter() - started < 5


def test_whatever_is_in_a_file(load: Loads) -> None:
    """Files cut short and bytes changed: cases and errors, nothing else."""
    rng = random.Random(7)
    for text in (NINE, PARAMS, REJECT):
        raw = text.encode()
        for _ in range(250):
            cut = bytearray(raw[: rng.randrange(len(raw) + 1)] if rng.random() < 0.2 else raw)
            for _ in range(rng.randint(0, 3)):
                cut[rng.randrange(len(cut) or 1) : rng.randrange(len(cut) or 1) + 1] = rng.choice(
                    (
                        b"",
                        b"\x00",
                        b"\xff",
                        b"{",
                        b"[",
                        b"'",
                        b'"',
                        b"\n",
                        b"  ",
                        b": ",
                        b"${",
                        b"-",
                        b"9" * 30,
                        b"|",
                        b"&a ",
                    )
                )
            lines = bytes(cut).count(b"\n") + 1
            for error in load(bytes(cut))[1]:
                assert 1 <= error.line <= lines + 1
                assert error.column >= 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def error(path: Path) -> str:
        (found,) = load_file(path, shown="x.yaml").errors
        return str(found)

    assert error(tmp_path / "no.yaml") == "x.yaml:1:1: cannot be read: No such file or directory"
    assert error(tmp_path) == "x.yaml:1:1: cannot be read: it is not a file"
    os.mkfifo(tmp_path / "pipe")
    assert error(tmp_path / "pipe") == "x.yaml:1:1: cannot be read: it is not a file"
    assert error(Path("a\0b")) == "x.yaml:1:1: this is no name of a file"
    (tmp_path / "utf16.yaml").write_text("- case: a\n", encoding="utf-16")
    assert error(tmp_path / "utf16.yaml") == "x.yaml:1:1: the file is not UTF-8 text"
    (tmp_path / "big.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    assert error(tmp_path / "big.yaml") == "x.yaml:1:1: the file is larger than 1048576 bytes"


def test_a_file_is_named_by_its_path_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SMALL, encoding="utf-8")
    assert load_file(path).cases[0].file == str(path)


def test_find_files(tmp_path: Path) -> None:
    for name in ("b/2.yaml", "b/1.yml", "a/3.yaml", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    found = [tmp_path / name for name in ("a/3.yaml", "b/1.yml", "b/2.yaml")]
    assert list(find_files([tmp_path])) == found
    assert list(find_files([tmp_path / "b", tmp_path])) == [*found[1:], found[0]]
    assert list(find_files([tmp_path / "a/notes.txt"])) == [tmp_path / "a/notes.txt"]
    with pytest.raises(CaseError, match=r"no:1:1: cannot be read: No such file or directory$"):
        find_files([tmp_path / "no"])
    with pytest.raises(CaseError, match=r"empty:1:1: there is no case file \(\*\.yaml, \*\.yml\) in this folder$"):
        find_files([tmp_path / "empty"])


def test_an_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(CaseError("f", 1, 2, "m")))
    assert str(error) == "f:1:2: m"


GRAPH = """\
- case: x
  about: It is.
  spec: y
  progs:
    entry: {main: "r0 = 1\\nexit"}
    leaf: {main: "r0 = 2\\nexit"}
  maps: {jmp: {type: prog_array, progs: [leaf]}}
  expect: {verdict: accept}
  steps:
    - {run: entry, retval: 1}
    - {update: jmp, slot: 0, prog: leaf}
    - {run: entry, retval: 1, ran: [], between: [1]}
"""
WRONG_GRAPHS = {
    ("progs: [leaf]", "progs: [laef]"): "there is no program 'laef' (did you mean 'leaf'?)",
    ("run: entry, retval: 1}", "run: entri}"): "there is no program 'entri' (did you mean 'entry'?)",
    ("update: jmp", "update: jump"): "there is no prog array 'jump' (did you mean 'jmp'?)",
    ("prog: leaf}", "prog: leaf, errno: ENOSYS}"): "errno: expected one of E2BIG, ENOENT, EINVAL, found 'ENOSYS'",
    ("prog: leaf}", "prog: loaf}"): "there is no program 'loaf' (did you mean 'leaf'?)",
    ("ran: []", "ran: [loaf]"): "there is no program 'loaf' (did you mean 'leaf'?)",
    ("run: entry, retval: 1}", "run: entry, between: [1]}"): "between goes with an update just before",
    ("retval: 1}", "durring: {}}"): "unknown key 'durring' (did you mean 'during'?)",
    ("retval: 1}", "during: {x: {delete: jmp, slot: 0}}}"): "expected the number of a call, found 'x'",
    ("retval: 1}", "during: {0: {close: jmp}}}"): "close goes with steps, not with a run",
    ("slot: 0, prog: leaf}", "slot: 0, prog: leaf}\n    - {close: jmp}\n    - {delete: jmp, slot: 0}"): "jmp is closed",
    ("verdict: accept", "verdict: accept, retval: 1"): "retval goes with each run of steps",
    ("verdict: accept", "verdict: reject, rule: tail-stack"): "a case that is rejected has no steps",
    ("exit", "exitt"): "exitt",
    ("type: prog_array", "type: prog_array, key: 4"): "unknown key 'key'",
    ("progs: [leaf]", "entries: 65281"): "bytes of values",
    (
        '  progs:\n    entry: {main: "r0 = 1\\nexit"}\n    leaf: {main: "r0 = 2\\nexit"}',
        "  prog: {main: exit}",
    ): "steps goes with progs",
}


def test_a_graph(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(GRAPH, encoding="utf-8")
    loaded = load_file(path, shown="c.yaml")
    assert loaded.errors == ()
    assert [scene.label for scene in loaded.cases[0].scenes] == ["step 1 (run entry)", "step 3 (run entry)"]


@pytest.mark.parametrize("change", WRONG_GRAPHS)
def test_what_is_wrong_with_a_graph_is_told(change: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    assert change[0] in GRAPH
    path.write_text(GRAPH.replace(*change), encoding="utf-8")
    loaded = load_file(path, shown="c.yaml")
    assert loaded.cases == ()
    assert any(WRONG_GRAPHS[change] in str(error) for error in loaded.errors), [str(e) for e in loaded.errors]
