"""Ours beside Linux's: a Linux that answers what our own compiler makes, changed in one thing."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from backends.arm64.jit import Arm64Jit, Options
from backends.base import Died, Job, Loaded, Refused, Unsupported
from backends.calls import Body
from backends.image import Compiler, Image
from backends.linux.backend import Accepted, Reply
from backends.linux.golden import to_record, to_reply
from backends.native import addresses_of
from backends.x86_64.jit import X8664Jit
from harness import cli
from harness.case import Case, load_file
from harness.compare import Part, compare
from verifier.verdict import Accepted as Verdict
from verifier.verify import Verifier

CASE = """
- case: {name}
  about: x
  spec: x
  prog: {{main: "{text}"}}
  expect: {expect}
"""
LOG = "0: R1=ctx() R10=fp0\n0: (b7) r0 = 7                        ; R0=7\n1: (95) exit\nprocessed 2 insns (limit 1000000)\n"


@dataclass
class Linux:
    reply_: Reply
    release = "7.2.13"

    def announce(self, bodies: Iterable[Body]) -> None: ...

    def close(self) -> None: ...

    def reply(self, job: Job) -> Reply:
        return self.reply_


def case_of(tmp_path: Path, text: str = "r0 = 7\\nexit", expect: str = "{verdict: accept}") -> Case:
    path = tmp_path / "c.yaml"
    path.write_text(CASE.format(name="x", text=text, expect=expect), encoding="utf-8")
    return load_file(path).cases[0]


def accepted(case: Case, compiler: Compiler | None = None) -> Accepted:
    verdict = Verifier().verify(case.assembled.prog)
    assert isinstance(verdict, Verdict)
    image = (compiler or X8664Jit()).compile(verdict.verified, addresses_of(Job(case.assembled.prog, None, b"", ())))
    xlated = b"".join(insn.to_bytes() for insn in verdict.verified.prog.insns)
    return Accepted(Loaded(LOG, 2, (0,), xlated, 0, 7, b""), image)


def parts(case: Case, reply: Reply, compiler: Compiler | None = None) -> dict[str, Part]:
    return {part.name: part for part in compare(case, Linux(reply), compiler or X8664Jit())}


def test_the_same(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    found = parts(case, accepted(case))
    assert list(found) == ["verdict", "log", "rewritten insns", "native code of main", "results"]
    assert [name for name, part in found.items() if not part.same] == []


def test_one_thing_differs(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    same = accepted(case)
    other_insns = bytes.fromhex("b700000008000000 9500000000000000")
    changed: dict[str, Accepted] = {
        "verdict": replace(same, loaded=replace(same.loaded, processed_insns=3)),
        "log": replace(same, loaded=replace(same.loaded, log=LOG.replace("r0 = 7 ", "r0 = 8 "))),
        "rewritten insns": replace(same, loaded=replace(same.loaded, xlated=other_insns)),
        "native code of main": replace(same, image=_with_other_code(same.image)),
        "results": replace(same, loaded=replace(same.loaded, retval=8)),
    }
    for name, reply in changed.items():
        assert [part.name for part in parts(case, reply).values() if not part.same] == [name]


def _with_other_code(image: Image) -> Image:
    at = image.code.index(bytes.fromhex("b807000000"))  # mov eax, 7
    return replace(image, code=image.code[: at + 1] + b"\x08" + image.code[at + 2 :])


def test_a_refusal(tmp_path: Path) -> None:
    case = case_of(tmp_path, "r1 = 7\\nexit", "{verdict: reject, rule: reg-readable}")
    log = "0: (b7) r1 = 7   ; R1=7\n1: (95) exit\nR0 !read_ok\nprocessed 2 insns (limit 1000000)\n"
    found = parts(case, Refused("R0 !read_ok", 13, 1, log, 2))
    assert {name: part.same for name, part in found.items()} == {"verdict": True, "log": True}
    found = parts(case, Refused("R0 !read_ok", 22, 1, log, 2))
    assert found["verdict"].lines == (
        "ours   reject: R0 !read_ok (errno 13, main 1)",
        "Linux  reject: R0 !read_ok (errno 22, main 1)",
    )


def test_no_answer(tmp_path: Path) -> None:
    (part,) = parts(case_of(tmp_path), Died("the guest crashed")).values()
    assert (part.same, part.lines[1]) == (False, "Linux  the guest crashed")


def test_no_kernel(tmp_path: Path) -> None:
    (part,) = parts(case_of(tmp_path), Unsupported("no kernel image")).values()
    assert part == Part("verdict", False, ("ours   accept; processed 2 insns; stack depth 0", "Linux  no kernel image"))


def test_linux_refuses_what_we_accept(tmp_path: Path) -> None:
    log = "0: (b7) r0 = 7\nwhy\nprocessed 1 insns (limit 1000000)\n"
    found = parts(case_of(tmp_path), Refused("why", 22, 0, log, 1))
    assert list(found) == ["verdict", "log"]
    assert found["verdict"].lines == (
        "ours   accept; processed 2 insns; stack depth 0",
        "Linux  reject: why (errno 22, main 0)",
    )
    assert found["log"].lines == ("line 2 of the walk differs first", "ours   1: (95) exit", "Linux  why")


def test_linux_accepts_what_we_refuse(tmp_path: Path) -> None:
    case = case_of(tmp_path, "r1 = 7\\nexit", "{verdict: reject, rule: reg-readable}")
    found = parts(case, accepted(case_of(tmp_path)))
    assert [name for name, part in found.items() if not part.same] == ["verdict", "log"]
    assert list(found) == ["verdict", "log"]


def test_a_refusal_at_another_insn(tmp_path: Path) -> None:
    """An insn that one side does not name is no difference."""
    case = case_of(tmp_path, "r1 = 7\\nexit", "{verdict: reject, rule: reg-readable}")
    log = "0: (b7) r1 = 7\n1: (95) exit\nR0 !read_ok\n"
    same = [parts(case, Refused("R0 !read_ok", 13, at, log, 2))["verdict"].same for at in (1, 0, None)]
    assert same == [True, False, True]


def test_a_log_is_compared_by_its_walk(tmp_path: Path) -> None:
    """State, statistics and what stands between the insns do not matter; which insns there are, and their order, do."""
    case = case_of(tmp_path)
    same = accepted(case)
    logs = {
        "func#0 @0\n0: (b7) r0 = 7 ; R0=scalar()\nfrom 0 to 1: safe\n1: (95) exit\nprocessed 9 insns\n": (),
        "0: (b7) r0 = 7\n": ("line 2 of the walk differs first", "ours   1: (95) exit", "Linux  nothing more"),
        "0: (b7) r0 = 7\n1: (95) exit\n1: (95) exit\n": (
            "line 3 of the walk differs first",
            "ours   nothing more",
            "Linux  1: (95) exit",
        ),
    }
    for log, lines in logs.items():
        part = parts(case, replace(same, loaded=replace(same.loaded, log=log)))["log"]
        assert part.lines == (lines or ("a walk of 2 lines",))


def test_which_native_insn_differs(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    same = accepted(case)
    part = parts(case, replace(same, image=_with_other_code(same.image)))["native code of main"]
    assert [line for line in part.lines[2:] if line[0] in "+-"] == ["-mov eax, 7", "+mov eax, 8"]
    assert part.lines[:2] == ("--- ours", "+++ Linux")


def test_which_rewritten_insn_differs(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    same = accepted(case)
    other = bytes.fromhex("b700000008000000 9500000000000000")
    part = parts(case, replace(same, loaded=replace(same.loaded, xlated=other)))["rewritten insns"]
    assert part.lines[-3:] == ("-(b7) r0 = 7", "+(b7) r0 = 8", " (95) exit")


def test_targets_of_calls_are_no_difference_in_rewritten_insns(tmp_path: Path) -> None:
    """Linux keeps a helper's address in imm, and what it needs of a call in off."""
    case = case_of(tmp_path, "call bpf_get_prandom_u32\\nr0 = 7\\nexit")
    same = accepted(case)
    xlated = bytes.fromhex("85000500e0d10300 b700000007000000 9500000000000000")
    assert parts(case, replace(same, loaded=replace(same.loaded, xlated=xlated)))["rewritten insns"].same


def test_results(tmp_path: Path) -> None:
    """The low half of R0, and the context afterwards."""
    case = case_of(tmp_path, "r0 = 0x500000007 ll\\nexit")
    same = accepted(case)
    found = [
        parts(case, replace(same, loaded=replace(same.loaded, retval=retval, memory=memory)))["results"]
        for retval, memory in ((7, b""), (8, b""), (None, b""), (7, b"\1\2"))
    ]
    assert [(part.same, part.lines[-1]) for part in found] == [
        (True, "retval 0x7 (32 bits)"),
        (False, "Linux  retval 0x8 (32 bits)"),
        (False, "Linux  retval nothing (32 bits)"),
        (False, "Linux  retval 0x7 (32 bits), memory 01 02"),
    ]


ARM = Arm64Jit(Options(bti=False))
STUB = bytes.fromhex("4a000058 40011fd6")  # ldr x10, .+8; br x10: Linux arch/arm64/net/bpf_jit_comp.c, build_plt()
NOP = bytes.fromhex("1f2003d5")


def with_tail(image: Image, tail: bytes) -> Image:
    """More bytes behind the only function."""
    (symbol,) = image.symbols
    code = image.code[: symbol.size] + tail
    return replace(image, code=code, symbols=(replace(symbol, size=len(code)),))


@pytest.mark.parametrize(
    ("tail", "same"),
    [(b"", True), (STUB, True), (NOP + STUB, True), (NOP, False), (STUB + NOP, False), (STUB[:4], False)],
)
def test_what_linux_puts_behind_a_function_on_arm64(tail: bytes, same: bool, tmp_path: Path) -> None:
    case = case_of(tmp_path)
    reply = accepted(case, ARM)
    found = parts(case, replace(reply, image=with_tail(reply.image, tail)), ARM)
    assert [name for name, part in found.items() if not part.same] == ([] if same else ["native code of main"])


def test_a_stub_is_code_on_x86_64(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    reply = accepted(case)
    assert not parts(case, replace(reply, image=with_tail(reply.image, STUB)))["native code of main"].same


def recorded(case: Case, reply: Reply) -> Reply:
    """What a record gives back of a reply."""
    job = Job(case.assembled.prog, None, case.ctx, case.kfuncs, case=case.id)
    row = to_record(job, reply)
    assert row is not None
    return to_reply("x86_64", job, row)


def test_native_code_and_results_on_record(tmp_path: Path) -> None:
    """A record has no rewritten insns."""
    case = case_of(tmp_path)
    found = parts(case, recorded(case, accepted(case)))
    assert [name for name in found if name != "log"] == ["verdict", "native code of main", "results"]
    assert all(part.same for name, part in found.items() if name != "log")


@pytest.mark.parametrize("refused", [False, True])
def test_a_record_without_a_difference_is_the_same(refused: bool, tmp_path: Path) -> None:
    if refused:
        case = case_of(tmp_path, "r1 = 7\\nexit", "{verdict: reject, rule: reg-readable}")
        log = "0: (b7) r1 = 7   ; R1=7\n1: (95) exit\nR0 !read_ok\nprocessed 2 insns (limit 1000000)\n"
        reply: Reply = Refused("R0 !read_ok", 13, 1, log, 2)
    else:
        case = case_of(tmp_path)
        reply = accepted(case)
    assert [name for name, part in parts(case, reply).items() if not part.same] == []
    assert [name for name, part in parts(case, recorded(case, reply)).items() if not part.same] == []


def test_trampolines_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "--golden", "cases/trampoline/programs.yaml"]) == 0
    out = capsys.readouterr().out
    assert "cases/trampoline/programs.yaml::latest_first (arm64, Linux 7.2" in out
    assert "  trampoline: same (made or refused alike)" in out
    assert "DIFFERS" not in out
