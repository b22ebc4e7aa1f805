"""What a tail call reads, against numbers typed from the sequences of the lowerings."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from backends.base import Job, Loaded, Refused, Unsupported
from backends.calls import Body
from backends.image import Tail
from backends.linux.backend import Accepted, LinuxBackend, Reply
from backends.linux.differs import Differences
from backends.native import native_code
from harness import cli
from harness.tail_stats import FORMS, OUTCOMES, cell, compiler_of, job_of, row_of, rows
from harness.tail_sweep import form_of

DIRECT, ONE, SEVERAL = FORMS
# (max_entries, slot, cache, program, reads of the count, writes of the count)
Counts = tuple[int, int, int, int, int, int]

# TC-82: pointer, compare; then the count is raised, and two pops. TC-84: a closed bypass leaves before.
X86_DIRECT: dict[str, Counts] = {
    "made": (0, 0, 0, 0, 5, 1),
    "empty slot": (0, 0, 0, 0, 2, 0),
    "at the limit": (0, 0, 0, 0, 2, 0),
}
# TC-76, BASE and SERIES dynamic: max_entries, pointer, compare, slot, raised, two pops, bpf_func.
X86_READS: dict[str, Counts] = {
    "made": (1, 1, 0, 1, 5, 1),
    "out of range": (1, 0, 0, 0, 0, 0),
    "empty slot": (1, 1, 0, 0, 2, 0),
    "at the limit": (1, 0, 0, 0, 2, 0),
}
# TC-76, SERIES static: the limit is an immediate, the slot of the second half is where to go.
X86_CACHED: dict[str, Counts] = {
    "made": (0, 0, 1, 0, 5, 1),
    "out of range": (0, 0, 0, 0, 0, 0),
    "empty slot": (0, 0, 1, 0, 2, 0),
    "at the limit": (0, 0, 0, 0, 2, 0),
}
# TC-93, BASE and SERIES dynamic: max_entries, the count, the slot, the count written, bpf_func.
ARM64_READS: dict[str, Counts] = {
    "made": (1, 1, 0, 1, 1, 1),
    "out of range": (1, 0, 0, 0, 0, 0),
    "empty slot": (1, 1, 0, 0, 1, 0),
    "at the limit": (1, 0, 0, 0, 1, 0),
}
# TC-94.
ARM64_CACHED: dict[str, Counts] = {
    "made": (0, 0, 1, 0, 1, 1),
    "out of range": (0, 0, 0, 0, 0, 0),
    "empty slot": (0, 0, 1, 0, 1, 0),
    "at the limit": (0, 0, 0, 0, 1, 0),
}
EXPECTED: dict[tuple[str, Tail, str], dict[str, Counts]] = {
    **{("x86_64", tail, DIRECT): X86_DIRECT for tail in Tail},
    ("x86_64", Tail.BASE, ONE): X86_READS,
    ("x86_64", Tail.BASE, SEVERAL): X86_READS,
    ("x86_64", Tail.STATIC, ONE): X86_CACHED,
    ("x86_64", Tail.STATIC, SEVERAL): X86_READS,
    ("x86_64", Tail.DYNAMIC, ONE): X86_READS,
    ("x86_64", Tail.DYNAMIC, SEVERAL): X86_READS,
    ("arm64", Tail.BASE, ONE): ARM64_READS,
    ("arm64", Tail.BASE, SEVERAL): ARM64_READS,
    ("arm64", Tail.STATIC, ONE): ARM64_CACHED,
    ("arm64", Tail.STATIC, SEVERAL): ARM64_READS,
    ("arm64", Tail.DYNAMIC, ONE): ARM64_READS,
    ("arm64", Tail.DYNAMIC, SEVERAL): ARM64_READS,
    # TC-52: no direct form there.
    ("arm64", Tail.BASE, DIRECT): ARM64_READS,
    ("arm64", Tail.STATIC, DIRECT): ARM64_CACHED,
    ("arm64", Tail.DYNAMIC, DIRECT): ARM64_READS,
}


@pytest.mark.parametrize(("arch", "tail", "form"), EXPECTED, ids=lambda value: getattr(value, "value", value))
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_reads(arch: str, tail: Tail, form: str, outcome: str) -> None:
    if (form, outcome) == (DIRECT, "out of range"):
        return  # a known key is in range
    row = row_of(arch, tail, form, outcome)
    counts = (row.max_entries, row.slot, row.cache, row.program, row.count_reads, row.count_writes)
    assert counts == EXPECTED[arch, tail, form][outcome]


def test_every_line_is_expected() -> None:
    found = {(row.arch, Tail(row.lowering), row.form) for row in rows()}
    assert found == set(EXPECTED)


@pytest.mark.parametrize(
    ("form", "known"), [(DIRECT, "direct"), (ONE, "of one map"), (SEVERAL, "of several maps")], ids=lambda value: value
)
def test_programs_have_the_form_they_stand_for(form: str, known: str) -> None:
    verified = job_of(form, "made").verified
    assert verified is not None
    assert [form_of(site) for site in verified.tail_calls.values()] == [known]


@pytest.mark.parametrize(("outcome", "retval", "calls"), [
    ("made", 42, 1), ("out of range", 7, 0), ("empty slot", 7, 0), ("at the limit", 7, 33),
])  # fmt: skip
def test_outcomes_are_what_they_are_called(outcome: str, retval: int, calls: int) -> None:
    reference = job_of(ONE, outcome).reference
    assert reference is not None
    assert (reference.retval, len(reference.calls)) == (retval, calls)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stats"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["target", "lowering", "form", "made"]
    assert lines[5].split("  ")[0] == "x86_64"
    assert [cell.strip() for cell in lines[5].split("  ") if cell.strip()] == [
        "x86_64", "static", "indirect, one map", "1 + 0 + 5", "0 + 0 + 0", "1 + 0 + 2", "0 + 0 + 2",
    ]  # fmt: skip


def test_the_command_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stats", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data) == 2 * 3 * (3 + 4 + 4)
    assert data[0] == {
        "arch": "x86_64", "lowering": "base", "form": "direct", "outcome": "made",
        "max_entries": 0, "slot": 0, "cache": 0, "program": 0, "count_reads": 5, "count_writes": 1,
    }  # fmt: skip


def test_the_page_has_these_numbers() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "tail-calls.md").read_text(encoding="utf-8")
    lines = [
        line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(("| x86-64 |", "| arm64 |"))
    ]
    shown: dict[tuple[str, Tail, str], list[str]] = {}
    for target, lowerings, form, *cells in lines:
        tails = list(Tail) if lowerings == "all" else [Tail(word) for word in lowerings.split(", ")]
        forms = [ONE, SEVERAL] if form == "indirect" else [form]
        shown |= {(target.replace("-", "_"), tail, one): cells for tail in tails for one in forms}
    found: dict[tuple[str, Tail, str], list[str]] = {}
    for row in rows():
        found.setdefault((row.arch, Tail(row.lowering), row.form), []).append(cell(row))
    for line, cells in shown.items():
        assert [text for text in cells if text != "-"] == found[line], line
    assert len(shown) == 3 + 2 * 2 + 1 + 2 * 2 + 1


class _Kernel:
    """Gives our own JIT's code, or refuses."""

    release = "7.9.1"

    def __init__(self, refusal: Unsupported | Refused | None = None) -> None:
        self.refusal = refusal

    def announce(self, bodies: Iterable[Body]) -> None:
        pass

    def close(self) -> None:
        pass

    def reply(self, job: Job) -> Reply:
        if self.refusal is not None:
            return self.refusal
        assert job.verified is not None
        image = native_code(compiler_of("arm64", Tail.BASE), job.verified, job)
        return Accepted(Loaded("", 0, (), b"", 0, 0, b""), image)


def kernel(refusal: Unsupported | Refused | None = None) -> LinuxBackend:
    return LinuxBackend("linux-arm64", "arm64", _Kernel(refusal), Differences(()))


def test_a_kernels_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "make_backends", lambda names, settings: [kernel()])
    assert cli.main(["stats", "--json", "--backend", "linux-arm64"]) == 0
    data = [row for row in json.loads(capsys.readouterr().out) if row["lowering"] == "Linux 7.9.1"]
    assert len(data) == 3 + 4 + 4
    assert data[3] == {
        "arch": "arm64", "lowering": "Linux 7.9.1", "form": "indirect, one map", "outcome": "made",
        "max_entries": 1, "slot": 1, "cache": 0, "program": 1, "count_reads": 1, "count_writes": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (Unsupported("it is not here"), "linux-arm64: it is not here"),
        (Refused("no such map", 22, None, "", 0), "linux-arm64: no such map"),
    ],
)
def test_a_kernel_that_has_no_code(
    refusal: Unsupported | Refused, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "make_backends", lambda names, settings: [kernel(refusal)])
    assert cli.main(["stats", "--backend", "linux-arm64"]) == 2
    assert said in capsys.readouterr().err


def test_our_own_back_ends_are_no_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stats", "--backend", "jit-arm64"]) == 2
    assert "--backend jit-arm64: it is no kernel" in capsys.readouterr().err
