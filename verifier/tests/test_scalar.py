"""Soundness: whatever the numbers do, what is known of the result holds for it."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.isa import opcodes as op
from verifier.scalar import Scalar, Tnum, alu, branch, settle

ALU = [row for row in op.ALU if row is not op.MOV]


def scalars(bits: int) -> list[Scalar]:
    """Every tnum of a width with its own bounds, and every unsigned and signed range."""
    limit, top = (1 << bits) - 1, 1 << bits - 1
    found: list[Scalar | None] = []
    for mask in range(limit + 1):
        for value in range(limit + 1):
            if not value & mask:
                found.append(settle(bits, Tnum(value, mask), 0, limit, -top, top - 1))
    for low, high in itertools.combinations_with_replacement(range(limit + 1), 2):
        found.append(settle(bits, Tnum(0, limit), low, high, -top, top - 1))
        found.append(settle(bits, Tnum(0, limit), 0, limit, low - top, high - top))
    return sorted({s for s in found if s is not None}, key=lambda s: (s.umin, s.umax, s.smin, s.smax, s.tnum.mask))


def members(scalar: Scalar) -> list[int]:
    return [n for n in range(scalar.limit + 1) if scalar.holds(n)]


def sample(count: int, bits: int = 4) -> list[tuple[Scalar, Scalar]]:
    rng, pool = random.Random(20261120), scalars(bits)
    return [(rng.choice(pool), rng.choice(pool)) for _ in range(count)]


@pytest.mark.parametrize("row", ALU, ids=[row.name for row in ALU])
def test_alu_on_every_number_of_small_ranges(row: op.AluOp) -> None:
    for a, b in sample(1500):
        result = alu(row, a, b)
        for x, y in itertools.product(members(a), members(b)):
            assert result.holds(row.sem(x, y, 4) & 15), (row.name, a, b, x, y, result)


@pytest.mark.parametrize("row", op.JMP, ids=[row.name for row in op.JMP])
def test_branches_on_every_number_of_small_ranges(row: op.JmpOp) -> None:
    for a, b in sample(1500):
        arms = {taken: branch(row, a, b, taken) for taken in (True, False)}
        for x, y in itertools.product(members(a), members(b)):
            arm = arms[row.holds(x, y, 4)]
            assert arm is not None, (row.name, a, b, x, y)
            assert arm[0].holds(x), (row.name, a, b, x, y, arm)
            assert arm[1].holds(y), (row.name, a, b, x, y, arm)


def test_parts_on_every_number() -> None:
    for scalar in scalars(4):
        for x in members(scalar):
            assert scalar.low(2).holds(x & 3)
    for scalar, low in ((a, b) for a in scalars(4)[::7] for b in scalars(2)):
        narrowed = scalar.with_low(low)
        for x in members(scalar):
            if low.holds(x & 3):
                assert narrowed is not None
                assert narrowed.holds(x)


def test_within_means_what_it_says() -> None:
    for a, b in sample(3000):
        if a.within(b):
            assert set(members(a)) <= set(members(b))


@st.composite
def members_of_wide(draw: st.DrawFn) -> tuple[Scalar, int]:
    """A number, and something true that is known of it."""
    number = draw(st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])))
    mask = draw(st.integers(0, 2**64 - 1))
    low, high = sorted([number, draw(st.integers(0, 2**64 - 1))])
    signed = op.signed(number, 64)
    slow, shigh = sorted([signed, draw(st.integers(-(2**63), 2**63 - 1))])
    found = settle(64, Tnum(number & ~mask, mask), low, high, slow, shigh)
    assert found is not None
    return found, number


@settings(max_examples=300, deadline=None, derandomize=True)
@given(members_of_wide(), members_of_wide(), st.sampled_from(ALU))
def test_alu_at_64_and_32_bits(left: tuple[Scalar, int], right: tuple[Scalar, int], row: op.AluOp) -> None:
    (a, x), (b, y) = left, right
    assert alu(row, a, b).holds(row.sem(x, y, 64) & op.MASK64)
    low = alu(row, a.low(32), b.low(32)).extended()
    assert low.holds(row.sem(x & op.MASK32, y & op.MASK32, 32) & op.MASK32)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(members_of_wide(), members_of_wide(), st.sampled_from(op.JMP))
def test_branches_at_64_bits(left: tuple[Scalar, int], right: tuple[Scalar, int], row: op.JmpOp) -> None:
    (a, x), (b, y) = left, right
    arm = branch(row, a, b, row.holds(x, y, 64))
    assert arm is not None
    assert arm[0].holds(x)
    assert arm[1].holds(y)


def test_the_test_can_fail() -> None:
    a, b = Scalar.unknown(4).at_most(3), Scalar.const(14, 4)
    assert a is not None
    wrong = a  # "adding 14 changes nothing"
    assert not all(wrong.holds(op.ADD.sem(x, 14, 4) & 15) for x in members(a))
    assert all(alu(op.ADD, a, b).holds(op.ADD.sem(x, 14, 4) & 15) for x in members(a))


def test_exact_where_linux_is() -> None:
    byte = Scalar.unknown(8).extended()
    assert (byte.umin, byte.umax, byte.smin, byte.smax) == (0, 255, 0, 255)
    masked = alu(op.AND, Scalar.unknown(), Scalar.const(56))
    assert (masked.umax, masked.tnum) == (56, Tnum(0, 56))
    arm = branch(op.JGT, Scalar.unknown(), Scalar.const(5), False)
    assert arm is not None
    assert (arm[0].umax, arm[0].smin) == (5, 0)
    assert alu(op.ADD, byte, Scalar.const(-8)).smin == -8
    assert branch(op.JEQ, Scalar.const(3), Scalar.const(4), True) is None
