"""Ours beside Linux's: a Linux that answers what our own compiler makes, changed in one thing."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from backends.base import Died, Job, Loaded, Refused
from backends.calls import Body
from backends.image import Image
from backends.linux.backend import Accepted, Reply
from backends.native import addresses_of
from backends.x86_64.jit import X8664Jit
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


def accepted(case: Case) -> Accepted:
    verdict = Verifier().verify(case.assembled.prog)
    assert isinstance(verdict, Verdict)
    image = X8664Jit().compile(verdict.verified, addresses_of(Job(case.assembled.prog, None, b"", ())))
    xlated = b"".join(insn.to_bytes() for insn in verdict.verified.prog.insns)
    return Accepted(Loaded(LOG, 2, (0,), xlated, 0, 7, b""), image)


def parts(case: Case, reply: Reply) -> dict[str, Part]:
    return {part.name: part for part in compare(case, Linux(reply), X8664Jit())}


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
