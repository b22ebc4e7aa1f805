import time
from typing import Any

import pytest
import yaml

from harness.yamldoc import CaseError, decode, parse

LOADERS = [yaml.SafeLoader, yaml.CSafeLoader] if hasattr(yaml, "CSafeLoader") else [yaml.SafeLoader]


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__)
def loader(request: pytest.FixtureRequest) -> Any:
    return request.param


def errors(text: str, loader: Any = None) -> list[str]:
    try:
        return [str(error) for error in parse(text, "f", loader).errors]
    except CaseError as error:
        return [str(error)]


def test_data_is_plain(loader: Any) -> None:
    text = 'a: [1, -8, 0x1f, -0x8, "6", word, true, null, ]\nb:\n  c: |\n    x\n    y\n  d:\n'
    data = {"a": [1, -8, 31, -8, "6", "word", True, None], "b": {"c": "x\ny\n", "d": None}}
    assert parse(text, "f", loader).data == data


def test_all_of_u64_is_an_integer() -> None:
    text = "[18446744073709551615, 0xffffffffffffffff, -9223372036854775808]"
    assert parse(text, "f").data == [2**64 - 1, 2**64 - 1, -(2**63)]


@pytest.mark.parametrize("text", ["a word", "6.10.1", "r6", "f9", "a1b2", "n", "y", "1.2.3.4", "-", ".", "x:y", "0xfg"])
def test_text_that_is_clear_needs_no_quotes(text: str, loader: Any) -> None:
    assert parse(f"[{text}]" if text != "-" else "a: '-'", "f", loader).data in ([text], {"a": "-"})


AMBIGUOUS = [
    "on",
    "off",
    "yes",
    "no",
    "On",
    "NO",
    "True",
    "FALSE",
    "Null",
    "~",
    "012",
    "-012",
    "00",
    "1_000",
    "0x1_0",
    "0X1f",
    "0b101",
    "0o14",
    "1:30",
    "190:20:30",
    "1:30.5",
    "6.10",
    "1.",
    ".5",
    "+.5",
    "1e3",
    "1.5e-3",
    "12e4",
    ".inf",
    "-.INF",
    ".nan",
    "2026-11-20",
    "=",
    "<<",
]


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_ambiguous_values(text: str, loader: Any) -> None:
    want = f"f:1:5: {text!r} is ambiguous in YAML: quote it, or write an integer in decimal or 0x form"
    assert errors(f"k:  {text}", loader) == [want]
    assert parse(f"k:  '{text}'", "f", loader).data == {"k": text}


@pytest.mark.parametrize("text", [*(t for t in AMBIGUOUS if t != "off"), "5", "0x10", "true", "null"])
def test_ambiguous_keys(text: str, loader: Any) -> None:
    assert errors(f"{text}: 1", loader) == [f"f:1:1: the key {text!r} is ambiguous in YAML: quote it"]
    assert parse(f"'{text}': 1", "f", loader).data == {text: 1}


def test_off_is_a_key_like_any_other(loader: Any) -> None:
    assert parse("{n: 6, off: -8}", "f", loader).data == {"n": 6, "off": -8}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3:1: duplicate key 'a' (first at line 1)"),
        ("a: &x 1\n", "f:1:4: anchors and aliases (& and *) are not allowed: quote text, write a value out"),
        ("a: *x\n", "f:1:4: anchors and aliases (& and *) are not allowed: quote text, write a value out"),
        ("*x : 1\n", "f:1:1: anchors and aliases (& and *) are not allowed: quote text, write a value out"),
        ("a: !!str 1\n", "f:1:4: the tag 'tag:yaml.org,2002:str' is not allowed: quote text that begins with '!'"),
        ("a: ! b\n", "f:1:4: the tag '!' is not allowed: quote text that begins with '!'"),
        ("? \n: 1\n", "f:1:2: there is no key before ':'"),
        ("[a]: 1\n", "f:1:1: a key must be text: quote it"),
        ("a: 1\n---\nb: 2\n", "f:2:1: a case file is one document: remove '---'"),
        ('a: "\\x1b[31m"\n', "f:1:4: the control character U+001B is not allowed"),
        ("a: b\x07c\n", "f:1:5: the control character U+0007 is not allowed"),
        ("é: 1\na: \x00\n", "f:2:4: the control character U+0000 is not allowed"),
        ("a: 1\rb: 2\n", "f:1:5: the control character U+000D is not allowed"),
        ("a: \u2028\n", "f:1:4: the control character U+2028 is not allowed"),
        ("a: \u202e\n", "f:1:4: the control character U+202E is not allowed"),
    ],
)
def test_refused(text: str, want: str, loader: Any) -> None:
    assert errors(text, loader) == [want]


def test_depth(loader: Any) -> None:
    assert parse("[" * 32 + "]" * 32, "f", loader).errors == ()
    assert errors("[" * 33 + "]" * 33, loader) == ["f:1:33: nested deeper than 32 levels"]


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 100_000, "[1, " * 100_000])
def test_no_depth_ends_the_process(text: str) -> None:
    started = time.perf_counter()
    assert len(errors(text)) == 1
    assert time.perf_counter() - started < 2


def test_number_of_nodes() -> None:
    assert errors("[" + "1," * 60_000 + "]") == ["f:1:100000: more than 50000 keys and values in one file"]


def test_every_error_is_told() -> None:
    assert errors("a: on\nb: 012\nb: 1\nc: &x 1.5\n") == [
        "f:1:4: 'on' is ambiguous in YAML: quote it, or write an integer in decimal or 0x form",
        "f:2:4: '012' is ambiguous in YAML: quote it, or write an integer in decimal or 0x form",
        "f:3:1: duplicate key 'b' (first at line 2)",
        "f:4:4: anchors and aliases (& and *) are not allowed: quote text, write a value out",
        "f:4:4: '1.5' is ambiguous in YAML: quote it, or write an integer in decimal or 0x form",
    ]


@pytest.mark.parametrize(
    "text", ["a: b: c", "a: [1", "a: 'x", "\ta: 1", "a: @x", "a: *(u64 *)(r11 - 8)", "- a\nb: 1", "%"]
)
def test_syntax_errors_have_a_place(text: str, loader: Any) -> None:
    (error,) = errors(text, loader)
    assert error.startswith("f:")
    assert ": YAML: " in error
    assert all(part.isdigit() for part in error.split(":")[1:3])


def test_bytes() -> None:
    assert decode(b"\xef\xbb\xbfa: 1", "f") == "a: 1"
    with pytest.raises(CaseError, match=r"^f:2:4: the file is not UTF-8 text$"):
        decode(b"a: 1\nb: \xff\n", "f")
    with pytest.raises(CaseError, match=r"^f:1:1: the file is larger than 1048576 bytes$"):
        decode(b" " * (1048576 + 1), "f")
    assert len(decode(b" " * 1048576, "f")) == 1048576


def place(text: str, line: int, column: int, loader: Any, *, key: bool = False) -> tuple[int, int]:
    """Where a character of the text at `k`, or of that key, stands in the file."""
    doc = parse(text, "f", loader)
    assert isinstance(doc.data, dict)
    path = ("k",) if not key else (next(iter(doc.data)),)
    error = doc.error_within(path, line, column, "", key=key)
    return error.line, error.column


@pytest.mark.parametrize(
    ("text", "line", "column", "want"),
    [
        ("k: |\n  r0 = 0\n  exit\n", 1, 2, (3, 5)),
        ("k: |-\r\n  r0 = 0\r\n  exit\r\n", 1, 2, (3, 5)),
        ("k: |   # why\n  r0 = 0\n", 0, 0, (2, 3)),
        ("k: |\n\n\n    r0 = 0\n    exit\n", 2, 0, (4, 5)),
        ("k: |2\n    r0 = 0\n  exit\n", 0, 2, (2, 5)),
        ("k: |2\n    r0 = 0\n  exit\n", 1, 0, (3, 3)),
        ("k: |\n  a\n     b\n", 1, 3, (3, 6)),
        ("é: x\nk: |\n  äöü b\n", 0, 4, (3, 7)),
        ("é: {k: abc}\nk: |\n  x", 0, 0, (3, 3)),
        ("k:   r0 = 0\n", 0, 3, (1, 9)),
        ("k: 'a''b c'\n", 0, 3, (1, 9)),
        ('k: "a\\"b c"\n', 0, 4, (1, 10)),
        ('k: "a\\x41\\u0041b"\n', 0, 3, (1, 16)),
        ('k: "a\\nbc"\n', 1, 1, (1, 9)),
        ("k: 'a\n  b'\n", 0, 2, (1, 4)),  # folded: its start
        ("k: >\n  a\n  b\n", 0, 2, (1, 4)),
        ("k: ''\n", 0, 0, (1, 4)),
    ],
)
def test_a_place_within_a_text(text: str, line: int, column: int, want: tuple[int, int], loader: Any) -> None:
    assert place(text, line, column, loader) == want


def test_a_place_within_a_key(loader: Any) -> None:
    assert place('"u64 f(x)": 1\n', 0, 6, loader, key=True) == (1, 8)
    assert place("? |\n  abc\n: 1\n", 0, 2, loader, key=True) == (2, 5)


def test_a_place_that_is_not_there_is_that_of_its_parent() -> None:
    doc = parse("a:\n  b: {c: 1}\n", "f")
    assert str(doc.error(("a", "b", "x", 3), "m")) == "f:2:6: m"
    assert str(doc.error(("a", "b", "x"), "m", key=True)) == "f:2:6: m"
    assert str(doc.error(("a", "b"), "m", key=True)) == "f:2:3: m"
    assert str(parse("", "f").error((), "m")) == "f:1:1: m"
