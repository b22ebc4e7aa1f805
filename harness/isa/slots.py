"""Argument slots: what BPF code passes for each parameter of a prototype.

Linux kernel/bpf/btf.c, btf_prepare_func_args(), of bpf-next on 2026-09-13: a value of 1 to 8 bytes takes one slot, one of
9 to 16 bytes the next two, wherever they are. Slots 1 to 5 are R1-R5, 6 to 12 the stack arguments.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from harness.isa.ctypes import (
    X86_64,
    CArray,
    CInt,
    CPtr,
    CStruct,
    CType,
    CVoid,
    IncompleteError,
    Param,
    bare,
    size_of,
)
from harness.isa.opcodes import MAX_ARGS
from harness.isa.proto import Proto

SLOT_BYTES: Final = 8
MAX_VALUE_BYTES: Final = 2 * SLOT_BYTES  # of a value in registers; MAX_BPF_FUNC_ARGS counts slots
MAX_NESTING: Final = 4  # structs within structs. Linux kernel/bpf/verifier.c, __btf_type_is_scalar_struct()
_U64: Final = CInt("u64", 8, False)


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot: the number of its parameter, which half of it, and the type that its bytes have."""

    param: int
    half: int  # 0, or 1 for bytes 8 and up
    name: str
    type: CType


def value_bytes(ctype: CType) -> int | None:
    """The size of a value; None where it is not known. The data models agree on what BPF functions take."""
    try:
        return size_of(ctype, X86_64)
    except IncompleteError:
        return None


def kind_word(ctype: CType) -> str:
    """The BTF kind, as Linux's messages name it."""
    ctype = bare(ctype)
    match ctype:
        case CStruct():
            return ctype.keyword.upper()
        case CPtr():
            return "PTR"
        case _:
            return "INT"


def is_scalars(ctype: CType, depth: int = 1) -> bool:
    """Whether a value is an integer, or a struct or union of nothing else. Linux, btf_struct_is_composed_of()."""
    ctype = bare(ctype)
    match ctype:
        case CInt():
            return True
        case CArray(of, count):
            return bool(count) and is_scalars(of, depth)
        case CStruct(members=tuple() as members):
            return depth <= MAX_NESTING and all(is_scalars(member.type, depth + 1) for member in members)
        case _:
            return False


def fits(ctype: CType) -> bool:
    """Whether a value can be passed or given back in registers: 1 to 16 bytes."""
    return 0 < (value_bytes(ctype) or 0) <= MAX_VALUE_BYTES


def _is_known(ctype: CType) -> bool:
    """Whether Linux can tell what a static function's parameter is: scalars, and pointers tagged as context. SA-V-12."""
    return (isinstance(ctype, CPtr) and ctype.ctx) or (is_scalars(ctype) and fits(ctype))


@lru_cache(maxsize=1024)
def slots_of(proto: Proto) -> tuple[Slot, ...]:
    """The slots of every parameter in order. One that cannot be passed by value stands for a single slot."""
    return tuple(slot for number, param in enumerate(proto.params) for slot in _slots(number, param))


def _slots(number: int, param: Param) -> Iterator[Slot]:
    size = value_bytes(param.type)
    if size is None or not fits(param.type) or isinstance(param.type, CPtr):
        yield Slot(number, 0, param.name, param.type)
    elif size <= SLOT_BYTES:
        yield Slot(number, 0, param.name, param.type if isinstance(param.type, CInt) else _bytes(size))
    else:
        yield Slot(number, 0, f"{param.name} (low half)", _U64)
        yield Slot(number, 1, f"{param.name} (high half)", _bytes(size - SLOT_BYTES))


def _bytes(size: int) -> CInt:
    """The low bytes of a slot; the others are unspecified."""
    return CInt(f"u{8 * size}", size, False)


@lru_cache(maxsize=1024)
def is_prepared(proto: Proto) -> bool:
    """Whether Linux types the slots of a static function, whose arguments it does not check otherwise. SA-V-12, 13."""
    result = proto.result
    returns = isinstance(result, CVoid | CInt) or (isinstance(result, CStruct) and fits(result))
    return returns and all(_is_known(param.type) for param in proto.params) and len(slots_of(proto)) <= MAX_ARGS


@lru_cache(maxsize=1024)
def callee_slots(proto: Proto) -> tuple[Slot, ...]:
    """The slots of a BPF function, as its calls and its own loads count them. HZ-8.

    A static function that Linux cannot type has one for each parameter, whatever its size.
    """
    if proto.is_global or is_prepared(proto):
        return slots_of(proto)
    return tuple(Slot(number, 0, param.name, param.type) for number, param in enumerate(proto.params))


def groups(proto: Proto, slots: Sequence[Slot]) -> list[list[Slot]]:
    """The slots of each parameter."""
    return [[slot for slot in slots if slot.param == number] for number in range(len(proto.params))]


def is_pair(result: CType) -> bool:
    """Whether a result is in R0 and R2: more than 8 bytes."""
    return isinstance(result, CInt | CStruct) and fits(result) and (value_bytes(result) or 0) > SLOT_BYTES


@lru_cache(maxsize=1024)
def as_bpf(proto: Proto, *, kfunc: bool = False) -> Proto:
    """A u64 for each slot. Its layout by an ABI is where BPF code leaves arguments: no holes, no alignment."""
    slots = slots_of(proto) if kfunc else callee_slots(proto)
    return Proto(proto.name, _U64, tuple(Param(slot.name, _U64) for slot in slots), proto.is_global)
