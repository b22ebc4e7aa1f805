"""What each helper and kfunc does when a suite's engine calls it: one function for the interpreter and the emulator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from harness.isa.ctypes import CInt, CType
from harness.isa.opcodes import MASK64, signed
from harness.isa.proto import Proto
from harness.isa.slots import is_pair, slots_of

# Fixed, so that every engine gives one answer; all bits in use, so that a lost half shows.
HELPER_RESULTS: Final[Mapping[str, int]] = {
    "bpf_ktime_get_ns": 0x1122_3344_5566_7788,
    "bpf_get_prandom_u32": 0x9ABC_DEF1,
    "bpf_get_smp_processor_id": 0,
}


@dataclass(frozen=True, slots=True)
class Body:
    """A function outside the program: its prototype, and what it returns.

    `returns` is an integer, `sum` (of all arguments, each slot by its type), or the name of the parameter it gives back.
    """

    proto: Proto
    returns: int | str


def as_type(value: int, ctype: CType) -> int:
    """The low bits of a 64-bit value as `ctype` sees them: signed types give negative numbers."""
    if isinstance(ctype, CInt):
        bits = ctype.size * 8
        return signed(value, bits) if ctype.signed else value & ((1 << bits) - 1)
    return value & MASK64


def result_of(body: Body, args: Sequence[int]) -> int:
    """The result, unsigned, 64 bits or a pair's 128, for slots already seen by their types."""
    if body.returns == "sum":
        return sum(args) & MASK64
    if isinstance(body.returns, int):
        value = body.returns
    else:
        params = [body.proto.params[slot.param].name for slot in slots_of(body.proto)]
        halves = [arg & MASK64 for name, arg in zip(params, args, strict=True) if name == body.returns]
        value = sum(half << 64 * at for at, half in enumerate(halves))
    return value & ((1 << 128) - 1 if is_pair(body.proto.result) else MASK64)
