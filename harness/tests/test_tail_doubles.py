"""Every broken tail call, caught by a named case for the right check. What cannot be expressed: docs/tail-calls.md."""

from typing import Final

import pytest

from backends.arm64.jit import Arm64Jit
from backends.arm64.jit import Options as Arm64Options
from backends.checks import CHECKS
from backends.image import Tail
from backends.native import NativeBackend
from backends.progs import NativeProgs
from backends.tests import tail_doubles as doubles
from backends.x86_64.jit import Options, X8664Jit
from harness.suite import Suite
from harness.tests.catching import CASES, assert_caught, case_of, cases_of, classes_of

# (broken engine or update, the check that says what is wrong, the case that shows it).
Double = type[X8664Jit | Arm64Jit | NativeProgs]
ROWS: Final[list[tuple[Double, str, str]]] = [
    (doubles.Arm64ChargedEarly, "TAIL-COUNT", "during.yaml::loop_with_a_hole"),
    (doubles.Arm64NoJumpPad, "ABI-LAND", "updates.yaml::errors"),
    (doubles.Arm64NotCharged, "TAIL-COUNT", "limit.yaml::misses_cost_nothing@empty=1"),
    (doubles.Arm64OnePast, "MEM", "index.yaml::one_entry@known=1"),
    (doubles.Arm64OneWordOff, "ABI-LAND", "updates.yaml::errors"),
    (doubles.Arm64SavedLost, "TAIL-FRAME", "updates.yaml::in_a_subprog@index=1"),
    (doubles.CacheNotCleared, "TAIL-JUMP", "during.yaml::deleted@form=one array"),
    (doubles.CacheNotReplaced, "TAIL-JUMP", "during.yaml::replaced@form=one array"),
    (doubles.CacheWithPokesOnly, "retval", "updates.yaml::all_ways_of_a_slot@index=read"),
    (doubles.CacheWithoutOffset, "ABI-ARG", "updates.yaml::loop_is_opened@index=0"),
    (doubles.NotReplaced, "TAIL-JUMP", "updates.yaml::in_a_subprog@index=1"),
    (doubles.TargetFirst, "between", "updates.yaml::in_a_subprog@index=1"),
    (doubles.TargetLast, "between", "updates.yaml::in_a_subprog@index=1"),
    (doubles.X86CountAsPointer, "MEM", "limit.yaml::subprog_after_33@wanted=21000000,index=1,retval=10"),
    (doubles.X86CountByValue, "MEM", "subprogs.yaml::subprog_in_a_loop"),
    (doubles.X86Limit32, "memory", "updates.yaml::loop_is_opened@index=0"),
    (doubles.X86Limit34, "TAIL-JUMP", "updates.yaml::loop_is_opened@index=0"),
    (doubles.X86MainNotReachable, "ABI-STACK", "chains.yaml::one_after_the_other"),
    (doubles.X86NotHandedOn, "MEM", "subprogs.yaml::helper_before_the_call"),
    (doubles.X86NotTruncated, "MEM", "index.yaml::known_index@index=0x100000000 ll"),
    (doubles.X86OnePast, "MEM", "index.yaml::one_entry@known=1"),
    (doubles.X86OnePastCached, "MEM", "index.yaml::one_entry@known=1"),
    (doubles.X86OnePop, "TAIL-FRAME", "chains.yaml::distinct_depths@last=4"),
    (doubles.X86OperandsSwapped, "retval", "index.yaml::one_entry@known=0"),
    (doubles.X86PoppedInPushOrder, "TAIL-FRAME", "updates.yaml::in_a_subprog@index=1"),
    (doubles.X86SeveralAsOne, "MEM", "sites.yaml::array_by_subprog@index=00000000"),
    (doubles.X86SharedLabel, "ABI-LAND", "sites.yaml::sites_of_distinct_lengths"),
    (doubles.X86Unrounded, "MEM", "frames.yaml::depths_in_a_loop@depths=1 1"),
    (
        doubles.X86WrongMap,
        "MEM",
        "sites.yaml::two_arrays_two_sites@known=3,first=small,second=large,index=03000000,retval=1",
    ),
    (doubles.X86WrongOffset, "ABI-ARG", "updates.yaml::loop_is_opened@index=*(u32 *)(r1 + 4)"),
]


def backend_of(double: Double) -> NativeBackend:
    """A broken JIT, or the right one with broken updates; caches are those of the series."""
    if not issubclass(double, NativeProgs):
        return NativeBackend("double", double())
    tail = Tail.STATIC if double.__name__.startswith("Cache") else Tail.BASE
    return NativeBackend("double", X8664Jit(Options(tail=tail)), double)


@pytest.mark.parametrize(("double", "check", "case"), ROWS, ids=[row[0].__name__ for row in ROWS])
def test_a_case_catches_the_double(double: Double, check: str, case: str) -> None:
    assert_caught(Suite().judge(case_of(f"tail_calls/{case}"), backend_of(double)), check)


def test_no_double_is_left_out() -> None:
    assert {row[0] for row in ROWS} == classes_of(doubles) - {doubles.X86Double, doubles.Arm64Double}


def test_every_check_of_tail_calls_catches_some_double() -> None:
    assert {check for check in CHECKS if check.startswith("TAIL")} <= {row[1] for row in ROWS}


SEEDS: Final = ("01", "02", "05", "06", "07", "08", "13", "14", "15", "16", "17", "18", "20", "21", "23", "24", "28", "29", "30",
                "31", "34", "38", "39", "40")  # fmt: skip


def test_every_seed_that_native_code_can_have_is_there() -> None:
    texts = " ".join(row[0].__doc__ or "" for row in ROWS)
    assert [seed for seed in SEEDS if f"BS-{seed}" not in texts] == []


@pytest.mark.parametrize("tail", Tail)
@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_every_case_on_every_lowering(arch: str, tail: Tail) -> None:
    """As Linux lowers tail calls, and as the series of January 2026 does."""
    compiler = X8664Jit(Options(tail=tail)) if arch == "x86_64" else Arm64Jit(Arm64Options(tail=tail))
    suite, backend = Suite(), NativeBackend("lowering", compiler)
    failed = [
        f"{path.name}::{case.name}: {result.mismatches[0].got}"
        for path in sorted((CASES / "tail_calls").glob("*.yaml"))
        for case in cases_of(f"tail_calls/{path.name}")
        if (result := suite.judge(case, backend)).status != "passed"
    ]
    assert failed == []
