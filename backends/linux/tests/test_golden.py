"""What a record keeps of a reply, and what changes it; test_record.py has the round trips and damaged files."""

from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import Died, Job, Loaded, Refused, Unsupported
from backends.calls import Body
from backends.image import Image, Symbol
from backends.linux import golden
from backends.linux.backend import Accepted
from backends.linux.golden import Golden, GoldenError, digest, to_record, to_reply, words_of
from harness.isa.asm import Source, assemble
from harness.isa.proto import parse_proto
from harness.isa.verified import Verified

PROG = assemble([Source("main", "call bpf_get_prandom_u32\ncall f\nexit"), Source("f", "r0 = 7\nexit")], []).prog
JOB = Job(PROG, None, b"\1\0", (), case="c.yaml::x")
# Two functions on multiples of 16; bytes between them are of no function.
CODE = bytes.fromhex("f30f1efa e800000000 c3").ljust(16, b"\xcc") + bytes.fromhex("b807000000c3")
IMAGE = Image(
    "x86_64",
    0x4000_0000,
    CODE,
    (Symbol("main", 0, 10, 0), Symbol("f", 16, 6, 1)),
    (4, 4, 9, 16, 21),
    True,
    Verified(PROG, (), (0, 1, 2, 3, 4)),
    frozenset({0}),
    True,
)
ACCEPTED = Accepted(Loaded("", 5, (0, 8), b"", 0, 7, b"\1\0"), IMAGE)


def test_what_is_kept_of_an_accepted_program() -> None:
    row = to_record(JOB, ACCEPTED)
    assert row is not None
    assert len(row.pop("prog")) == 16
    assert row == {
        "retval": 7, "processed": 5, "depths": [0, 8], "memory": "0100",
        "funcs": [[0, 0, "f30f1efae800000000c3"], [1, 16, "b807000000c3"]],
        "insns": [4, 4, 9, 16, 21], "inlined": [0], "kernel_data": True, "landing_pads": True,
    }  # fmt: skip
    assert to_reply("x86_64", JOB, row) == ACCEPTED


def test_a_run_that_failed_comes_back() -> None:
    failed = replace(ACCEPTED, loaded=replace(ACCEPTED.loaded, run_errno=22, retval=None, memory=b""))
    row = to_record(JOB, failed)
    assert row is not None
    assert (row["run_errno"], row["retval"], "memory" in row) == (22, None, False)
    assert to_reply("x86_64", JOB, row) == failed


def test_what_is_kept_of_a_refusal() -> None:
    log = "func#0 @0\n0: (b7) r0 = 1\n1: (85) call pc+1\ncaller:\nwhy\nprocessed 2 insns (limit 1000000)\n"
    row = to_record(JOB, Refused("why", 13, 1, log, 2))
    assert row is not None
    assert len(row.pop("prog")) == 16
    assert row == {"errno": 13, "insn": 1, "log": ["1: (85) call pc+1", "caller:", "why"], "processed": 2}
    assert to_reply("x86_64", JOB, row) == Refused("why", 13, 1, "1: (85) call pc+1\ncaller:\nwhy", 2)


def test_a_refusal_without_words_comes_back() -> None:
    row = to_record(JOB, Refused("", 7, None, "", 0))
    assert row is not None
    assert to_reply("x86_64", JOB, row) == Refused("", 7, None, "", 0)


def test_what_is_kept_of_a_death() -> None:
    row = to_record(JOB, Died("the guest crashed; QEMU's status is 0; its last words:\nOops"))
    assert row is not None
    assert row["died"] == "the guest crashed"


WORDS = {
    "nothing": ("", []),
    "no insn": ("R11 is invalid\nprocessed 0 insns (limit 1000000)\n", ["R11 is invalid"]),
    "7.3": (
        "0: (95) exit\nR0 !read_ok\n\nVerification failed: a: b\nReason:\n  c\nprocessed 1 insns (limit 1000000)\n",
        ["0: (95) exit", "R0 !read_ok"],
    ),
    "many lines": (
        "0: (95) exit\n" + "".join(f"line {n}\n" for n in range(1, 10)),
        [f"line {n}" for n in range(2, 10)],
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_the_end_of_a_log(name: str) -> None:
    log, words = WORDS[name]
    assert words_of(log) == words


def typed(proto: str) -> Job:
    sources = [Source("main", "r0 = 0\nexit"), Source("f", "r0 = 0\nexit", parse_proto(proto))]
    return Job(assemble(sources, []).prog, None, b"", ())


def kfunc(proto: str, returns: int | str) -> Job:
    return replace(JOB, bodies=(Body(parse_proto(proto), returns),))


CHANGES = {
    "a type": (typed("u64 f(u32 a)"), typed("u64 f(u64 a)")),
    "static, global": (typed("u64 f(u32 a)"), typed("global u64 f(u32 a)")),
    "a kfunc's type": (kfunc("u64 kf(u64 a)", "sum"), kfunc("u32 kf(u64 a)", "sum")),
    "what a kfunc returns": (kfunc("u64 kf(u64 a)", "sum"), kfunc("u64 kf(u64 a)", 7)),
    "length of the context": (JOB, replace(JOB, ctx=b"\1\0\0")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_another_program(name: str) -> None:
    one, other = CHANGES[name]
    assert digest(one) == digest(one)
    assert digest(one) != digest(other)


def test_a_context_argument_makes_another_program() -> None:
    one, other = "global int f(struct c *p)", "global int f(struct c *p __arg_ctx)"
    assert digest(typed(one)) != digest(typed(other))


def test_what_does_not_matter_to_a_kernel() -> None:
    assert digest(JOB) == digest(replace(JOB, case="d.yaml::y", verbose=True, detail=True))


def test_no_record_has_no_release(tmp_path: Path) -> None:
    assert Golden("arm64", tmp_path / "arm64.json").release is None


def test_where_records_are() -> None:
    for arch in ("x86_64", "arm64"):
        data = golden.read(golden.path_of(arch))
        assert (data["arch"], data["schema"]) == (arch, 1)


def test_an_update_replaces_a_row_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x86_64.json"
    rows = {f"c::{name}": to_record(JOB, Refused("why", 13, 0, "why", 1)) for name in "ab"}
    golden.write(path, {"arch": "x86_64", "release": "7.2.13"}, rows)
    before = path.read_text(encoding="utf-8").splitlines()
    golden.write(path, {"arch": "x86_64", "release": "7.2.13"}, {**rows, "c::b": to_record(JOB, Died("it hangs"))})
    after = path.read_text(encoding="utf-8").splitlines()
    assert [number for number, (old, new) in enumerate(zip(before, after, strict=True)) if old != new] == [
        next(number for number, line in enumerate(before) if line.startswith('"c::b"'))
    ]


DAMAGED = {
    "no release": '{"schema": 1, "cases": {}}',
    "no cases": '{"schema": 1, "release": "7.2"}',
    "a row of nothing": '{"schema": 1, "release": "7.2", "cases": {"c.yaml::x": {}}}',
    "native code is no hex": None,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_record(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x86_64.json"
    row = to_record(JOB, ACCEPTED)
    assert row is not None
    if DAMAGED[name] is None:
        golden.write(path, {"release": "7.2"}, {JOB.case: row | {"funcs": [[0, 0, "zz"]]}})
    else:
        path.write_text(str(DAMAGED[name]), encoding="utf-8")
    source = Golden("x86_64", path)
    with pytest.raises(GoldenError, match=r"x86_64\.json"):
        assert isinstance(source.reply(JOB), Unsupported)
