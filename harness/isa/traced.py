"""The context of a program that traces a function: an array of words, and which of them it may read. TR-10, TR-11, TR-14.

Linux include/linux/bpf.h, tracing_prog_ctx_access(); kernel/bpf/btf.c, btf_ctx_access().
"""

from dataclasses import dataclass
from typing import Final

from harness.isa.ctypes import X86_64, CInt, CPtr, CStruct, CType, CVoid, bare, rounded_up, size_of, type_text
from harness.isa.opcodes import MAX_ARGS
from harness.isa.proto import Proto
from harness.isa.slots import SLOT_BYTES, kind_word

KINDS: Final = ("fentry", "fexit", "fmod_ret", "fsession")
_SMALL: Final = 8  # bytes of an integer that is read as one


@dataclass(frozen=True, slots=True)
class TracedCtx:
    """What a program of `kind` is given for a call of a function."""

    kind: str
    proto: Proto

    @property
    def size(self) -> int:
        """Bytes of the arguments, and of the result where it is there."""
        return SLOT_BYTES * (self._words() + self.has_result)

    @property
    def holds(self) -> str:
        """What `size` is made of, in words."""
        return f"{self.proto.name}'s arguments{' and its result' if self.has_result else ''}"

    @property
    def has_result(self) -> bool:
        """Whether the result comes after the arguments."""
        return self.kind != "fentry" and not isinstance(bare(self.proto.result), CVoid)

    @property
    def returns_zero(self) -> bool:
        """Whether the program may give back nothing else."""
        return self.kind != "fmod_ret"

    def refusal(self, at: int, size: int, *, is_write: bool) -> str | None:
        """Linux's words where an access is not allowed."""
        words = f"invalid bpf_context access off={at} size={size}"
        if is_write or not 0 <= at < SLOT_BYTES * MAX_ARGS or at % size:
            return words
        if at % SLOT_BYTES:
            return f"func '{self.proto.name}' offset {at} is not multiple of {SLOT_BYTES}\n{words}"
        index = self._index(at)
        if index > len(self.proto.params) or (index == len(self.proto.params) and not self.has_result):
            return f"func '{self.proto.name}' doesn't have {index + 1}-th argument\n{words}"
        why = self._type_refusal(index, size)
        return why and f"{why}\n{words}"

    def _words(self) -> int:
        return sum(_bytes(param.type) for param in self.proto.params) // SLOT_BYTES

    def _index(self, at: int) -> int:
        """Of the parameter; the result comes after the last one, and what is nothing after that."""
        for index, param in enumerate(self.proto.params):
            at -= _bytes(param.type)
            if at < 0:
                return index
        result = bare(self.proto.result)
        back = 0 if isinstance(result, CVoid) else _bytes(result)
        return len(self.proto.params) + (at >= back)

    def _type_refusal(self, index: int, size: int) -> str | None:
        is_result = index == len(self.proto.params)
        ctype = bare(self.proto.result if is_result else self.proto.params[index].type)
        if is_result and self.kind == "fmod_ret" and not _is_small(ctype):
            return f"ret type {kind_word(ctype)} not allowed for fmod_ret"
        if _is_small(ctype) or isinstance(ctype, CStruct):
            return None
        if not isinstance(ctype, CPtr):
            text = f"arg{index} '{type_text(ctype)}' has type {kind_word(ctype)}. Only pointer access is allowed"
            return f"func '{self.proto.name}' {text}"
        return None if size == SLOT_BYTES else f"func '{self.proto.name}' size {size} must be {SLOT_BYTES}"


def _bytes(ctype: CType) -> int:
    """Of its words."""
    return rounded_up(size_of(ctype, X86_64), SLOT_BYTES)


def _is_small(ctype: CType) -> bool:
    return isinstance(ctype, CInt) and ctype.size <= _SMALL
