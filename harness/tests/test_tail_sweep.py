"""Random graphs of programs that tail call each other: alike on every engine, and a wrong engine is found."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from backends import interp
from backends.arm64 import tailcall as arm64
from backends.arm64.jit import Arm64Jit
from backends.base import Died, Job, Outcome, Ran
from backends.interp import Interpreter
from backends.native import NativeBackend
from backends.x86_64 import encode as x86
from backends.x86_64 import tailcall as x86_64
from backends.x86_64.encode import Gpr
from backends.x86_64.jit import X8664Jit
from harness import cli, tail_sweep
from harness.case import load_file
from harness.plugins import make_backends
from harness.suite import Suite
from harness.tail_graphs import BAD_AT, graph_of
from harness.tail_sweep import ENGINES, case_of, sweep_some
from verifier.verdict import Accepted

SEED, GRAPHS = 20261121, 30


def test_graphs_run_alike_in_every_lowering() -> None:
    swept = sweep_some(SEED, SEED + GRAPHS - 1, make_backends(ENGINES))
    assert swept.wrong == []
    assert (swept.graphs, swept.accepted > GRAPHS * 3 // 4) == (GRAPHS, True)
    assert swept.runs == 7 * swept.accepted
    assert swept.tail_calls == 7 * sum(swept.calls.values())
    assert min(swept.calls[form] for form in tail_sweep.FORMS) > 0


def test_a_seed_is_a_graph() -> None:
    assert graph_of(7) == graph_of(7)
    assert graph_of(7) != graph_of(8)


def test_graphs_have_what_tail_calls_are_made_with() -> None:
    graphs = [graph_of(seed) for seed in range(200)]
    assert {len(graph.programs) for graph in graphs} == {2, 3, 4, 5, 6}
    assert {sum(map_.has_progs for map_ in graph.maps) for graph in graphs} == {1, 2, 3}
    assert {len(sources) for graph in graphs for sources in graph.programs} == {1, 2, 3}
    assert any(graph.during for graph in graphs)
    assert {update.errno for graph in graphs for update in graph.updates} == {0, 2, 7}
    depths = {
        func.stack_depth
        for seed in range(40)
        if isinstance(verdict := Suite().verdict(case_of(seed)), Accepted)
        for func in verdict.verified.funcs
    }
    assert {0, 1, 7, 8, 13} < depths


def test_what_is_kept_is_never_lost() -> None:
    suite = Suite()
    for seed in range(30):
        result = suite.judge(case_of(seed), Interpreter())
        if result.reference is not None:
            assert result.reference.memory[BAD_AT] == 0


class _PopsInPushOrder(x86_64.TailCalls):
    """BS-29: the frame is left with its registers swapped."""

    def unwind(self, saved: Sequence[Gpr], stack_bytes: int) -> bytes:
        return super().unwind(saved[::-1], stack_bytes)


class _LosesR9(x86_64.TailCalls):
    """The last register saved is dropped."""

    def unwind(self, saved: Sequence[Gpr], stack_bytes: int) -> bytes:
        if not saved:
            return super().unwind(saved, stack_bytes)
        return x86.pop_r(Gpr.RAX) + super().unwind(saved[:-1], stack_bytes)


class _TakesCountForPointer(x86_64.TailCalls):
    """BS-28: a count of 33 is taken for a pointer."""

    def pointer_jump(self) -> int:
        return 0x73


class _ForgetsToRound(x86_64.TailCalls):
    """BS-08: the pointer is looked for 8 bytes off where there is a stack."""

    def pointer(self, stack_bytes: int) -> bytes:
        return super().pointer(stack_bytes - 8 if stack_bytes else 0)


class _ChargesEmptySlots(arm64.TailCalls):
    """BS-31: a miss costs one of the tail calls that may be made."""

    def slot(self, max_entries: int, *, cached: bool) -> list[int]:
        return [*self.charge(), *super().slot(max_entries, cached=cached)]


class _NeverCharges(arm64.TailCalls):
    """Nothing is counted."""

    def charge(self) -> list[int]:
        return []


def broken_x86_64(tails: type[x86_64.TailCalls]) -> NativeBackend:
    class Broken(X8664Jit):
        def tail_calls(self) -> x86_64.TailCalls:
            return tails(self.options.tail, self.landing_offset())

    return NativeBackend("broken", Broken())


def broken_arm64(tails: type[arm64.TailCalls]) -> NativeBackend:
    class Broken(Arm64Jit):
        def tails(self) -> arm64.TailCalls:
            return tails(self.landing_offset())

    return NativeBackend("broken", Broken())


@pytest.mark.parametrize(
    ("backend", "check"),
    [
        (broken_x86_64(_PopsInPushOrder), "TAIL-FRAME"),
        (broken_x86_64(_LosesR9), "TAIL-FRAME"),
        (broken_x86_64(_TakesCountForPointer), "MEM"),
        (broken_x86_64(_ForgetsToRound), "MEM"),
        (broken_arm64(_ChargesEmptySlots), "TAIL-COUNT"),
        (broken_arm64(_NeverCharges), "TAIL-COUNT"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_lowering_is_found(backend: NativeBackend, check: str) -> None:
    found = (text for seed in range(1, 60) for text in sweep_some(seed, seed, [backend]).wrong)
    text = next(text for text in found if f"  expect  {check}:" in text)
    assert "again   callconv tail-sweep" in text


class _Off:
    """Does what the interpreter does, but for one thing."""

    name, features = "off", frozenset({"tail_calls"})

    def __init__(self, what: str) -> None:
        self.what = what

    def run(self, job: Job) -> Outcome:
        own = Interpreter().run(job)
        assert isinstance(own, Ran)
        if self.what == "died":
            return Died("it is gone")
        if self.what == "calls":
            return replace(own, calls=tuple(replace(call, args=()) for call in own.calls))
        return replace(own, retval=0x0FF, memory=own.memory)


@pytest.mark.parametrize(
    ("what", "said"),
    [("died", "it is gone"), ("calls", "other calls than the interpreter makes"), ("retval", "retval = 255")],
)
def test_a_difference_is_told(what: str, said: str) -> None:
    found = (text for seed in range(1, 60) for text in sweep_some(seed, seed, [_Off(what)]).wrong)
    assert said in next(found)


def test_what_holds_whatever_the_interpreter_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interp, "MAX_TAIL_CALLS", 34)
    wrong = [text for seed in range(1, 60) for text in sweep_some(seed, seed, [Interpreter()]).wrong]
    assert "34 tail calls are made, more than 33" in wrong[0]


def test_callers_of_subprogs_that_tail_call_pile_up() -> None:
    """Seed 14: more than 32 functions are under way at once."""
    assert sweep_some(14, 14, make_backends(["interp", "jit-arm64"])).wrong == []


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tail-sweep", "1-5", "--jobs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("5 graphs, 5 accepted (100.0 %)")
    assert lines[1].startswith("35 runs, ")
    assert lines[2].startswith("0 differences; ")


def test_the_command_in_processes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_sweep, "CHUNK", 2)
    assert cli.main(["tail-sweep", "1-6", "--jobs", "2", "--backend", "interp"]) == 0
    assert capsys.readouterr().out.startswith("6 graphs, ")


def test_the_command_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tail-sweep", "9-3"]) == 2
    assert cli.main(["tail-sweep", "1", "--backend", "jit-x86"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_difference_ends_with_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "make_backends", lambda names, settings: [broken_arm64(_NeverCharges)])
    assert cli.main(["tail-sweep", "1-30", "--jobs", "1"]) == 1
    assert "again   callconv tail-sweep" in capsys.readouterr().out


def test_graphs_as_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "graphs.yaml"
    assert cli.main(["tail-sweep", "0-15", "--cases", str(path)]) == 0
    loaded = load_file(path)
    assert loaded.errors == ()
    for seed, case in enumerate(loaded.cases):
        again = case_of(seed)
        assert (case.assembled.prog, case.ctx, case.kfuncs) == (again.assembled.prog, again.ctx, again.kfuncs)
        if case.expect.verdict == "accept":
            (scene,) = case.scenes
            assert (scene.updates, scene.during) == (again.scenes[0].updates, again.scenes[0].during)
        assert Suite().judge(case, Interpreter()).status == "passed"
    assert cli.main(["tail-sweep", "1", "--cases", str(tmp_path / "no" / "graphs.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err
