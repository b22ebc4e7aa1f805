"""Replies on record, and stated differences."""

from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import Died, Job, Loaded, Refused, Unsupported
from backends.calls import Body
from backends.image import Image, Symbol
from backends.linux import golden
from backends.linux.backend import Accepted, too_old
from backends.linux.differs import DiffersError, load_differences, version_of
from backends.linux.golden import Golden, GoldenError, to_record, words_of
from harness.isa.asm import Source, assemble
from harness.isa.proto import parse_proto
from harness.isa.verified import Verified

ROOT = Path(__file__).resolve().parents[3]
PROG = assemble([Source("main", "r0 = 7\nexit")], []).prog
JOB = Job(PROG, None, b"\1\2", (), case="c.yaml::x")
IMAGE = Image(
    "x86_64",
    0x4000_0000,
    bytes.fromhex("b807000000c3"),
    (Symbol("main", 0, 6, 0),),
    (0, 5),
    False,
    Verified(PROG, (), (0, 1)),
)
ACCEPTED = Accepted(Loaded("log", 2, (0,), b"", 0, 7, b"\1\2"), IMAGE)
REFUSED = Refused("R0 !read_ok", 13, 0, "0: (95) exit\nR0 !read_ok", 1)


def recorded(tmp_path: Path, *rows: tuple[Job, object]) -> Golden:
    path = tmp_path / "x86_64.json"
    cases = {job.case: to_record(job, reply) for job, reply in rows}  # type: ignore[arg-type]
    golden.write(path, {"arch": "x86_64", "release": "7.2.13-x"}, cases)
    return Golden("x86_64", path)


@pytest.mark.parametrize("reply", [REFUSED, replace(ACCEPTED, loaded=replace(ACCEPTED.loaded, log=""))])
def test_a_reply_comes_back(reply: Accepted | Refused, tmp_path: Path) -> None:
    source = recorded(tmp_path, (JOB, reply))
    assert source.reply(JOB) == reply
    assert source.release == "7.2.13-x"


def test_a_death_comes_back(tmp_path: Path) -> None:
    source = recorded(tmp_path, (JOB, Died("the guest crashed; QEMU's status is 0; its last words:\nOops")))
    assert source.reply(JOB) == Died("the guest crashed (on record)")


def test_what_says_nothing_is_not_recorded() -> None:
    assert to_record(JOB, Unsupported("no kernel")) is None


OTHERS = {
    "program": replace(JOB, prog=assemble([Source("main", "r0 = 8\nexit")], []).prog),
    "context": replace(JOB, ctx=b"\1\3"),
    "kfunc": replace(JOB, bodies=(Body(parse_proto("u64 kf(u64 a)"), "sum"),)),
    "prototype": replace(JOB, prog=assemble([Source("main", "r0 = 7\nexit", parse_proto("int main(void)"))], []).prog),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_record_is_of_one_program(what: str, tmp_path: Path) -> None:
    reply = recorded(tmp_path, (JOB, ACCEPTED)).reply(OTHERS[what])
    assert isinstance(reply, Unsupported)
    assert "is of another program: `callconv golden update`" in reply.reason


def test_no_record(tmp_path: Path) -> None:
    assert isinstance(Golden("x86_64", tmp_path / "none.json").reply(JOB), Unsupported)
    reply = recorded(tmp_path).reply(JOB)
    assert isinstance(reply, Unsupported)
    assert "has no such case" in reply.reason


def test_a_kernel_that_is_too_old(tmp_path: Path) -> None:
    """Linux 7.2.13 on record: newer cases are skipped, whether they are on record or not."""
    source = recorded(tmp_path, (JOB, ACCEPTED))
    asked = {since: source.reply(replace(JOB, since=since)) for since in ("", "7.2", "7.2.13", "7.2.14", "7.4")}
    assert [since for since, reply in asked.items() if isinstance(reply, Unsupported) and reply.told] == [
        "7.2.14",
        "7.4",
    ]
    assert asked["7.4"] == Unsupported("Linux 7.2.13-x is older than 7.4, the first that the case is about", told=True)
    assert too_old(replace(JOB, since="7.4"), "7.10.1") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 9}'])
def test_a_record_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x86_64.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GoldenError, match=r"x86_64\.json"):
        Golden("x86_64", path).reply(JOB)


def test_a_line_per_case(tmp_path: Path) -> None:
    rows = [(replace(JOB, case=f"c::{name}"), REFUSED) for name in "cab"]
    path = recorded(tmp_path, *rows).path
    first = path.read_bytes()
    lines = first.decode().splitlines()
    assert [line[:6] for line in lines if line.startswith('"c::')] == ['"c::a"', '"c::b"', '"c::c"']
    assert recorded(tmp_path, *reversed(rows)).path.read_bytes() == first


def test_the_end_of_a_log() -> None:
    log = "func#0 @0\n0: (b7) r0 = 1\n1: (85) call pc+1\ncaller:\nwhy\nprocessed 2 insns (limit 1000000)\n"
    assert words_of(log) == ["1: (85) call pc+1", "caller:", "why"]


GOOD = {"case": "c.yaml::x", "since": '"7.2"', "got": "crashed", "why": "it does", "right": "suite"}


def differences(tmp_path: Path, **keys: str) -> Path:
    path = tmp_path / "differs.yaml"
    row = {key: value for key, value in {**GOOD, **keys}.items() if value != "-"}
    path.write_text("- " + "\n  ".join(f"{key}: {value}" for key, value in row.items()), encoding="utf-8")
    return path


WRONG = {
    "a key is missing": ({"why": "-"}, "expected the keys"),
    "a key is unknown": ({"wy": "x"}, "expected the keys"),
    "no architecture": ({"arches": "[mips]"}, "arches: expected a list of x86_64, arm64"),
    "no regular expression": ({"got": '"("'}, "got: not a regular expression"),
    "a version as a number": ({"since": "7.2"}, 'since: expected a kernel version in quotes ("7.2"), found 7.2'),
    "no side": ({"right": "me"}, "right: expected suite, linux or both"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_entry_that_cannot_be_used(name: str, tmp_path: Path) -> None:
    keys, message = WRONG[name]
    with pytest.raises(DiffersError, match=r"differs\.yaml: entry 1") as found:
        load_differences(differences(tmp_path, **keys))
    assert message in str(found.value)


def test_which_kernels_an_entry_is_about(tmp_path: Path) -> None:
    found = load_differences(differences(tmp_path, before='"7.3"', arches="[arm64]"))
    asked = [
        ("7.2.0-a", "arm64"),
        ("7.2.13+deb14", "arm64"),
        ("7.1.99", "arm64"),
        ("7.3-rc7", "arm64"),
        ("7.2.1", "x86_64"),
        (None, "arm64"),
    ]
    assert [found.find("c.yaml::x@n=3", arch, release) is not None for release, arch in asked] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert found.find("c.yaml::y", "arm64", "7.2.1") is None


def test_versions() -> None:
    assert version_of("7.2.13+deb14-cloud-amd64") == (7, 2, 13)
    assert version_of("7.3-cloud-arm64") == (7, 3, 0)
    assert version_of("linux") is None


def test_stated_differences_are_about_cases() -> None:
    for entry in load_differences().entries:
        file, _, name = entry.case.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"case: {name.split('@')[0]}\n" in text, entry.case
