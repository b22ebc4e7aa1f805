"""Calls of traced functions whose every byte tells where it is from: prototypes of every shape, and random ones.

The first seeds are the grid: every type at every place among up to eleven scalars, with fentry and with fexit.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Final

from backends.trampoline import TRACING, Kind, Target
from backends.trampoline_bench import Scenario, Step
from harness.isa.ctypes import ARM64, CVoid, IncompleteError, Param, size_of
from harness.isa.proto import Proto, parse_proto

SCALARS: Final = ("u64", "u8", "s16", "int", "void *", "u32", "s8", "bool")
TYPES: Final = {
    "u8": "u8", "s16": "s16", "int": "int", "u64": "u64", "pointer": "void *", "__int128": "__int128",
    "struct of 3": "struct {u8 a[3];}", "struct of 8": "struct {int a, b;}", "struct of 9": "struct {u64 a; u8 b;} __attribute__((packed))",
    "struct of 12": "struct {int a, b, c;}", "struct of 16": "struct {u64 a, b;}", "aligned member": "struct {u64 a __attribute__((aligned(16)));}",
    "aligned struct": "struct {u64 a, b;} __attribute__((aligned(16)))", "struct of __int128": "struct {__int128 a;}",
    "packed struct": "struct {u8 a; u64 b; u8 c[7];} __attribute__((packed))", "packed __int128": "struct {__int128 a;} __attribute__((packed))",
    "union of 16": "union {u64 a; struct {u64 b, c;} d;}", "packed struct of 5": "struct {u8 a; u32 b;} __attribute__((packed))",
    "packed struct of 7": "struct {u8 a; u16 b[3];} __attribute__((packed))", "packed struct of 8": "struct {u8 a; u32 b; u8 c[3];} __attribute__((packed))",
}  # fmt: skip
REFUSED_TYPES: Final = ("float", "struct {u64 a, b; u8 c;}", "struct {}", "double")
RESULTS: Final = ("u64", "void", "int", "u8", "void *", "__int128", "struct {int a, b;}", "struct {u64 a, b;}")
COOKIES: Final = (1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF_8000_0000, 0x0123_4567_89AB_CDEF, (1 << 64) - 1)
MAX_GRID_SCALARS: Final = 11
MANY: Final = (17, 30, 36, 37, 38)
_RESULT: Final = 0x8877_6655_4433_2211_FFEE_DDCC_BBAA_9988


@cache
def _parsed(text: str) -> Proto:
    return parse_proto(f"u64 f({text} a)")


def proto_of(types: Sequence[str], result: str = "u64") -> Proto:
    """A function of these types."""
    params = tuple(Param(f"a{number}", _parsed(text).params[0].type) for number, text in enumerate(types, 1))
    return Proto("f", parse_proto(f"{result} f(void)").result, params)


def scenario(
    proto: Proto | str, steps: Sequence[Step], *, func_ip: bool = False, target: Target = Target.KERNEL
) -> Scenario:
    """A call in which byte `i` of argument `n` is 16 n + i, modulo 251 so that no two words look alike."""
    whole = parse_proto(proto) if isinstance(proto, str) else proto
    args = tuple(
        bytes((16 * number + at) % 251 for at in range(_size(param))) for number, param in enumerate(whole.params, 1)
    )
    size = 0 if isinstance(whole.result, CVoid) else size_of(whole.result, ARM64)
    return Scenario(whole, args, _RESULT.to_bytes(16, "little")[:size], tuple(steps), func_ip, target)


def _size(param: Param) -> int:
    try:
        return size_of(param.type, ARM64)
    except IncompleteError:
        return 0


def grid() -> Iterator[tuple[str, ...]]:
    """Every type at every place among up to eleven scalars."""
    for text in TYPES.values():
        for count in range(MAX_GRID_SCALARS + 1):
            for at in range(count + 1):
                types = [SCALARS[n % len(SCALARS)] for n in range(count)]
                yield (*types[:at], text, *types[at:])


@cache
def _grid() -> tuple[tuple[str, ...], ...]:
    return tuple(grid())


def call_of(seed: int, target: Target = Target.KERNEL) -> Scenario:
    """The call of one seed, which counts from 1."""
    if target is Target.BPF:
        return _bpf_call_of(seed)
    if target is Target.STRUCT_OPS:
        return _member_call_of(seed)
    number, kind = divmod(seed - 1, 2)
    if 0 <= number < len(_grid()):
        return scenario(proto_of(_grid()[number]), [Step((Kind.FENTRY, Kind.FEXIT)[kind])])
    rng = random.Random(seed)
    every = [*TYPES.values(), *SCALARS, *SCALARS]
    types = [rng.choice(every) for _ in range(rng.choice((*range(13), 13)))]
    if types and rng.random() < 0.05:
        types[rng.randrange(len(types))] = rng.choice(REFUSED_TYPES)
    result = rng.choice(RESULTS) if rng.random() < 0.3 else "u64"
    steps = [Step(rng.choice(TRACING)) for _ in range(rng.choice((1, 1, 2, 3, 5)))]
    func_ip = rng.random() < 0.2
    if rng.random() < 0.01:  # as many as have no room in Linux, and almost as many
        steps = (steps * MANY[-1])[: rng.choice(MANY)]
    return scenario(proto_of(types, result), steps, func_ip=func_ip)


def _member_call_of(seed: int) -> Scenario:
    """Random, of a member of a struct."""
    rng = random.Random(f"struct_ops {seed}")
    every = SCALARS if rng.random() < 0.3 else [*TYPES.values(), *SCALARS]
    types = [rng.choice(every) for _ in range(rng.choice(range(13)))]
    if types and rng.random() < 0.05:
        types[rng.randrange(len(types))] = rng.choice(REFUSED_TYPES)
    result = rng.choice((*RESULTS, "struct foo *")) if rng.random() < 0.3 else "u64"
    return scenario(proto_of(types, result), [Step(Kind.STRUCT_OPS)], target=Target.STRUCT_OPS)


NUMBERS: Final = ("u64", "u8", "s16", "int", "s64", "u32", "s8", "bool")


def _bpf_call_of(seed: int) -> Scenario:
    """Random, of a function of a BPF program: mostly of numbers, whose BTF Linux 7.2 believes."""
    rng = random.Random(f"bpf {seed}")
    tail_call = rng.random() < 0.2
    every = [*NUMBERS, "__int128"] if rng.random() < 0.7 else [*NUMBERS, *TYPES.values(), "float"]
    types = [rng.choice(every) for _ in range(rng.choice(range(7 if tail_call else 13)))]
    result = rng.choice(RESULTS) if rng.random() < 0.2 else "u64"
    kinds = [kind for kind in TRACING if kind is not Kind.FMOD_RET or rng.random() < 0.1]
    steps = [
        Step(rng.choice(kinds), cookie=rng.choice(COOKIES) if rng.random() < 0.2 else 0)
        for _ in range(rng.choice((1, 1, 2, 3, 5)))
    ]
    call = scenario(proto_of(types, result), steps, func_ip=rng.random() < 0.2, target=Target.BPF)
    return replace(call, tail_call=tail_call)
