"""Every operation on drawn values: RFC 9669 as plain arithmetic here, the interpreter, both JITs and their switches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.arm64.jit import Arm64Jit
from backends.arm64.jit import Options as Arm64Options
from backends.base import Job, Ran
from backends.image import Compiler
from backends.interp import Interpreter
from backends.native import NativeBackend
from backends.x86_64.jit import Options as X8664Options
from backends.x86_64.jit import X8664Jit
from harness.isa.asm import Source, assemble
from verifier.verdict import Accepted
from verifier.verify import Verifier

Model = Callable[[int, int], int]
M64, M32 = (1 << 64) - 1, (1 << 32) - 1


def s64(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def s32(value: int) -> int:
    value &= M32
    return value - (1 << 32) if value >> 31 else value


def u64(value: int) -> int:
    return value


def u32(value: int) -> int:
    return value & M32


def truncated(a: int, b: int) -> int:
    """Division towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def turned(value: int, size: int) -> int:
    return int.from_bytes((value & (1 << 8 * size) - 1).to_bytes(size, "little"), "big")


# RFC 9669, "Arithmetic instructions": r1 is a, r2 is b; all 64 bits of r1 afterwards.
ALU: Final[dict[str, Model]] = {
    "r1 += r2": lambda a, b: a + b,
    "r1 -= r2": lambda a, b: a - b,
    "r1 *= r2": lambda a, b: a * b,
    "r1 /= r2": lambda a, b: a // b if b else 0,
    "r1 s/= r2": lambda a, b: truncated(s64(a), s64(b)) if b else 0,
    "r1 %= r2": lambda a, b: a % b if b else a,
    "r1 s%= r2": lambda a, b: s64(a) - s64(b) * truncated(s64(a), s64(b)) if b else a,
    "r1 |= r2": lambda a, b: a | b,
    "r1 &= r2": lambda a, b: a & b,
    "r1 ^= r2": lambda a, b: a ^ b,
    "r1 <<= r2": lambda a, b: a << (b & 63),
    "r1 >>= r2": lambda a, b: a >> (b & 63),
    "r1 s>>= r2": lambda a, b: s64(a) >> (b & 63),
    "r1 = -r1": lambda a, b: -a,
    "r1 = r2": lambda a, b: b,
    "r1 = (s8)r2": lambda a, b: (b & 0xFF) - (0x100 if b & 0x80 else 0),
    "r1 = (s16)r2": lambda a, b: (b & 0xFFFF) - (0x10000 if b & 0x8000 else 0),
    "r1 = (s32)r2": lambda a, b: s32(b),
    "w1 += w2": lambda a, b: (a + b) & M32,
    "w1 -= w2": lambda a, b: (a - b) & M32,
    "w1 *= w2": lambda a, b: (a * b) & M32,
    "w1 /= w2": lambda a, b: (a & M32) // (b & M32) if b & M32 else 0,
    "w1 s/= w2": lambda a, b: truncated(s32(a), s32(b)) & M32 if b & M32 else 0,
    "w1 %= w2": lambda a, b: (a & M32) % (b & M32) if b & M32 else a & M32,
    "w1 s%= w2": lambda a, b: (s32(a) - s32(b) * truncated(s32(a), s32(b))) & M32 if b & M32 else a & M32,
    "w1 |= w2": lambda a, b: (a | b) & M32,
    "w1 &= w2": lambda a, b: a & b & M32,
    "w1 ^= w2": lambda a, b: (a ^ b) & M32,
    "w1 <<= w2": lambda a, b: (a << (b & 31)) & M32,
    "w1 >>= w2": lambda a, b: (a & M32) >> (b & 31),
    "w1 s>>= w2": lambda a, b: (s32(a) >> (b & 31)) & M32,
    "w1 = -w1": lambda a, b: -a & M32,
    "w1 = w2": lambda a, b: b & M32,
    "w1 = (s8)w2": lambda a, b: ((b & 0xFF) - (0x100 if b & 0x80 else 0)) & M32,
    "w1 = (s16)w2": lambda a, b: ((b & 0xFFFF) - (0x10000 if b & 0x8000 else 0)) & M32,
    "r1 += -7": lambda a, b: a - 7,
    "r1 /= 7": lambda a, b: a // 7,
    "r1 s/= -1": lambda a, b: -a,
    "r1 s%= -3": lambda a, b: s64(a) + 3 * truncated(s64(a), -3),
    "r1 &= -256": lambda a, b: a & ~0xFF,
    "w1 &= -256": lambda a, b: a & 0xFFFF_FF00,
    "w1 s/= -1": lambda a, b: -s32(a) & M32,
    "r1 <<= 63": lambda a, b: a << 63,
    "r1 s>>= 1": lambda a, b: s64(a) >> 1,
    "w1 s>>= 31": lambda a, b: (s32(a) >> 31) & M32,
    "r1 *= 0x7fffffff": lambda a, b: a * 0x7FFF_FFFF,
    "r1 = be16 r1": lambda a, b: turned(a, 2),
    "r1 = be32 r1": lambda a, b: turned(a, 4),
    "r1 = be64 r1": lambda a, b: turned(a, 8),
    "r1 = le16 r1": lambda a, b: a & 0xFFFF,
    "r1 = le32 r1": lambda a, b: a & M32,
    "r1 = le64 r1": lambda a, b: a,
    "r1 = bswap16 r1": lambda a, b: turned(a, 2),
    "r1 = bswap32 r1": lambda a, b: turned(a, 4),
    "r1 = bswap64 r1": lambda a, b: turned(a, 8),
}  # fmt: skip

# RFC 9669, "Jump instructions": whether the jump is taken.
Taken = Callable[[int, int], bool]
JUMPS: Final[dict[str, Taken]] = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, "&": lambda a, b: a & b != 0,
}  # fmt: skip
SIGNED: Final[dict[str, Taken]] = {
    "s>": lambda a, b: a > b, "s>=": lambda a, b: a >= b, "s<": lambda a, b: a < b, "s<=": lambda a, b: a <= b,
}  # fmt: skip


def jumps() -> dict[str, Model]:
    rows: dict[str, Model] = {}
    for symbol, taken in (JUMPS | SIGNED).items():
        wide, low = (s64, s32) if symbol in SIGNED else (u64, u32)
        rows[f"r3 = 0\nif r1 {symbol} r2 goto +1\nr3 = 1\nr1 = r3"] = _fallen(taken, wide)
        rows[f"r3 = 0\nif w1 {symbol} w2 goto +1\nr3 = 1\nr1 = r3"] = _fallen(taken, low)
    return rows


def _fallen(taken: Taken, seen: Callable[[int], int]) -> Model:
    return lambda a, b: int(not taken(seen(a), seen(b)))


# RFC 9669, "Atomic operations": memory holds a; what is in memory afterwards, and what the register or R0 has.
ATOMICS: Final[dict[str, tuple[Model, Model]]] = {
    "lock *(u64 *)(r10 - 8) += r2": (lambda a, b: a + b, lambda a, b: b),
    "lock *(u64 *)(r10 - 8) |= r2": (lambda a, b: a | b, lambda a, b: b),
    "lock *(u64 *)(r10 - 8) &= r2": (lambda a, b: a & b, lambda a, b: b),
    "lock *(u64 *)(r10 - 8) ^= r2": (lambda a, b: a ^ b, lambda a, b: b),
    "lock *(u32 *)(r10 - 8) += r2": (lambda a, b: a & ~M32 | (a + b) & M32, lambda a, b: b),
    "lock *(u32 *)(r10 - 8) &= r2": (lambda a, b: a & (b | ~M32), lambda a, b: b),
    "r2 = atomic_fetch_add((u64 *)(r10 - 8), r2)": (lambda a, b: a + b, lambda a, b: a),
    "r2 = atomic_fetch_or((u64 *)(r10 - 8), r2)": (lambda a, b: a | b, lambda a, b: a),
    "r2 = atomic_fetch_and((u64 *)(r10 - 8), r2)": (lambda a, b: a & b, lambda a, b: a),
    "r2 = atomic_fetch_xor((u64 *)(r10 - 8), r2)": (lambda a, b: a ^ b, lambda a, b: a),
    "w2 = atomic_fetch_add((u32 *)(r10 - 8), w2)": (lambda a, b: a & ~M32 | (a + b) & M32, lambda a, b: a & M32),
    "w2 = atomic_fetch_or((u32 *)(r10 - 8), w2)": (lambda a, b: a | b & M32, lambda a, b: a & M32),
    "w2 = atomic_fetch_and((u32 *)(r10 - 8), w2)": (lambda a, b: a & (b | ~M32), lambda a, b: a & M32),
    "w2 = atomic_fetch_xor((u32 *)(r10 - 8), w2)": (lambda a, b: a ^ b & M32, lambda a, b: a & M32),
    "r2 = xchg_64(r10 - 8, r2)": (lambda a, b: b, lambda a, b: a),
    "w2 = xchg32_32(r10 - 8, w2)": (lambda a, b: a & ~M32 | b & M32, lambda a, b: a & M32),
    "r0 = r1\nr0 = cmpxchg_64(r10 - 8, r0, r2)\nr2 = r0": (lambda a, b: b, lambda a, b: a),
    "r0 = r2\nr0 = cmpxchg_64(r10 - 8, r0, r2)\nr2 = r0": (lambda a, b: a, lambda a, b: a),
    "r0 = r1\nw0 = cmpxchg32_32(r10 - 8, w0, w2)\nr2 = r0": (lambda a, b: a & ~M32 | b & M32, lambda a, b: a & M32),
}  # fmt: skip


def group(name: str) -> tuple[dict[str, tuple[Model, Model] | Model], int]:
    if name == "atomics":
        return dict(ATOMICS), 2
    return dict(ALU if name == "arithmetic" else jumps()), 1


@pytest.fixture(scope="module", params=["arithmetic", "jumps", "atomics"])
def one(request: pytest.FixtureRequest) -> tuple[str, Job]:
    """A program that does every operation of a group on the context's two words, and stores what each gives."""
    rows, each = group(request.param)
    lines = ["r6 = r1"]
    for number, text in enumerate(rows):
        lines += ["r1 = *(u64 *)(r6 + 0)", "r2 = *(u64 *)(r6 + 8)"]
        lines += ["*(u64 *)(r10 - 8) = r1", text, "r1 = *(u64 *)(r10 - 8)"] if each == 2 else [text]
        at = 16 + 8 * each * number
        lines += [f"*(u64 *)(r6 + {at}) = r1", *([f"*(u64 *)(r6 + {at + 8}) = r2"] if each == 2 else [])]
    prog = assemble([Source("main", "\n".join([*lines, "r0 = 0", "exit"]))]).prog
    verdict = Verifier().verify(prog)
    assert isinstance(verdict, Accepted), verdict
    return request.param, Job(prog, verdict.verified, bytes(16 + 8 * each * len(rows)), ())


ENGINES: Final[dict[str, Compiler]] = {
    "jit-x86_64": X8664Jit(),
    "jit-x86_64 without BMI2": X8664Jit(X8664Options(bmi2=False)),
    "jit-arm64": Arm64Jit(),
    "jit-arm64 without LSE": Arm64Jit(Arm64Options(lse=False)),
}
BACKENDS: Final = {name: NativeBackend(name, jit) for name, jit in ENGINES.items()}
EDGES: Final = [
    0, 1, 2, 7, 31, 32, 33, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0x7FFF_FFFF, 0x8000_0000, M32, 1 << 32,
    0x1234_5678_9ABC_DEF0, (1 << 63) - 1, 1 << 63, M64 - 1, M64, 0xFFFF_FFFF_8000_0000, 0x8000_0000_8000_0000,
]  # fmt: skip
VALUES = st.sampled_from(EDGES) | st.integers(0, M64)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(a=VALUES, b=VALUES)
def test_every_operation(one: tuple[str, Job], a: int, b: int) -> None:
    name, job = one
    rows, each = group(name)
    wanted = [a, b]
    for model in rows.values():
        wanted += [part(a, b) & M64 for part in (model if isinstance(model, tuple) else (model,))]
    given = a.to_bytes(8, "little") + b.to_bytes(8, "little")
    job = replace(job, ctx=given.ljust(len(job.ctx), b"\0"))
    reference = Interpreter().run(job)
    assert isinstance(reference, Ran)
    for engine, outcome in (
        ("interp", reference),
        *((n, back.run(replace(job, reference=reference))) for n, back in BACKENDS.items()),
    ):
        assert isinstance(outcome, Ran)
        assert outcome.violations == ()
        got = [int.from_bytes(outcome.memory[at : at + 8], "little") for at in range(0, len(outcome.memory), 8)]
        wrong = [
            (engine, text, hex(a), hex(b), hex(got[2 + each * n + k]), hex(wanted[2 + each * n + k]))
            for n, text in enumerate(rows) for k in range(each) if got[2 + each * n + k] != wanted[2 + each * n + k]
        ]  # fmt: skip
        assert wrong == []
