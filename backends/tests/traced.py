"""Traced functions for the tests: prototypes, and calls of them whose every byte tells where it is from."""

from collections.abc import Sequence
from typing import Final

from backends.trampoline_bench import Scenario, Step
from harness.isa.ctypes import ARM64, CVoid, Param, size_of
from harness.isa.proto import Proto, parse_proto

SCALARS: Final = ("u64", "u8", "s16", "int", "void *", "u32", "s8", "bool")
TYPES: Final = {
    "u8": "u8", "s16": "s16", "int": "int", "u64": "u64", "pointer": "void *", "__int128": "__int128",
    "struct of 3": "struct {u8 a[3];}", "struct of 8": "struct {int a, b;}", "struct of 9": "struct {u64 a; u8 b;} __attribute__((packed))",
    "struct of 12": "struct {int a, b, c;}", "struct of 16": "struct {u64 a, b;}", "aligned member": "struct {u64 a __attribute__((aligned(16)));}",
    "aligned struct": "struct {u64 a, b;} __attribute__((aligned(16)))", "struct of __int128": "struct {__int128 a;}",
    "packed struct": "struct {u8 a; u64 b; u8 c[7];} __attribute__((packed))", "packed __int128": "struct {__int128 a;} __attribute__((packed))",
    "union of 16": "union {u64 a; struct {u64 b, c;} d;}",
}  # fmt: skip
RESULT: Final = 0x8877_6655_4433_2211_FFEE_DDCC_BBAA_9988


def proto_of(types: Sequence[str]) -> Proto:
    """`u64 f(...)` of these types."""
    params: list[Param] = []
    for number, text in enumerate(types):
        (param,) = _parsed(text).params
        params.append(Param(f"a{number + 1}", param.type))
    return Proto("f", _parsed("u8").result, tuple(params))


_CACHE: dict[str, Proto] = {}


def _parsed(text: str) -> Proto:
    if text not in _CACHE:
        _CACHE[text] = parse_proto(f"u64 f({text} a)")
    return _CACHE[text]


def scenario(proto: Proto | str, steps: Sequence[Step], *, func_ip: bool = False) -> Scenario:
    """A call in which byte `i` of argument `n` is 16 n + i, modulo 251 so that no two words look alike."""
    whole = parse_proto(proto) if isinstance(proto, str) else proto
    args = tuple(
        bytes((16 * number + at) % 251 for at in range(size_of(param.type, ARM64)))
        for number, param in enumerate(whole.params, 1)
    )
    size = 0 if isinstance(whole.result, CVoid) else size_of(whole.result, ARM64)
    return Scenario(whole, args, RESULT.to_bytes(16, "little")[:size], tuple(steps), func_ip)
