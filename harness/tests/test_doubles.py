"""Every broken JIT and verifier, caught by a named case for the right check; nothing else of the suite is asked."""

from typing import Final

import pytest

from backends.arm64.jit import Arm64Jit
from backends.arm64.tests import doubles as arm64
from backends.checks import CHECKS
from backends.interp import Interpreter
from backends.native import NativeBackend
from backends.x86_64.jit import X8664Jit
from backends.x86_64.tests import doubles as x86_64
from harness.suite import Suite
from harness.tests.catching import assert_caught, case_of, classes_of
from verifier.tests import doubles as verifiers
from verifier.verify import Verifier

# (broken JIT, the check that says what is wrong, the case that shows it). `retval` and `memory` are the case's own values:
# a wrong result that breaks no rule of the ABI.
JITS: Final[list[tuple[type[X8664Jit | Arm64Jit], str, str]]] = [
    (x86_64.Arg6ClearsEcx, "ABI-ARG", "stack_args/immediates.yaml::every_slot@imm=0"),
    (x86_64.Arg6ImmStoredToo, "ABI-ARG", "stack_args/stores.yaml::out_of_order@order=descending"),
    (x86_64.Arg6InMemory, "ABI-STACK", "args/kfunc_registers.yaml::one_to_twelve@n=6"),
    (x86_64.Arg6InScratch, "ABI-ARG", "args/kfunc_registers.yaml::one_to_twelve@n=6"),
    (x86_64.Arg6NotSet, "ABI-ARG", "args/kfunc_immediates.yaml::one_to_twelve@n=6"),
    (x86_64.Arg6Reversed, "ABI-ARG", "args/kfunc_registers.yaml::one_to_twelve@n=6"),
    (x86_64.Arg6ZeroExtended, "ABI-ARG", "stack_args/immediates.yaml::every_slot@imm=-1"),
    (
        x86_64.ByteStoreWithoutRex,
        "memory",
        "mem/ctx.yaml::store_size@type=u8,at=0,src=r2,memory=8802030405060708a1a2a3a4a5a6a7a8",
    ),
    (x86_64.DivTakesR9, "ABI-ARG", "stack_args/between.yaml::after_the_stores@what=div r3 by r4"),
    (x86_64.DivisorLost, "retval", "alu/registers.yaml::division@insn=r1 /= r0"),
    (x86_64.IncomingAtReturnAddress, "retval", "args/subprog_immediates.yaml::one_to_twelve@n=7"),
    (x86_64.IncomingFromRax, "MEM", "args/subprog_immediates.yaml::one_to_twelve@n=6"),
    (x86_64.IncomingOneSlotUp, "ABI-STACK", "args/subprog_immediates.yaml::one_to_twelve@n=7"),
    (x86_64.Mov32OfItselfElided, "retval", "alu/alu32.yaml::register@what=mod by 0 keeps 32 bits"),
    (x86_64.OutgoingAboveSaved, "ABI-ARG", "args/kfunc_registers.yaml::one_to_twelve@n=7"),
    (x86_64.OutgoingForgetsSaved, "ABI-ARG", "args/kfunc_registers.yaml::one_to_twelve@n=7"),
    (x86_64.OutgoingFromUnroundedDepth, "ABI-ARG", "frame/outgoing.yaml::stack_and_slots@depth=4"),
    (x86_64.OutgoingNotReserved, "ABI-STACK", "args/kfunc_immediates.yaml::one_to_twelve@n=7"),
    (x86_64.OutgoingReversed, "ABI-ARG", "args/kfunc_immediates.yaml::one_to_twelve@n=8"),
    (x86_64.OutgoingTooSmall, "ABI-SAVED", "args/kfunc_immediates.yaml::one_to_twelve@n=8"),
    (x86_64.R9PushedAroundCalls, "ABI-ARG", "args/kfunc_immediates.yaml::one_to_twelve@n=7"),
    (x86_64.RbxNotRestored, "ABI-SAVED", "alu/registers.yaml::every_destination@n=6"),
    (x86_64.RbxNotSaved, "ABI-SAVED", "alu/registers.yaml::every_destination@n=6"),
    (x86_64.RspNotRestored, "ABI-SAVED", "args/kfunc_registers.yaml::one_to_twelve@n=7"),
    (x86_64.RspNotRestoredAtLaterExits, "ABI-SAVED", "frame/exits.yaml::two_exits@exit=second"),
    (x86_64.SeventhOneSlotOff, "ABI-ARG", "args/kfunc_immediates.yaml::one_to_twelve@n=7"),
    (x86_64.ShiftOfRcxLost, "retval", "alu/registers.yaml::shift@insn=r4 <<= r1"),
    (x86_64.ShiftTakesR9, "ABI-ARG", "stack_args/between.yaml::after_the_stores@what=shift r5 by r2"),
    (
        x86_64.UnsignedTakenAsSigned,
        "retval",
        "jump/jmp32.yaml::register@op=>,dst=1234605617151213568,src=6153737366847619073,retval=1",
    ),
    (arm64.ArgImmZeroExtended, "ABI-ARG", "stack_args/immediates.yaml::every_slot@imm=-1"),
    (arm64.ArgRegsSwapped, "ABI-ARG", "args/kfunc_immediates.yaml::one_to_twelve@n=6"),
    (arm64.CalleeSavedNotRestored, "ABI-SAVED", "alu/registers.yaml::every_destination@n=6"),
    (arm64.CalleeSavedNotSaved, "ABI-SAVED", "alu/registers.yaml::every_destination@n=6"),
    (arm64.FpBelowStack, "ABI-STACK", "alu/refused.yaml::arithmetic_on_pointers_twin"),
    (arm64.FpForgetsOutgoing, "retval", "frame/exits.yaml::two_exits@exit=second"),
    (arm64.IncomingAtRecord, "retval", "args/subprog_immediates.yaml::one_to_twelve@n=9"),
    (arm64.IncomingBelowRecord, "retval", "args/subprog_immediates.yaml::one_to_twelve@n=9"),
    (arm64.ModOverwritesDividend, "retval", "alu/alu32.yaml::register@what=mod"),
    (arm64.MovElided, "retval", "alu/alu32.yaml::register@what=mod by 0 keeps 32 bits"),
    (arm64.NoLandingPad, "ABI-LAND", "alu/alu32.yaml::register@what=add"),
    (arm64.NoResultAfterCall, "ABI-SCRATCH", "args/registers.yaml::no_arguments"),
    (arm64.NoResultAfterHelper, "retval", "subprog/results.yaml::result_of_helper"),
    (arm64.NoResultAfterKfunc, "retval", "args/kfunc_immediates.yaml::one_to_twelve@n=1"),
    (arm64.NoResultAfterSubprog, "ABI-SCRATCH", "args/registers.yaml::no_arguments"),
    (arm64.NoResultFromSubprog, "retval", "args/registers.yaml::no_arguments"),
    (arm64.OutgoingAboveBpfStack, "retval", "frame/exits.yaml::two_exits@exit=second"),
    (arm64.OutgoingAboveSaved, "ABI-SAVED", "args/kfunc_registers.yaml::one_to_twelve@n=9"),
    (arm64.OutgoingCountedInSlots, "ABI-SAVED", "args/kfunc_immediates.yaml::one_to_twelve@n=12"),
    (arm64.OutgoingFreedAfterPops, "ABI-SAVED", "args/kfunc_registers.yaml::one_to_twelve@n=9"),
    (arm64.OutgoingFreedAtLastExitOnly, "ABI-SAVED", "frame/exits.yaml::two_exits@exit=first"),
    (arm64.OutgoingNeverFreed, "ABI-SAVED", "args/kfunc_immediates.yaml::one_to_twelve@n=9"),
    (arm64.OutgoingNotRounded, "ABI-SP", "args/kfunc_immediates.yaml::one_to_twelve@n=9"),
    (arm64.OutgoingPastRecord, "ABI-ARG", "args/kfunc_immediates.yaml::one_to_twelve@n=9"),
    (arm64.OutgoingSizedByIncoming, "ABI-SAVED", "args/kfunc_immediates.yaml::one_to_twelve@n=10"),
    (arm64.RecordNotPopped, "ABI-SAVED", "alu/alu32.yaml::register@what=add"),
    (arm64.RedZone, "ABI-STACK", "alu/refused.yaml::arithmetic_on_pointers_twin"),
    (arm64.ResultInX7, "retval", "args/subprog_immediates.yaml::one_to_twelve@n=8"),
    (arm64.ScratchIsArgument, "ABI-ARG", "args/kfunc_immediates.yaml::one_to_twelve@n=9"),
    (arm64.ScratchIsCalleeSaved, "ABI-SAVED", "alu/alu32.yaml::register@what=mod"),
    (arm64.ScratchIsPlatform, "ABI-SAVED", "alu/alu32.yaml::register@what=mod"),
    (x86_64.ExtendsFrom16, "retval", "alu/sign_extension.yaml::move@what=s8, negative"),
    (x86_64.DividesUnsigned, "retval", "alu/signed_division.yaml::unknown_operands@op=s/="),
    (x86_64.SwapKeepsUpper, "retval", "alu/byte_swap.yaml::swap_of_unknown@op=be16"),
    (x86_64.FetchForgotten, "retval", "atomic/values.yaml::with_fetch@what=u64 add"),
    (x86_64.OldValueForgotten, "retval", "atomic/values.yaml::compare_and_exchange@what=u64, other"),
    (arm64.ExtendsFrom16, "retval", "alu/sign_extension.yaml::move@what=s8, negative"),
    (arm64.DividesUnsigned, "retval", "alu/signed_division.yaml::unknown_operands@op=s/="),
    (arm64.SwapKeepsUpper, "retval", "alu/byte_swap.yaml::swap_of_unknown@op=be16"),
    (arm64.FetchForgotten, "retval", "atomic/values.yaml::with_fetch@what=u64 add"),
    (arm64.OldValueForgotten, "retval", "atomic/values.yaml::compare_and_exchange@what=u64, other"),
    (x86_64.LoopForgetsR0, "retval", "atomic/values.yaml::r0_keeps@op=atomic64_fetch_or"),
    (arm64.ClearsTheMask, "memory", "atomic/values.yaml::without_fetch@what=u64 and"),
    (x86_64.KfuncArgsNotMoved, "ABI-ARG", "aggregate/kfuncs.yaml::struct_argument@n=6"),
    (x86_64.KfuncArgsInACircle, "ABI-ARG", "aggregate/kfuncs.yaml::struct_argument@n=6"),
    (x86_64.KfuncArgsNotAligned, "ABI-ARG", "aggregate/kfuncs.yaml::int128_argument@n=8"),
    (x86_64.KfuncAreaNotReserved, "ABI-SAVED", "aggregate/kfuncs.yaml::int128_argument@n=10"),
    (x86_64.HighHalfLeftBehind, "retval", "aggregate/kfuncs.yaml::given_back@what=int128"),
    (arm64.KfuncArgsNotMoved, "ABI-ARG", "aggregate/kfuncs.yaml::int128_argument@n=2"),
    (arm64.KfuncArgsAtOddRegisters, "ABI-ARG", "aggregate/kfuncs.yaml::int128_argument@n=2"),
    (arm64.KfuncArgsSplit, "ABI-ARG", "aggregate/kfuncs.yaml::struct_argument@n=8"),
    (arm64.StackArgsAtX0, "MEM", "args/subprog_immediates.yaml::one_to_twelve@n=6"),
]

# (broken verifier, what is wrong with its answer, the case that shows it).
VERIFIERS: Final[list[tuple[type[Verifier], str, str]]] = [
    (verifiers.SlotsSurviveCalls, "verdict = accept", "stack_args/cleared.yaml::any_call@callee=kf"),
    (verifiers.SlotsSurviveCalls, "verdict = accept", "stack_args/cleared.yaml::any_call@callee=f"),
    (verifiers.LoadAfterStoreAllowed, "stack-arg-store-used", "stack_args/order.yaml::load_after@what=register_store"),
    (verifiers.LoadAfterStoreAllowed, "verdict = accept", "stack_args/order.yaml::load_after@what=helper"),
    (
        verifiers.TracedCtxAsMemory,
        "verdict = accept",
        "tracing/ctx.yaml::refused@kind=fentry,insn=*(u64 *)(r1 + 0) = 5",
    ),
    (verifiers.TracingReturnsAnything, "verdict = accept", "tracing/ctx.yaml::returns@kind=fexit,insn=r0 = -1"),
    (verifiers.MissingSlotAccepted, "verdict = accept", "stack_args/loads.yaml::missing_slot@n=9,missing=2,at=7"),
    (verifiers.MissingSlotAccepted, "kfunc-arg-scalar", "kfunc/not_a_scalar.yaml::missing_slot@missing=1"),
    (
        verifiers.WriteLimitOffByOne,
        "writes 8 stack arg",
        "stack_args/limits.yaml::write_beyond_twelve@off=-64,value=606",
    ),
    (verifiers.ReadLimitOffByOne, "R0 !read_ok", "stack_args/limits.yaml::read_beyond_parameters@n=6"),
    (verifiers.AtomicsAnywhere, "verdict = accept", "maps/pointers.yaml::atomics_are_aligned"),
    (verifiers.EveryLookupDecided, "verdict = accept", "maps/pointers.yaml::two_lookups_are_two"),
    (verifiers.LookupsNotCompared, "verdict = accept", "maps/pointers.yaml::paths_with_other_lookups"),
    (
        verifiers.ReadOnlyMapWritten,
        "verdict = accept",
        "maps/pointers.yaml::read_only_for_programs@insn=*(u64 *)(r1 + 0) = 0",
    ),
    (verifiers.SlotsNotDecided, "verdict = reject", "maps/pointers.yaml::one_check_for_all_copies"),
    (verifiers.ValuesUnbounded, "verdict = accept", "maps/pointers.yaml::value_bounds@move=r7 = 13"),
    (verifiers.SlotsNotCompared, "verdict = accept", "stack_args/pruning.yaml::pointer_or_scalar@first=scalar"),
    (verifiers.OrderNotCompared, "verdict = accept", "stack_args/order.yaml::one_arm_calls@first=other"),
    (verifiers.MainTakesStackArgs, "R0 !read_ok", "stack_args/main_and_btf.yaml::main_with_seven_parameters"),
    (verifiers.OneSlotForEachParameter, "verdict = reject", "aggregate/stack.yaml::struct_on_the_stack@n=5"),
    (verifiers.HighHalfNotGivenBack, "verdict = reject", "aggregate/results.yaml::pair@what=static_int128"),
    (verifiers.ResultIsR0, "verdict = accept", "aggregate/results.yaml::global_without_r2"),
    (verifiers.ResultIsR0, "verdict = accept", "aggregate/results.yaml::stack_pointer_in_r2"),
    (verifiers.TailCallComesBack, "verdict = accept", "tail_calls/returns.yaml::result_as_offset@kind="),
    (verifiers.TailCallsBesideIncomingOnly, "verdict = accept", "tail_calls/stack_arguments.yaml::subprog_does_both"),
    (verifiers.TailStackOneMore, "verdict = accept", "tail_calls/refused.yaml::callers_stack@depth=241"),
    (
        verifiers.TailStackOwnFrame,
        "verdict = reject (tail-stack)",
        "tail_calls/refused.yaml::callers_stack_twin@depth=1,own=496",
    ),
    (verifiers.StoresNeedNoCall, "verdict = accept", "stack_args/unused.yaml::surplus_slot@off=24"),
]


@pytest.mark.parametrize(("double", "check", "case"), JITS, ids=[row[0].__name__ for row in JITS])
def test_a_case_catches_the_double(double: type[X8664Jit | Arm64Jit], check: str, case: str) -> None:
    backend = NativeBackend("double", double())
    assert_caught(Suite().judge(case_of(case), backend), check)


@pytest.mark.parametrize(
    ("double", "got", "case"), VERIFIERS, ids=[f"{row[0].__name__}-{i}" for i, row in enumerate(VERIFIERS)]
)
def test_a_case_catches_the_verifier(double: type[Verifier], got: str, case: str) -> None:
    result = Suite(verifier=double()).judge(case_of(case), Interpreter())
    assert result.status == "failed", result.reason
    assert got in result.mismatches[0].got
    assert Suite().judge(case_of(case), Interpreter()).status == "passed"


@pytest.mark.parametrize("case", sorted({row[2] for row in JITS}))
def test_the_right_jits_pass_the_same_cases(case: str) -> None:
    for jit in (X8664Jit(), Arm64Jit()):
        assert Suite().judge(case_of(case), NativeBackend("right", jit)).status == "passed"


def test_no_double_is_left_out() -> None:
    listed = {row[0] for row in JITS}
    assert classes_of(x86_64, X8664Jit) | classes_of(arm64, Arm64Jit) == listed
    assert classes_of(verifiers, Verifier) == {row[0] for row in VERIFIERS}


def test_every_always_on_check_catches_some_double() -> None:
    caught = {row[1] for row in JITS}
    assert set(CHECKS) - caught == {"END", *(check for check in CHECKS if check.startswith(("TRAMP", "TAIL")))}
