"""Every JIT with a defect is told from the right one by a program made for it."""

import inspect

import pytest

from backends.arm64.jit import Arm64Jit
from backends.arm64.tests import doubles
from backends.arm64.tests.machine import addresses, run, verified
from harness.isa.verified import FuncFacts, Verified

NO_STACK = FuncFacts(0, 0, 0)


def _kfunc(count: int, before: str = "", after: str = "", stack: int = 0) -> Verified:
    """Main passes 101, 102, ... to a kfunc, with insns of the test's own before the call and after it."""
    regs = "\n".join(f"r{n} = {100 + n}" for n in range(1, min(count, 5) + 1))
    slots = "\n".join(f"*(u64 *)(r11 - {8 * (k - 5)}) = {100 + k}" for k in range(6, count + 1))
    proto = f"u64 f({', '.join(['u64'] * count)})"
    text = f"{regs}\n{slots}\n{before}\ncall f\n{after}\nexit"
    return verified(("main", text, FuncFacts(stack, 0, max(count - 5, 0))), kfuncs=[proto])


def _c_kfunc(params: str, slots: int) -> Verified:
    """Main passes 101, 102, ... to a kfunc with values of two slots."""
    regs = "\n".join(f"r{n} = {100 + n}" for n in range(1, 6))
    stores = "\n".join(f"*(u64 *)(r11 - {8 * (k - 5)}) = {100 + k}" for k in range(6, slots + 1))
    text = f"{regs}\n{stores}\ncall f\nexit"
    return verified(("main", text, FuncFacts(0, 0, slots - 5)), kfuncs=[f"u64 f({params})"])


def _subprog(count: int, body: str, after: str = "") -> Verified:
    """Main passes 101, 102, ... to a subprog."""
    slots = "\n".join(f"*(u64 *)(r11 - {8 * (k - 5)}) = {100 + k}" for k in range(6, count + 1))
    n = max(count - 5, 0)
    main = f"r6 = 7\nr1 = 101\n{slots}\ncall f\n{after}\nexit"
    return verified(("main", main, FuncFacts(0, 0, n)), ("f", f"{body}\nexit", FuncFacts(0, n, 0)))


def _atomic(insn: str) -> Verified:
    """One atomic insn on a slot of the stack that holds 5; R0 is 6, R1 is 2."""
    return verified(("main", f"*(u64 *)(r10 - 8) = 5\nr0 = 6\nr1 = 2\n{insn}\nexit", FuncFacts(8, 0, 0)))


WRITE = "*(u64 *)(r10 - 16) = 1"
READ = "r0 = *(u64 *)(r10 - 16)"

TRIGGERS: dict[type[Arm64Jit], Verified] = {
    doubles.OutgoingNotRounded: _kfunc(9),
    doubles.OutgoingCountedInSlots: _kfunc(12, WRITE, READ, 16),
    doubles.IncomingBelowRecord: _subprog(9, "r0 = *(u64 *)(r11 + 32)"),
    doubles.IncomingAtRecord: _subprog(9, "r0 = *(u64 *)(r11 + 32)"),
    doubles.OutgoingPastRecord: _kfunc(9),
    doubles.ResultInX7: verified(("main", "r0 = 77\n*(u64 *)(r11 - 24) = 8\nexit", FuncFacts(0, 0, 3))),
    doubles.ArgRegsSwapped: _kfunc(7),
    doubles.ScratchIsArgument: _kfunc(6, "r1 += 0x12345678"),
    doubles.ScratchIsCalleeSaved: _kfunc(1, "r1 += 0x12345678"),
    doubles.ScratchIsPlatform: _kfunc(1, "r1 += 0x12345678"),
    doubles.FpForgetsOutgoing: _kfunc(9, WRITE, READ, 16),
    doubles.OutgoingAboveSaved: _kfunc(9, WRITE, READ, 16),
    doubles.OutgoingAboveBpfStack: _kfunc(9, WRITE, READ, 16),
    doubles.OutgoingNeverFreed: _kfunc(9, "r6 = 1"),
    doubles.OutgoingFreedAtLastExitOnly: _kfunc(9, "if r1 == 101 goto +1\nexit\nr0 = 0", "if r0 == 0 goto +1\nexit"),
    doubles.OutgoingFreedAfterPops: _kfunc(9, "r6 = 1"),
    doubles.OutgoingSizedByIncoming: _kfunc(12, WRITE, READ, 16),
    doubles.NoResultAfterCall: _subprog(1, "r0 = 5"),
    doubles.NoResultAfterHelper: verified(("main", "call bpf_ktime_get_ns\nexit", NO_STACK)),
    doubles.NoResultAfterKfunc: _kfunc(2),
    doubles.NoResultAfterSubprog: _subprog(1, "r0 = 5"),
    doubles.NoResultFromSubprog: _subprog(1, "r0 = 5"),
    doubles.StackArgsAtX0: _subprog(6, "r0 = *(u64 *)(r11 + 8)"),
    doubles.ArgImmZeroExtended: _kfunc(9, "*(u64 *)(r11 - 32) = -7"),
    doubles.FpBelowStack: _kfunc(1, WRITE, READ, 16),
    doubles.RedZone: _kfunc(1, WRITE, READ, 16),
    doubles.MovElided: verified(("main", "r0 = -1\nw0 = w0\nexit", NO_STACK)),
    doubles.ModOverwritesDividend: verified(("main", "r0 = 100\nr1 = 7\nr0 %= r1\nexit", NO_STACK)),
    doubles.CalleeSavedNotSaved: verified(("main", "r6 = 6\nr0 = 0\nexit", NO_STACK)),
    doubles.CalleeSavedNotRestored: verified(("main", "r6 = 6\nr0 = 0\nexit", NO_STACK)),
    doubles.ExtendsFrom16: verified(("main", "r1 = 0x180\nr0 = (s8)r1\nexit", NO_STACK)),
    doubles.DividesUnsigned: verified(("main", "r0 = -13\nr0 s/= 3\nexit", NO_STACK)),
    doubles.SwapKeepsUpper: verified(("main", "r0 = 0x11223344\nr0 = be16 r0\nexit", NO_STACK)),
    doubles.FetchForgotten: _atomic("r0 = atomic64_fetch_add((u64 *)(r10 - 8), r0)"),
    doubles.OldValueForgotten: _atomic("r0 = atomic64_cmpxchg((u64 *)(r10 - 8), r0, r1)"),
    doubles.ClearsTheMask: _atomic("r0 = atomic64_fetch_and((u64 *)(r10 - 8), r0)\nr0 = *(u64 *)(r10 - 8)"),
    doubles.KfuncArgsNotMoved: _c_kfunc("u64 a, __int128 b, u64 c, u64 d", 5),
    doubles.KfuncArgsAtOddRegisters: _c_kfunc("u64 a, __int128 b, u64 c, u64 d", 5),
    doubles.KfuncArgsSplit: _c_kfunc(
        "u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, struct {u64 lo, hi;} p, u64 h", 10
    ),
    doubles.RecordNotPopped: verified(("main", "r0 = 0\nexit", NO_STACK)),
}
STATIC = {doubles.NoLandingPad}  # the emulator does not enforce landing pads


def test_every_double_has_a_trigger() -> None:
    found = {value for _, value in inspect.getmembers(doubles, inspect.isclass) if issubclass(value, Arm64Jit)}
    assert found - {Arm64Jit} == set(TRIGGERS) | STATIC


@pytest.mark.parametrize("double", TRIGGERS, ids=lambda double: double.__name__)
def test_double_shows(double: type[Arm64Jit]) -> None:
    program = TRIGGERS[double]
    right = run(program)
    assert (right.sp_kept, right.lost, right.fault) == (True, (), "")
    assert all(call.sp_aligned for call in right.calls)
    assert run(program, double()) != right


@pytest.mark.parametrize("double", [*TRIGGERS, *STATIC], ids=lambda double: double.__name__)
def test_double_overrides_one_method(double: type[Arm64Jit]) -> None:
    assert len([name for name in vars(double) if not name.startswith("__")]) == 1


def test_no_landing_pad() -> None:
    program = verified(("main", "r0 = 0\nexit", NO_STACK))
    image = doubles.NoLandingPad().compile(program, addresses(program))
    assert image.landing_pads
    assert image.code[:4] == bytes.fromhex("e9031eaa")
