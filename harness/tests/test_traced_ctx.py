"""Programs that trace a function: what is wrong with such a case is told, and a kernel is asked for a function of its prototype."""

from pathlib import Path

import pytest

from backends.base import Job
from backends.linux.ask import AttachTo, Wish, load_of
from backends.linux.golden import digest
from harness.case import load_file
from harness.tests.catching import case_of

RIGHT = """\
- case: x
  about: It is.
  spec: TR-14
  type: fexit
  func: int f(u64 a, struct {u64 x; u8 y;} b)
  ctx: "0100000000000000 0200000000000000 0300000000000000 0400000000000000"
  prog: {main: "r0 = 0\\nexit"}
  expect: {verdict: accept, retval: 0}
"""

WRONG = {
    ("  type: fexit\n", ""): "c.yaml:4:3: func goes with a type of fentry, fexit, fmod_ret, fsession",
    (
        "  func: int f(u64 a, struct {u64 x; u8 y;} b)\n",
        "",
    ): "c.yaml:4:9: type: fexit needs func, the prototype of what it traces",
    ("type: fexit", "type: fentry"): "c.yaml:6:8: ctx: expected 24 bytes, the words of f's arguments, found 32",
    ("int f(u64 a", "void f(u64 a"): "c.yaml:6:8: ctx: expected 24 bytes",
    ("  ctx: ", "  # "): "ctx: expected 32 bytes, the words of f's arguments and its result, found 0",
    (
        "u8 y;} b",
        "u8 y;} b, float c",
    ): "func: no fexit program traces it: The function f arg2 type FLOAT is unsupported.",
    ("int f(", "__int128 f("): "func: no fexit program traces it: Attach to function f with a >8 byte return value",
    (
        "int f(",
        "struct {int a;} f(",
    ): "func: no fexit program traces it: The function f return type STRUCT is unsupported.",
    ("int f(u64 a", f"int f({', '.join(['u64'] * 11)}"): "its arguments have more than 12 words",
    ("u64 a", "u65 a"): "c.yaml:5:",
    ("  prog:", '  kfuncs: {"u64 k(void)": 1}\n  prog:'): "no kfuncs are there for fexit",
    ("  prog:", "  maps: {p: {type: prog_array, entries: 1}}\n  prog:"): "no prog arrays are there for fexit",
    ("  prog: {main:", "  progs: {a: {main:"): "type goes with prog",
}


@pytest.mark.parametrize("change", WRONG)
def test_what_is_wrong_is_told(change: tuple[str, str], tmp_path: Path) -> None:
    assert change[0] in RIGHT
    path = tmp_path / "c.yaml"
    text = RIGHT.replace(*change)
    path.write_text(text.replace('exit"}', 'exit"}}') if "progs" in change[1] else text, encoding="utf-8")
    loaded = load_file(path, shown="c.yaml")
    assert loaded.cases == ()
    assert any(WRONG[change] in str(error) for error in loaded.errors), [str(error) for error in loaded.errors]


def test_what_a_kernel_is_asked_for() -> None:
    case = case_of("tracing/ctx.yaml::every_word@kind=fmod_ret")
    _, load = load_of(case.assembled.prog, None, 0, Wish(attach=AttachTo(7, 99, "cc_traced_0")), verbose=False)
    assert (load.prog_type, load.attach_type, load.attach_btf) == ("tracing", "fmod_ret", (7, 99))


def test_the_kind_and_the_prototype_are_on_record() -> None:
    """Otherwise alike programs are told apart."""
    names = [f"tracing/ctx.yaml::every_word@kind={kind}" for kind in ("fexit", "fsession")]
    cases = [case_of(name) for name in names]
    jobs = [Job(case.assembled.prog, None, case.ctx, ()) for case in cases]
    assert cases[0].assembled.prog.insns == cases[1].assembled.prog.insns
    assert len({digest(job) for job in jobs}) == 2
