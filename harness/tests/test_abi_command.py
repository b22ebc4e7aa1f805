"""`callconv abi` as a user types it."""

import io
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from backends import abis
from harness import abi_command, cli
from harness.abi_command import main
from harness.abi_svg import svg
from harness.abi_view import picture, text_lines, view_of
from harness.isa.proto import parse_proto

ROOT = Path(__file__).resolve().parent.parent.parent
ISSUE = "int f(int a, struct {long x, y;} b, __int128 c)"
# C.10 leaves x3 empty, C.13 x7, C.14 eight bytes of stack.
HOLES = "struct {long r[3];} f(int a, struct {long x, y;} b, __int128 c, struct {u8 n[3];} d, struct {long z[2];} e, s8 g, __int128 h)"
HOLES_ARM64 = """\
struct {long r[3];} f(int a, struct {long x; long y;} b, __int128 c, struct {u8 n[3];} d, struct {long z[2];} e, s8 g, __int128 h)
arm64: AAPCS64 2025Q4. Places as the callee finds them at entry.

  argument  type                      size  align  place         rule
  a         int                          4      4  x0            C.9
  b         struct {long x; long y;}    16      8  x1, x2        C.12
  c         __int128                    16     16  x4, x5        C.11
  d         struct {u8 n[3];}            3      1  x6            C.12
  e         struct {long z[2];}         16      8  [sp+0]        C.14
  g         s8                           1      1  [sp+16]       C.14
  h         __int128                    16     16  [sp+32]       C.14
  result    struct {long r[3];}         24      8  memory at x8  result
  stack     48 bytes

Each row is a register or 8 bytes of stack, its lowest byte to the right; numbers are bytes of the argument, its padding among them; `.` is nothing of it, and unspecified.
  registers
  x8         | 7  6  5  4  3  2  1  0| address for the result
  x0         | .  .  .  .  3  2  1  0| a
  x1         | 7  6  5  4  3  2  1  0| b, bytes 0 to 7 of 16
  x2         |15 14 13 12 11 10  9  8| b, bytes 8 to 15 of 16
  x3         | .  .  .  .  .  .  .  .| stays empty
  x4         | 7  6  5  4  3  2  1  0| c, bytes 0 to 7 of 16
  x5         |15 14 13 12 11 10  9  8| c, bytes 8 to 15 of 16
  x6         | .  .  .  .  .  2  1  0| d
  stack; sp+0 is a multiple of 16
  [sp+0]     | 7  6  5  4  3  2  1  0| e, bytes 0 to 7 of 16
  [sp+8]     |15 14 13 12 11 10  9  8| e, bytes 8 to 15 of 16
  [sp+16]    | .  .  .  .  .  .  .  0| g
  [sp+24]    | .  .  .  .  .  .  .  .| 8 bytes stay empty
  [sp+32]    | 7  6  5  4  3  2  1  0| h, bytes 0 to 7 of 16
  [sp+40]    |15 14 13 12 11 10  9  8| h, bytes 8 to 15 of 16

before the first argument
  A.1     NGRN = 0
  A.2     NSRN = 0
  A.4     NSAA = sp+0
a: int, 4 bytes aligned to 4
  C.9     NGRN 0 + 1 <= 8: x0; NGRN 0 -> 1
b: struct {long x; long y;}, 16 bytes aligned to 8
  B.6     natural alignment 8: the copy is aligned to 8
  C.12    NGRN 1 + 2 <= 8: x1, x2; NGRN 1 -> 3
c: __int128, 16 bytes aligned to 16
  B.6     natural alignment 16: the copy is aligned to 16
  C.10    alignment 16: NGRN 3 -> 4: x3 stays empty
  C.11    NGRN 4 + 2 <= 8: x4, x5; NGRN 4 -> 6
d: struct {u8 n[3];}, 3 bytes aligned to 1
  B.5     size rounded up: 3 -> 8
  B.6     natural alignment 1: the copy is aligned to 8
  C.12    NGRN 6 + 1 <= 8: x6; NGRN 6 -> 7
e: struct {long z[2];}, 16 bytes aligned to 8
  B.6     natural alignment 8: the copy is aligned to 8
  C.13    2 registers are not left: NGRN 7 -> 8; x7 stays empty
  C.14    NSAA a multiple of 8: sp+0 -> sp+0
  C.15    copied to [sp+0]; NSAA sp+0 -> sp+16
g: s8, 1 byte aligned to 1
  C.14    NSAA a multiple of 8: sp+16 -> sp+16
  C.16    size 1 -> 8
  C.17    copied to [sp+16]; NSAA sp+16 -> sp+24
h: __int128, 16 bytes aligned to 16
  B.6     natural alignment 16: the copy is aligned to 16
  C.10    alignment 16: NGRN 8 -> 8
  C.14    NSAA a multiple of 16: sp+24 -> sp+32: 8 bytes stay empty
  C.17    copied to [sp+32]; NSAA sp+32 -> sp+48
result: struct {long r[3];}, 24 bytes aligned to 8
  B.4     24 bytes, more than 16: copied to memory, its address is passed
  result  the caller gives the address of memory for it in x8, which the callee need not keep"""


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(arguments)
    streams = capsys.readouterr()
    return status, streams.out + streams.err


def test_text() -> None:
    assert "\n".join(text_lines(view_of(parse_proto(HOLES), "arm64"))) == HOLES_ARM64


def test_text_on_x86_64() -> None:
    text = "\n".join(text_lines(view_of(parse_proto(HOLES), "x86_64")))
    # rdi has the result's address; c takes r8 and r9; e goes to the stack, and nothing later fits a register.
    for line in (
        "  c         __int128                    16     16  r8, r9                        passing 2",
        "  d         struct {u8 n[3];}            3      1  [rsp+8]                       passing, no registers",
        "  h         __int128                    16     16  [rsp+40]                      passing, no registers",
        "  result    struct {long r[3];}         24      8  memory at rdi, rax at return  returning 2",
        "  stack     48 bytes",
        "  rdi        | 7  6  5  4  3  2  1  0| address for the result",
        "  stack; rsp+8 is a multiple of 16",
        "  [rsp+0]    | .  .  .  .  .  .  .  .| return address",
        "  [rsp+8]    | .  .  .  .  .  2  1  0| d",
    ):
        assert line in text.splitlines()


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, ISSUE, "--arch", "arm64", "--json")
    data = json.loads(text)
    assert (status, data["arch"], data["stack"]) == (0, "arm64", 0)
    keys = ("name", "type", "size", "align", "where", "rule")
    assert [{key: arg[key] for key in keys} for arg in data["args"]] == [
        {"name": "a", "type": "int", "size": 4, "align": 4, "where": ["x0"], "rule": "C.9"},
        {
            "name": "b",
            "type": "struct {long x; long y;}",
            "size": 16,
            "align": 8,
            "where": ["x1", "x2"],
            "rule": "C.12",
        },
        {"name": "c", "type": "__int128", "size": 16, "align": 16, "where": ["x4", "x5"], "rule": "C.11"},
    ]
    assert [(result["where"], result["rule"], result["by_reference"]) for result in data["result"]] == [
        (["x0"], "C.9", False)
    ]
    assert data["args"][1]["pieces"] == [{"at": 0, "size": 8, "where": "x1"}, {"at": 8, "size": 8, "where": "x2"}]
    assert [step["rule"] for step in data["args"][2]["rules"]] == ["B.6", "C.10", "C.11"]


def test_json_of_stacked_arguments_and_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    stacked = "void f(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h, u64 i, __int128 j, ..., double)"
    on_arm64, on_x86_64 = json.loads(run(capsys, stacked, "--json")[1])
    assert [arg["where"] for arg in on_arm64["args"][8:]] == [["[sp+0]"], ["[sp+16]"], ["v0"]]
    assert [arg["where"] for arg in on_x86_64["args"][8:]] == [["[rsp+24]"], ["[rsp+40]"], ["xmm0"]]
    assert [(data["stack"], data["result"], data.get("al")) for data in (on_arm64, on_x86_64)] == [
        (32, [], None),
        (48, [], 1),
    ]
    assert on_arm64["args"][9]["rule"] == "C.14"


def test_a_long_argument_is_cut_short_in_the_picture() -> None:
    shown = picture(view_of(parse_proto("void f(struct {long x[100];} b, int (*g)(void))"), "x86_64"))
    rows = [(row.place, row.note) for row in shown.stack]
    assert rows[0] == ("[rsp+0]", "return address")
    assert rows[7:] == [
        ("[rsp+56]", "b, bytes 48 to 55 of 800"),
        ("...", "b, 736 more bytes"),
        ("[rsp+800]", "b, bytes 792 to 799 of 800"),
    ]
    assert [(row.place, row.cells, row.note) for row in shown.registers] == [("rdi", tuple(range(8)), "g")]


@pytest.mark.parametrize(("size", "rows"), [(17, 3), (56, 7), (64, 8), (65, 9), (72, 9), (1 << 39, 9)])
def test_how_many_rows_an_argument_has(size: int, rows: int) -> None:
    """At most eight, and one for what is left out; arrays of nothing take no time, however long."""
    shown = picture(view_of(parse_proto(f"void f(struct {{char c[{size}]; struct {{}} e[1 << 39];}} s)"), "x86_64"))
    assert len(shown.stack) == 1 + rows
    first = (size - 1) // 8 * 8
    part = f"byte {first}" if size % 8 == 1 else f"bytes {first} to {size - 1}"
    assert shown.stack[-1].note == f"s, {part} of {size}"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["u64 f(u63 a)"], "column 7: expected a type (void, u8 to u64, int, long, bool, struct NAME, ...), found 'u63'\n  u64 f(u63 a)\n        ^"),
        (["struct s {int a;};\nint f(struct s)\nx"], "line 3, column 1: expected the end, found 'x'\n  x\n  ^"),
        (["int f(struct unknown a)"], "a: the members of struct unknown are not given, so it has no size here"),
        (["int f(int a)", "--svg", "x"], "--svg needs --arch"),
        (["int f(int a)", "--svg", "/nowhere/x.svg", "--arch", "arm64"], "the picture cannot be written"),
    ],
)  # fmt: skip
def test_refusals(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, shown = run(capsys, *arguments)
    assert status == 2
    assert shown.startswith(f"callconv: abi: {text}")


def test_the_command_line_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["int f(void)", "--arch", "riscv64"])
    assert caught.value.code == 2
    assert "invalid choice: 'riscv64'" in capsys.readouterr().err


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("int\nf(void);\n"))
    status, text = run(capsys, "-", "--arch", "arm64")
    assert (status, "no argument is passed" in text) == (0, True)


def test_it_is_a_command_of_callconv(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["abi", ISSUE, "--arch", "arm64"]) == 0
    assert "C.12" in capsys.readouterr().out


def test_it_starts_without_what_it_does_not_need() -> None:
    heavy = ("yaml", "unicorn", "capstone", "rich", "jinja2", "harness.cli", "verifier")
    code = f"import sys; from harness.entry import main; main(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, "abi", ISSUE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_svg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.svg"
    assert run(capsys, HOLES, "--arch", "arm64", "--svg", str(path))[0] == 0
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    name = "{http://www.w3.org/2000/svg}"
    boxes = [box for box in root.iter(f"{name}rect") if box.get("class", "").startswith("box")]
    texts = [text.text for text in root.iter(f"{name}text")]
    assert len(boxes) == 8 * (8 + 6)  # x8, x0 to x6, six eightbytes of stack
    assert sum(box.get("class") == "box none" for box in boxes) == 4 + 8 + 5 + 7 + 8  # a, x3, d, g, the hole of C.14
    assert {"x8", "x6", "[sp+40]", "stays empty", "8 bytes stay empty"} <= set(texts)
    right = max(int(box.get("x", 0)) + int(box.get("width", 0)) for box in boxes)
    assert right < int(root.get("width", 0))


def test_svg_of_wide_registers_and_of_nothing() -> None:
    wide = svg(
        view_of(
            parse_proto("void f(float a __attribute__((vector_size(64))), float b __attribute__((vector_size(16))))"),
            "x86_64",
        )
    )
    assert ">63 ... 0<" in wide
    assert ">15<" in wide
    assert '<rect class="box' not in svg(view_of(parse_proto("void f(void)"), "arm64"))


def test_the_architectures_are_those_that_have_a_layout() -> None:
    assert tuple(abis.ARCHES) == abi_command.ARCHES
