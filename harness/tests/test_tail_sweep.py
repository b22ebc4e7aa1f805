"""Random graphs of programs that tail call each other: alike on every engine, and a wrong engine is found."""

from dataclasses import replace
from pathlib import Path

import pytest

from backends import interp
from backends.base import Died, Job, Outcome, Ran
from backends.interp import Interpreter
from backends.tests import tail_doubles
from harness import cli, tail_sweep
from harness.case import load_file
from harness.plugins import make_backends
from harness.suite import Suite
from harness.tail_graphs import BAD_AT, graph_of
from harness.tail_sweep import ENGINES, case_of, sweep_some
from harness.tests.test_tail_doubles import ROWS, Double, backend_of
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


@pytest.mark.parametrize("double", [row[0] for row in ROWS if row[1] != "between"], ids=lambda double: double.__name__)
def test_a_broken_engine_is_found(double: Double) -> None:
    """All but those whose updates are wrong only while they are half written."""
    backend = backend_of(double)
    found = (text for seed in range(1, 100) for text in sweep_some(seed, seed, [backend]).wrong)
    assert "again   callconv tail-sweep" in next(found)


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
    monkeypatch.setattr(cli, "make_backends", lambda names, settings: [backend_of(tail_doubles.Arm64NotCharged)])
    assert cli.main(["tail-sweep", "1-9", "--jobs", "1"]) == 1
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
