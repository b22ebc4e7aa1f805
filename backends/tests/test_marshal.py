"""Calls of C functions: after the moves, every eightbyte is where the ABI document has it."""

import random

import pytest

from backends.abi import Location
from backends.abis import ARCHES
from backends.arm64.jit import marshal as arm64
from backends.image import CompileError
from backends.marshal import Marshal
from backends.x86_64.jit import marshal as x86_64
from harness.isa.proto import Proto, parse_proto
from harness.isa.slots import as_bpf, slots_of

ARM64, X86_64 = arm64(), x86_64()
MARSHALS = {"arm64": ARM64, "x86_64": X86_64}
TYPES = ("u64", "s8", "void *", "__int128", "struct {u64 a, b;}", "struct {u32 a[3];}", "union {u64 a; u8 b;}",
         "struct {u8 c[3];}", "struct {__int128 v;}", "struct {u64 a; u32 b;} __attribute__((packed))",
         "struct {u8 a; u64 b;} __attribute__((packed))", "struct {u64 a __attribute__((aligned(16)));}")  # fmt: skip


def moved(arch: str, proto: Proto) -> dict[Location, int]:
    """What is where after the moves: the number of a slot."""
    places = [placed.eightbyte(0) for placed in ARCHES[arch][1](as_bpf(proto, kfunc=True)).args]
    held = {where: number for number, where in enumerate(places) if where is not None}
    for move in MARSHALS[arch].moves(proto):
        held[move.target] = held[move.source]
    return held


def wrong(arch: str, proto: Proto) -> list[str]:
    """Slots that are not where the ABI document has them."""
    args, held = ARCHES[arch][1](proto).args, moved(arch, proto)
    rows = ((number, args[slot.param].eightbyte(8 * slot.half)) for number, slot in enumerate(slots_of(proto)))
    return [f"slot {number} at {where}" for number, where in rows if where is not None and held.get(where) != number]


@pytest.mark.parametrize("arch", MARSHALS)
def test_random_prototypes(arch: str) -> None:
    choice = random.Random(7)
    for _ in range(500):
        proto = parse_proto(f"u64 f({', '.join(choice.choices(TYPES, k=choice.randint(1, 8)))})")
        if len(slots_of(proto)) <= 12:
            assert wrong(arch, proto) == [], str(proto)


def test_integers_stay_where_they_are() -> None:
    proto = parse_proto(f"u64 f({', '.join(['u8', 'u64', 'void *'] * 4)})")
    assert [marshal.moves(proto) for marshal in MARSHALS.values()] == [(), ()]


def test_a_circle() -> None:
    """Struct and integer change places: r9, [rsp] and [rsp+8] to [rsp], [rsp+8] and r9."""
    proto = parse_proto("u64 f(u64 a, u64 b, u64 c, u64 d, u64 e, struct {u64 lo, hi;} p, u64 f)")
    found = [f"{move.source} -> {move.target}" for move in X86_64.moves(proto)]
    assert len(found) == 4
    assert sum("spare" in text for text in found) == 2
    assert ARM64.moves(proto) == ()


def test_a_result_in_memory() -> None:
    proto = parse_proto("struct {u8 a; u64 b;} __attribute__((packed)) f(void)")
    with pytest.raises(CompileError, match="f: its result is in memory"):
        X86_64.check_result(proto)
    ARM64.check_result(proto)  # AAPCS64 has none that is in memory for where its members are


def test_what_no_plan_has() -> None:
    proto = parse_proto(f"u64 f({', '.join(['__int128'] * 7)})")
    for marshal in (Marshal(ARM64.model, ARM64.rules), Marshal(X86_64.model, X86_64.rules)):
        with pytest.raises(CompileError, match="f: "):
            marshal.moves(proto)
