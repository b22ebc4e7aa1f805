"""Every broken trampoline and plan, caught by a named case for the right check."""

from typing import Final

import pytest

from backends.checks import CHECKS
from backends.native import NativeBackend
from backends.tests import trampoline_doubles as doubles
from backends.tests.trampoline_doubles import Double
from backends.tracing import Tracer
from backends.trampoline import Planner
from harness.suite import Suite
from harness.tests.catching import assert_caught, case_of, classes_of

NINE, SEVEN = "targets.yaml::nine_arguments_of_a_member", "targets.yaml::seven_arguments_of_a_member"
PACKED = "misaligned_member@struct=struct {u8 x; u64 y;} __attribute__((packed)),value=020304050607080910,prog=fentry"

# (broken trampoline, the check that says what is wrong, the case that shows it).
ROWS: Final[list[tuple[type[Double], str, str]]] = [
    (doubles.Arm64AreaNotCounted, "TRAMP-CTX", "holes.yaml::int128_on_the_stack@prog=fexit"),
    (doubles.Arm64AreaNotRounded, "ABI-SP", "programs.yaml::sessions"),
    (doubles.Arm64BackFilled, "TRAMP-CTX", "shapes.yaml::structs_and_unions@returns=55"),
    (doubles.Arm64BpfAsC, "TRAMP-CTX", "targets.yaml::bpf_odd@prog=fentry"),
    (doubles.Arm64ClearedByTotalSize, "TRAMP-CTX", "shapes.yaml::structs_and_unions@returns=66"),
    (doubles.Arm64FuncIpShifted, "TRAMP-CTX", "programs.yaml::function_address@prog=fentry"),
    (doubles.Arm64GoesOnAfterAValue, "TRAMP-CTX", "programs.yaml::a_result_in_its_place@value=7"),
    (doubles.Arm64IncomingAsStructOps, "TRAMP-CTX", "holes.yaml::int128_on_the_stack@prog=fentry"),
    (doubles.Arm64MemberAsTraced, "ABI-STACK", NINE),
    (doubles.Arm64MemberReturnsTwice, "ABI-STACK", "targets.yaml::member@what=two"),
    (doubles.Arm64NoEvenRegister, "TRAMP-CTX", "holes.yaml::even_register@prog=fentry"),
    (doubles.Arm64NoGap, "TRAMP-CTX", "holes.yaml::int128_on_the_stack@prog=fentry"),
    (doubles.Arm64NoGap, "TRAMP-CTX", "own.yaml::behind_a_hole"),
    (doubles.Arm64OldestFirst, "TRAMP-ORDER", "programs.yaml::latest_first"),
    (doubles.Arm64RestoresByArguments, "TRAMP-ARG", "holes.yaml::even_register@prog=fentry"),
    (doubles.Arm64ResultByArguments, "TRAMP-CTX", "holes.yaml::int128_on_the_stack@prog=fexit"),
    (doubles.Arm64ResultClobbered, "TRAMP-CTX", "programs.yaml::function_address@prog=fexit"),
    (doubles.Arm64ResultNotCleared, "TRAMP-CTX", "programs.yaml::latest_first"),
    (doubles.Arm64SavedLost, "ABI-SAVED", "programs.yaml::function_address@prog=fentry"),
    (doubles.Arm64StackFromCtx, "TRAMP-ARG", "holes.yaml::int128_on_the_stack@prog=fexit"),
    (doubles.Arm64StackNotCopied, "TRAMP-ARG", "programs.yaml::sessions"),
    (doubles.X86ArrayTooSmall, "ABI-SAVED", "holes.yaml::int128_on_the_stack@prog=fentry"),
    (doubles.X86BpfAsC, "TRAMP-CTX", "targets.yaml::bpf_split_in_r9@prog=fentry"),
    (doubles.X86BpfNarrowCut, "TRAMP-ARG", "targets.yaml::bpf_narrow_on_the_stack@prog=fexit"),
    (doubles.X86FrameNotRounded, "ABI-SP", "holes.yaml::int128_on_the_stack@prog=fexit"),
    (doubles.X86FuncIpShifted, "TRAMP-CTX", "programs.yaml::function_address@prog=fentry"),
    (doubles.X86GoesOnAfterAValue, "TRAMP-CTX", "programs.yaml::a_result_in_its_place@value=7"),
    (doubles.X86IncomingAsCalled, "ABI-STACK", "programs.yaml::sessions"),
    (doubles.X86IncomingAsJumped, "TRAMP-CTX", "holes.yaml::int128_on_the_stack@prog=fentry"),
    (doubles.X86MemberAsTraced, "ABI-STACK", SEVEN),
    (doubles.X86MemberResultLost, "TRAMP-RESULT", "targets.yaml::member@what=two"),
    (doubles.X86MemberUnmarked, "ABI-LAND", "targets.yaml::member@what=none"),
    (doubles.X86NarrowAlwaysCleared, "TRAMP-CTX", f"holes.yaml::{PACKED}"),
    (
        doubles.X86NarrowByTheLast,
        "TRAMP-CTX",
        "holes.yaml::a_packed_struct_before_a_narrow_one@struct=struct {u8 x; u32 y;} __attribute__((packed)),"
        "value=0203040506,narrow=u8,prog=fentry",
    ),
    (doubles.X86NoBackfill, "ABI-STACK", "holes.yaml::backfill_and_a_hole@prog=fentry"),
    (doubles.X86PackedFromRegisters, "TRAMP-CTX", f"holes.yaml::{PACKED}"),
    (doubles.X86R9FromStack, "TRAMP-ARG", "holes.yaml::int128_on_the_stack@prog=fentry"),
    (doubles.X86RbxLost, "ABI-SAVED", "programs.yaml::function_address@prog=fentry"),
    (doubles.X86ResultNotCleared, "TRAMP-CTX", "programs.yaml::latest_first"),
    (doubles.X86ResultNotGiven, "TRAMP-RESULT", "programs.yaml::function_address@prog=fexit"),
    (doubles.X86StackNotCopied, "TRAMP-ARG", "programs.yaml::sessions"),
    (doubles.X86StackPacked, "TRAMP-ARG", "holes.yaml::int128_on_the_stack@prog=fexit"),
    (doubles.X86TailCallLost, "TRAMP-ARG", "targets.yaml::stack_arg_tailcall@prog=fentry"),
    (doubles.X86TailCallPushed, "TRAMP-ARG", "targets.yaml::stack_arg_tailcall@prog=fexit"),
    (doubles.X86WholeTypeNotSeen, "TRAMP-CTX", "holes.yaml::aligned_struct@prog=fentry"),
]
# (plan that accepts what it must not, the case that shows it).
PLANS: Final[list[tuple[Planner, str]]] = [
    (doubles.second_register_lost, "refused.yaml::model@func=__int128 f(int a),prog=fexit"),
    (doubles.thirteen_words, "refused.yaml::thirteen_words"),
]


class Broken(NativeBackend):
    """A back end whose trampolines are broken."""

    def __init__(self, tracer: Tracer) -> None:
        self.name, self.tracer = "broken", tracer


@pytest.mark.parametrize(("double", "check", "case"), ROWS, ids=[f"{row[0].__name__}-{row[2]}" for row in ROWS])
def test_a_case_catches_the_double(double: type[Double], check: str, case: str) -> None:
    backend = Broken(Tracer(double.arch, maker=double))
    assert_caught(Suite().judge(case_of(f"trampoline/{case}"), backend), check)
    right = Broken(Tracer(double.arch))
    assert Suite().judge(case_of(f"trampoline/{case}"), right).status == "passed"


@pytest.mark.parametrize(("plan", "case"), PLANS)
def test_a_case_catches_the_plan(plan: Planner, case: str) -> None:
    assert_caught(Suite().judge(case_of(f"trampoline/{case}"), Broken(Tracer("arm64", plan=plan))), "verdict")


def test_no_double_is_left_out() -> None:
    assert {row[0] for row in ROWS} == classes_of(doubles)


def test_every_check_of_trampolines_catches_some_double() -> None:
    assert {check for check in CHECKS if check.startswith("TRAMP")} <= {row[1] for row in ROWS}


# TB-27 is about s390, TB-28 a compiler's layout: D-1 of docs/abi.md.
SEEDS: Final = [f"TB-{number:02}" for number in range(1, 27)]


def test_every_seed_is_there() -> None:
    texts = " ".join(row[0].__doc__ or "" for row in (*ROWS, *PLANS))
    assert [seed for seed in SEEDS if seed not in texts] == []
