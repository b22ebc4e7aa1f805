"""A class per rule: id, error, what must hold, and Linux's words where it does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from harness.isa import opcodes as op
from harness.isa.calls import HELPERS_BY_NAME
from harness.isa.insn import Insn, LdImm64, Undefined, is_stack_arg_load, is_stack_arg_store
from harness.isa.maps import TYPES, Map
from harness.isa.opcodes import signed
from verifier.scalar import Scalar, alu
from verifier.state import (
    MAX_CTX_OFF,
    STACK_BYTES,
    CtxPtr,
    Frame,
    FramePtr,
    MapPtr,
    NotInit,
    Pointer,
    Region,
    RegState,
    ValuePtr,
    is_memory,
    is_traced_ctx,
    type_word,
)  # fmt: skip

EINVAL, EACCES, EFAULT, E2BIG, EBADF, ENOENT, EPROTO, EOPNOTSUPP, ENOTSUPP = 22, 13, 14, 7, 9, 2, 71, 95, 524
MAX_VAR_OFF: Final = 1 << 29  # Linux include/linux/bpf_verifier.h, BPF_MAX_VAR_OFF
S64_MIN, S64_MAX = -(1 << 63), (1 << 63) - 1
MAX_SLOTS: Final = op.MAX_STACK_ARGS


class Rule(Protocol):
    """One thing that must hold before an insn may have its effect."""

    id: ClassVar[str]
    errno: ClassVar[int]

    def holds(self, frame: Frame) -> bool:
        """Whether it holds in the running frame."""
        ...

    def message(self) -> str:
        """Linux's words."""
        ...


@dataclass(frozen=True, slots=True)
class Readable:
    """A register is written before it is read. Linux kernel/bpf/verifier.c, check_reg_arg()."""

    id: ClassVar[str] = "reg-readable"
    errno: ClassVar[int] = EACCES
    reg: int

    def holds(self, frame: Frame) -> bool:
        """The register holds something."""
        return not isinstance(frame.regs[self.reg], NotInit)

    def message(self) -> str:
        """Linux's words."""
        return f"R{self.reg} !read_ok"


@dataclass(frozen=True, slots=True)
class Writable:
    """R10 is never written. Linux kernel/bpf/verifier.c, check_reg_arg()."""

    id: ClassVar[str] = "fp-read-only"
    errno: ClassVar[int] = EACCES
    reg: int

    def holds(self, frame: Frame) -> bool:
        """It is another register."""
        return self.reg != op.FP

    def message(self) -> str:
        """Linux's words."""
        return "frame pointer is read only"


@dataclass(frozen=True, slots=True)
class StackArgWriteLimit:
    """There are seven slots for stack arguments, whatever the callee takes. SA-V-17."""

    id: ClassVar[str] = "stack-arg-write-limit"
    errno: ClassVar[int] = EINVAL
    off: int
    limit: int = MAX_SLOTS

    def holds(self, frame: Frame) -> bool:
        """The slot is one of them."""
        return -self.off // 8 <= self.limit

    def message(self) -> str:
        """Linux's words."""
        return f"stack arg write offset {self.off} exceeds max {MAX_SLOTS} stack args"


@dataclass(frozen=True, slots=True)
class StackArgLoadFirst:
    """Incoming stack arguments are loaded before any is stored and before any call. SA-V-22, SA-V-26."""

    id: ClassVar[str] = "stack-arg-load-first"
    errno: ClassVar[int] = EINVAL

    def holds(self, frame: Frame) -> bool:
        """No store and no call came before on this path."""
        return not frame.no_stack_arg_load

    def message(self) -> str:
        """Linux's words."""
        return "r11 load must be before any r11 store or call insn"


@dataclass(frozen=True, slots=True)
class StackArgReadLimit:
    """A function loads only the stack arguments that its prototype has. SA-V-22."""

    id: ClassVar[str] = "stack-arg-read-limit"
    errno: ClassVar[int] = EACCES
    off: int
    incoming: int

    def holds(self, frame: Frame) -> bool:
        """The slot is one of the function's own."""
        return self.off // 8 <= self.incoming

    def message(self) -> str:
        """Linux's words."""
        return f"invalid read from stack arg off {self.off} depth {self.incoming * 8}"


@dataclass(frozen=True, slots=True)
class StackArgInitialized:
    """Every stack argument that the callee's prototype has was stored since the last call. SA-V-30."""

    id: ClassVar[str] = "stack-arg-initialized"
    errno: ClassVar[int] = EFAULT
    params: int

    def first_missing(self, frame: Frame) -> int | None:
        """The lowest slot that holds nothing."""
        for slot in range(self.params - op.MAX_REG_ARGS):
            if slot >= len(frame.slots) or isinstance(frame.slots[slot], NotInit):
                return slot
        return None

    def holds(self, frame: Frame) -> bool:
        """None is missing."""
        return self.first_missing(frame) is None

    def message(self) -> str:
        """Linux's words, but for the slot; `message_in` has it."""
        return f"callee expects {self.params} args"

    def message_in(self, frame: Frame) -> str:
        """Linux's words: slots are counted from 1."""
        return f"{self.message()}, stack arg{(self.first_missing(frame) or 0) + 1} is not initialized"


@dataclass(frozen=True, slots=True)
class PointerAccess:
    """Memory is reached through a pointer. Linux kernel/bpf/verifier.c, check_mem_access()."""

    id: ClassVar[str] = "mem-type"
    errno: ClassVar[int] = EACCES
    reg: int
    state: RegState

    def holds(self, frame: Frame) -> bool:
        """The base is a pointer, and not NULL. Linux also lets a program read the fields of a map, which nobody has here."""
        return is_memory(self.state)

    def message(self) -> str:
        """Linux's words."""
        return f"R{self.reg} invalid mem access '{type_word(self.state)}'"


@dataclass(frozen=True, slots=True)
class AtomicMemory:
    """A context is not reached by atomic insns. Linux kernel/bpf/verifier.c, atomic_ptr_type_ok()."""

    id: ClassVar[str] = "atomic-mem"
    errno: ClassVar[int] = EACCES
    reg: int
    state: RegState
    is_load: bool

    def holds(self, frame: Frame) -> bool:
        """It is other memory, or none."""
        return not isinstance(self.state, CtxPtr)

    def message(self) -> str:
        """Linux's words."""
        word = "loads from" if self.is_load else "stores into"
        return f"BPF_ATOMIC {word} R{self.reg} {type_word(self.state)} is not allowed"


@dataclass(frozen=True, slots=True)
class NoPacket:
    """Packets are for programs that have one. Linux kernel/bpf/verifier.c, check_ld_abs()."""

    id: ClassVar[str] = "packet-access"
    errno: ClassVar[int] = EINVAL

    def holds(self, frame: Frame) -> bool:
        """Never: a syscall prog has none."""
        return False

    def message(self) -> str:
        """Linux's words."""
        return "BPF_LD_[ABS|IND] instructions not allowed for this program type"


@dataclass(frozen=True, slots=True)
class StackAligned:
    """A stack access is a multiple of its size. Linux kernel/bpf/verifier.c, check_ptr_alignment()."""

    id: ClassVar[str] = "stack-align"
    errno: ClassVar[int] = EACCES
    base: FramePtr
    off: int
    size: int

    def holds(self, frame: Frame) -> bool:
        """It is, whatever the unknown part."""
        unknown = self.base.var.tnum.mask | self.base.var.tnum.value if self.base.var else 0
        return (self.base.off + self.off) % self.size == 0 and unknown % self.size == 0

    def message(self) -> str:
        """Linux's words."""
        tnum = whole_offset(self.base).tnum
        moved = f"({tnum.value:#x}; {tnum.mask:#x})" if tnum.mask else f"{tnum.value:#x}" if tnum.value else "0"
        return f"misaligned stack access off {moved}+{self.off} size {self.size}"


@dataclass(frozen=True, slots=True)
class StackBounds:
    """An access at a known offset stays in the 512 bytes below R10. Linux, check_stack_access_within_bounds()."""

    id: ClassVar[str] = "stack-bounds"
    errno: ClassVar[int] = EACCES
    reg: int
    base: FramePtr
    off: int
    size: int
    is_write: bool

    def holds(self, frame: Frame) -> bool:
        """It does."""
        return in_stack(self.base, self.off, self.size)

    def message(self) -> str:
        """Linux's words."""
        at = reach(self.base, self.off)[0]
        return f"invalid {access_word(self.is_write)} stack R{self.reg} off={at} size={self.size}"


@dataclass(frozen=True, slots=True)
class StackEnd(StackBounds):
    """An access that begins below R10 ends there too, which only one that is not aligned can fail to do."""

    errno: ClassVar[int] = EINVAL


@dataclass(frozen=True, slots=True)
class VariableStackBounds:
    """An access at an unknown offset stays there for every value of it. Linux, check_stack_access_within_bounds()."""

    id: ClassVar[str] = "stack-bounds"
    errno: ClassVar[int] = EINVAL
    reg: int
    base: FramePtr
    off: int
    size: int
    is_write: bool

    def holds(self, frame: Frame) -> bool:
        """It does."""
        return in_stack(self.base, self.off, self.size)

    def message(self) -> str:
        """Linux's words."""
        tnum = whole_offset(self.base).tnum
        moved = f"var_off=({tnum.value:#x}; {tnum.mask:#x})"
        word = access_word(self.is_write)
        return f"invalid variable-offset {word} stack R{self.reg} {moved} off={self.off} size={self.size}"


@dataclass(frozen=True, slots=True)
class ValueAligned:
    """An atomic access to a map's value is a multiple of its size. Linux kernel/bpf/verifier.c, check_ptr_alignment()."""

    id: ClassVar[str] = "map-align"
    errno: ClassVar[int] = EACCES
    base: ValuePtr
    off: int
    size: int

    def holds(self, frame: Frame) -> bool:
        """It is, whatever the unknown part."""
        tnum = whole_offset(self.base).tnum
        return (tnum.value + self.off) % self.size == 0 and tnum.mask % self.size == 0

    def message(self) -> str:
        """Linux's words."""
        tnum = whole_offset(self.base).tnum
        moved = f"({tnum.value:#x}; {tnum.mask:#x})" if tnum.mask else f"{tnum.value:#x}" if tnum.value else "0"
        return f"misaligned value access off {moved}+{self.off} size {self.size}"


@dataclass(frozen=True, slots=True)
class MapWritable:
    """A map that programs may only read is not written. Linux kernel/bpf/verifier.c, check_map_access_type()."""

    id: ClassVar[str] = "map-read-only"
    errno: ClassVar[int] = EACCES
    base: ValuePtr
    off: int
    size: int

    def holds(self, frame: Frame) -> bool:
        """It may be written."""
        return not self.base.map.rdonly

    def message(self) -> str:
        """Linux's words."""
        at = signed(whole_offset(self.base).tnum.value + self.off, 32)
        return f"write into map forbidden, value_size={self.base.map.value_size} off={at} size={self.size}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """An access to memory of a known size lies within it, aligned or not. Linux 7.2, check_mem_region_access()."""

    id: ClassVar[str]
    errno: ClassVar[int] = EACCES
    reg: int
    base: CtxPtr | ValuePtr
    off: int
    size: int

    @property
    def limit(self) -> int:
        """Bytes of the memory."""
        raise NotImplementedError

    @property
    def words(self) -> str:
        """How Linux names it."""
        raise NotImplementedError

    def holds(self, frame: Frame) -> bool:
        """It does, wherever the pointer may be."""
        return self._refusal() is None

    def message(self) -> str:
        """Linux's words."""
        return self._refusal() or ""

    def _refusal(self) -> str | None:
        moved = whole_offset(self.base)
        low, high = moved.smin + self.off, moved.umax + self.off
        if moved.smin < 0 and low < 0:
            check = "either use unsigned index or do a if (index >=0) check."
            return f"R{self.reg} min value is negative, {check}"
        if not self._inside(low):
            return f"{self._outside(low)}\nR{self.reg} min value is outside of the allowed memory range"
        if moved.umax >= MAX_VAR_OFF:
            return f"R{self.reg} unbounded memory access, make sure to bounds check any such access"
        if not self._inside(high):
            return f"{self._outside(high)}\nR{self.reg} max value is outside of the allowed memory range"
        return None

    def _inside(self, at: int) -> bool:
        return at >= 0 and at + self.size <= self.limit

    def _outside(self, at: int) -> str:
        return f"invalid access to {self.words}={self.limit} off={at} size={self.size}"


@dataclass(frozen=True, slots=True)
class CtxBounds(Bounds):
    """An access to a syscall prog's context lies in its largest size."""

    id: ClassVar[str] = "ctx-bounds"

    @property
    def limit(self) -> int:
        """Bytes of the largest context."""
        return MAX_CTX_OFF

    @property
    def words(self) -> str:
        """How Linux names it."""
        return "context, ctx_size"


@dataclass(frozen=True, slots=True)
class TracedCtxAccess:
    """A program that traces a function reads the words that it was given, each as its type says. TR-14."""

    id: ClassVar[str] = "ctx-access"
    errno: ClassVar[int] = EACCES
    reg: int
    base: CtxPtr
    off: int
    size: int
    is_write: bool

    def holds(self, frame: Frame) -> bool:
        """It does."""
        return self._refusal() is None

    def message(self) -> str:
        """Linux's words."""
        return self._refusal() or ""

    def _refusal(self) -> str | None:
        assert self.base.traced is not None
        tnum = whole_offset(self.base).tnum
        if not tnum.mask and (moved := signed(tnum.value, 32)) < 0:
            return f"negative offset ctx ptr R{self.reg} off={moved} disallowed"
        if tnum.mask:
            return f"variable ctx access var_off=({tnum.value:#x}; {tnum.mask:#x}) disallowed"
        at = signed(tnum.value + self.off, 32)
        return self.base.traced.refusal(at, self.size, is_write=self.is_write)


@dataclass(frozen=True, slots=True)
class TracedReturn:
    """What runs beside a function has nothing to say of its result, and returns 0. Linux 7.2, check_return_code(). TR-14."""

    id: ClassVar[str] = "return-value"
    errno: ClassVar[int] = EINVAL
    value: RegState

    def holds(self, frame: Frame) -> bool:
        """It is 0."""
        return isinstance(self.value, Scalar) and self.value.smin == self.value.smax == 0

    def message(self) -> str:
        """Linux's words."""
        if not isinstance(self.value, Scalar):
            return f"At program exit the register R0 is not a known value ({type_word(self.value)})"
        low, high = self.value.smin, self.value.smax
        known = f"{f' smin={low}' if low > S64_MIN else ''}{f' smax={high}' if high < S64_MAX else ''}"
        return f"At program exit the register R0 has{known or ' unknown scalar value'} should have been in [0, 0]"


@dataclass(frozen=True, slots=True)
class ValueBounds(Bounds):
    """An access to a map's value lies in it."""

    id: ClassVar[str] = "map-bounds"

    @property
    def limit(self) -> int:
        """Bytes of a value."""
        assert isinstance(self.base, ValuePtr)
        return self.base.map.value_size

    @property
    def words(self) -> str:
        """How Linux names it."""
        return "map value, value_size"


@dataclass(frozen=True, slots=True)
class DivisorNotZero:
    """A constant divisor is not 0. Linux kernel/bpf/verifier.c, check_alu_op()."""

    id: ClassVar[str] = "div-zero"
    errno: ClassVar[int] = EINVAL
    divisor: int

    def holds(self, frame: Frame) -> bool:
        """It is not."""
        return self.divisor != 0

    def message(self) -> str:
        """Linux's words."""
        return "div by zero"


@dataclass(frozen=True, slots=True)
class ShiftInRange:
    """A constant shift is less than the width. Linux kernel/bpf/verifier.c, check_alu_op()."""

    id: ClassVar[str] = "shift-range"
    errno: ClassVar[int] = EINVAL
    count: int
    bits: int

    def holds(self, frame: Frame) -> bool:
        """It is."""
        return 0 <= self.count < self.bits

    def message(self) -> str:
        """Linux's words."""
        return f"invalid shift {self.count}"


@dataclass(frozen=True, slots=True)
class PointerArithmetic:
    """Pointers know addition and subtraction of numbers at 64 bits only. Linux, adjust_reg_min_max_vals()."""

    id: ClassVar[str] = "ptr-arith"
    errno: ClassVar[int] = EACCES
    row: op.AluOp
    bits: int
    reg: int
    dst: RegState
    src: RegState

    def holds(self, frame: Frame) -> bool:
        """No pointer is touched otherwise; the difference of pointers is a number to a privileged program."""
        return self._refusal() is None

    def message(self) -> str:
        """Linux's words."""
        return self._refusal() or ""

    def _refusal(self) -> str | None:
        dst, src = isinstance(self.dst, Pointer), isinstance(self.src, Pointer)
        if not (dst or src) or self.row in (op.MOV, op.NEG, *op.MOVSX) or (self.row is op.SUB and dst and src):
            return None
        if dst and src:
            return f"R{self.reg} pointer {self.row.symbol} pointer prohibited"
        if self.bits == 32:
            return None if self.row is op.SUB and dst else f"R{self.reg} 32-bit pointer arithmetic prohibited"
        if (refusal := self._immovable(self.dst if dst else self.src, self.src if dst else self.dst)) is not None:
            return refusal
        if self.row is op.SUB and isinstance(self.dst, FramePtr):
            return f"R{self.reg} subtraction from stack pointer prohibited"
        if self.row is op.ADD or (self.row is op.SUB and dst):
            return None
        if self.row is op.SUB:
            return f"R{self.reg} tried to subtract pointer from scalar"
        if self.row in (op.AND, op.OR, op.XOR):
            return f"R{self.reg} bitwise operator {self.row.symbol} on pointer prohibited"
        return f"R{self.reg} pointer arithmetic with {self.row.symbol} operator prohibited"

    def _immovable(self, pointer: RegState, number: RegState) -> str | None:
        """Pointers that know no arithmetic at all, adding 0 to a map apart."""
        words = f"R{self.reg} pointer arithmetic on {type_word(pointer)} prohibited"
        if isinstance(pointer, ValuePtr) and pointer.lookup:
            return f"{words}, null-check it first"
        nothing = self.row is op.ADD and number == Scalar.const(0)
        return words if isinstance(pointer, MapPtr) and not nothing else None


@dataclass(frozen=True, slots=True)
class PointerReach:
    """A pointer moves by less than 2^29 bytes, and by a number with a lower bound. Linux, check_reg_sane_offset()."""

    id: ClassVar[str] = "ptr-arith"
    errno: ClassVar[int] = EINVAL
    row: op.AluOp
    bits: int
    dst: RegState
    src: RegState

    def holds(self, frame: Frame) -> bool:
        """It does; insns that move no pointer are not asked."""
        return self._refusal() is None

    def message(self) -> str:
        """Linux's words."""
        return self._refusal() or ""

    def _refusal(self) -> str | None:
        moves = self.bits == 64 and self.row in (op.ADD, op.SUB)
        pointer, number = (self.dst, self.src) if isinstance(self.dst, Pointer) else (self.src, self.dst)
        if not moves or not isinstance(number, Scalar) or not isinstance(pointer, Region):
            return None
        word = type_word(pointer)
        if number.value is not None and abs(number.smin) >= MAX_VAR_OFF:
            return f"math between {word} pointer and {number.smin} is not allowed"
        if number.smin == -(1 << 63):
            return f"math between {word} pointer and register with unbounded min value is not allowed"
        if abs(number.smin) >= MAX_VAR_OFF:
            return f"value {number.smin} makes {word} pointer be out of bounds"
        return None if abs(pointer.off) < MAX_VAR_OFF else f"{word} pointer offset {pointer.off} is not allowed"


@dataclass(frozen=True, slots=True)
class KfuncScalar:
    """A kfunc's integer parameter is given a number. SA-V-31, SA-V-39."""

    id: ClassVar[str] = "kfunc-arg-scalar"
    errno: ClassVar[int] = EINVAL
    operand: str
    state: RegState

    def holds(self, frame: Frame) -> bool:
        """It is one."""
        return isinstance(self.state, Scalar)

    def message(self) -> str:
        """Linux's words."""
        return f"{self.operand} is not a scalar"


@dataclass(frozen=True, slots=True)
class KfuncPointer:
    """A kfunc's pointer parameter is given memory of the program. SA-V-40; section 20, SA-V-42."""

    id: ClassVar[str] = "kfunc-arg-pointer"
    errno: ClassVar[int] = EACCES
    operand: str
    state: RegState

    def holds(self, frame: Frame) -> bool:
        """It is a pointer to stack, context or a map's value."""
        return is_memory(self.state)

    def message(self) -> str:
        """Linux's words."""
        return f"{self.operand} type={type_word(self.state)} expected=fp"


@dataclass(frozen=True, slots=True)
class NoStackPointerBack:
    """A function does not return a pointer into a stack. Linux kernel/bpf/verifier.c, prepare_func_exit()."""

    id: ClassVar[str] = "return-stack-pointer"
    errno: ClassVar[int] = EINVAL
    pair: bool  # its result is in R0 and R2

    def holds(self, frame: Frame) -> bool:
        """R0 is something else, and R2 of a pair."""
        return not any(isinstance(frame.regs[reg], FramePtr) for reg in ((0, 2) if self.pair else (0,)))

    def message(self) -> str:
        """Linux's words."""
        return "cannot return stack pointer to the caller"


MEM_TYPES: Final = "fp, pkt, pkt_meta, map_key, map_value, mem, ringbuf_mem, buf, trusted_ptr_, ctx"


@dataclass(frozen=True, slots=True)
class HelperMap:
    """A helper's map parameter is given a map. Linux kernel/bpf/verifier.c, check_reg_type()."""

    id: ClassVar[str] = "helper-arg"
    errno: ClassVar[int] = EACCES
    reg: int
    state: RegState

    def holds(self, frame: Frame) -> bool:
        """It is one."""
        return isinstance(self.state, MapPtr)

    def message(self) -> str:
        """Linux's words."""
        return f"R{self.reg} type={type_word(self.state)} expected=map_ptr"


@dataclass(frozen=True, slots=True)
class HelperCtx:
    """A helper's context parameter is given the context. Linux kernel/bpf/verifier.c, check_reg_type()."""

    id: ClassVar[str] = "helper-arg"
    errno: ClassVar[int] = EACCES
    reg: int
    state: RegState

    def holds(self, frame: Frame) -> bool:
        """It is it, as it was given."""
        return isinstance(self.state, CtxPtr)

    def message(self) -> str:
        """Linux's words."""
        return f"R{self.reg} type={type_word(self.state)} expected=ctx"


@dataclass(frozen=True, slots=True)
class MapForHelper:
    """Tail calls take prog arrays, which nothing else does.

    Linux kernel/bpf/verifier.c, record_func_map() and check_map_func_compatibility(), after all arguments.
    """

    id: ClassVar[str] = "helper-map"
    errno: ClassVar[int] = EINVAL
    helper: str
    map: Map

    def holds(self, frame: Frame) -> bool:
        """The map is of a type that the helper takes."""
        return self.map.has_progs == (self.helper == "bpf_tail_call")

    def message(self) -> str:
        """Linux's words."""
        if self.helper == "bpf_tail_call":
            return "expected prog array map for tail call"
        number = HELPERS_BY_NAME[self.helper].id
        return f"cannot pass map_type {TYPES[self.map.type]} into func {self.helper}#{number}"


@dataclass(frozen=True, slots=True)
class HelperMemory:
    """A helper's key or value is memory of the program. Linux kernel/bpf/verifier.c, check_reg_type()."""

    id: ClassVar[str] = "helper-arg"
    errno: ClassVar[int] = EACCES
    reg: int
    state: RegState

    def holds(self, frame: Frame) -> bool:
        """It is; what a traced function was called with is none."""
        return is_memory(self.state) and not is_traced_ctx(self.state)

    def message(self) -> str:
        """Linux's words."""
        expected = type_word(FramePtr(0, 0)) if is_traced_ctx(self.state) else MEM_TYPES
        return f"R{self.reg} type={type_word(self.state)} expected={expected}"


@dataclass(frozen=True, slots=True)
class HelperWrites:
    """No helper writes a map that programs may only read. Linux kernel/bpf/verifier.c, record_func_map()."""

    id: ClassVar[str] = "map-read-only"
    errno: ClassVar[int] = EACCES
    map: Map

    def holds(self, frame: Frame) -> bool:
        """It may be written."""
        return not self.map.rdonly

    def message(self) -> str:
        """Linux's words."""
        return "write into map forbidden"


def whole_offset(base: Region) -> Scalar:
    """How far a pointer is from its region's start (R10 for a stack), known part and unknown part together."""
    known = Scalar.const(base.off)
    return known if base.var is None else alu(op.ADD, base.var, known)


def in_stack(base: FramePtr, off: int, size: int) -> bool:
    """Whether an access lies below R10 and in its frame, wherever the pointer may be."""
    low, high = reach(base, off)
    return low >= -STACK_BYTES and high + size <= 0


def access_word(is_write: bool) -> str:
    """As Linux's messages begin."""
    return "write to" if is_write else "read from"


def reach(base: FramePtr, off: int) -> tuple[int, int]:
    """The lowest and the highest offset from R10 that an access may begin at."""
    var = base.var
    return base.off + off + (var.smin if var else 0), base.off + off + (var.smax if var else 0)


def operand(index: int) -> str:
    """Argument `index` (from 0) as messages name it: a register, or the place of its slot. SA-V-56."""
    if index < op.MAX_REG_ARGS:
        return f"R{index + 1}"
    return f"*(R11-{8 * (index + 1 - op.MAX_REG_ARGS)})"


def invalid_register(insn: Insn) -> int | None:
    """The register above R10 that an insn may not name, or None: only the three forms name R11. SA-V-05, SA-V-06."""
    if insn.dst >= op.STACK_ARGS and not is_stack_arg_store(insn):
        return insn.dst
    if insn.src >= op.STACK_ARGS and not is_stack_arg_load(insn):
        return insn.src
    return None


_RESERVED: Final = {
    op.LDX.code: "BPF_LDX", op.ST.code: "BPF_ST", op.STX.code: "BPF_STX", op.ALU32_CLASS.code: "BPF_ALU",
    op.ALU64_CLASS.code: "BPF_ALU", op.JMP_CLASS.code: "BPF_JMP", op.JMP32_CLASS.code: "BPF_JMP",
}  # fmt: skip


def undefined_message(undefined: Undefined) -> tuple[str, str]:
    """Rule id and Linux's words for an insn that is none. SA-V-07."""
    insn = undefined.insn
    cls, code = insn.opcode & 7, insn.opcode >> 4
    if not undefined.reserved_field:
        return "opcode-known", f"unknown opcode {insn.opcode:02x}"
    if cls == op.LD.code:
        return "reserved-field", "invalid bpf_ld_imm64 insn"
    name = _RESERVED[cls]
    if name == "BPF_ALU" and code == op.MOV.code:
        name = "BPF_MOV"
    elif name == "BPF_ALU" and code == op.NEG.code:
        name = "BPF_NEG"
    elif name == "BPF_ALU" and code == op.END_CODE:
        name = "BPF_END"
    elif cls == op.JMP_CLASS.code and code == op.CALL_CODE:
        name = "BPF_CALL"
    elif cls == op.JMP_CLASS.code and code == op.EXIT_CODE:
        name = "BPF_EXIT"
    elif cls in (op.JMP_CLASS.code, op.JMP32_CLASS.code) and code == op.JA_CODE:
        name = "BPF_JA"
    elif cls == op.STX.code and insn.opcode & 0xE0 == op.MODE_ATOMIC:
        if insn.opcode & 0x18 not in (op.W.code, op.DW.code) and insn.imm in {row.code for row in op.ATOMIC}:
            return "atomic-size", "invalid atomic operand size"
        return "reserved-field", f"BPF_ATOMIC uses invalid atomic opcode {insn.imm & op.MASK32:02x}"
    elif cls == op.JMP_CLASS.code and code == op.JCOND_CODE:
        return "reserved-field", f"invalid may_goto imm {insn.imm}"
    return "reserved-field", f"{name} uses reserved fields"


def map_constant(insn: LdImm64, maps: Sequence[Map]) -> tuple[str, int] | None:
    """Linux's words and errno for a constant that stands for a map or its value; None where nothing is wrong with it."""
    number, off = insn.value & op.MASK32, insn.value >> 32
    if number >= len(maps):
        return f"fd_idx {number} is of no map", EBADF
    map_ = maps[number]
    if insn.pseudo == op.MAP_INDEX:
        return ("unrecognized bpf_ld_imm64 insn", EINVAL) if off else None
    if map_.type != "array":
        return "no direct value access support for this map type", EINVAL
    words = f"invalid access to map value pointer, value_size={map_.value_size} off={off}"
    if map_.max_entries != 1:
        return words, ENOTSUPP
    return (words, EINVAL) if off >= map_.value_size else None


def unknown_constant(insn: LdImm64, *, has_btf: bool) -> tuple[str, int]:
    """Linux's words and errno for a constant that stands for what no program here has. resolve_pseudo_ldimm64()."""
    number = insn.value & op.MASK32
    match insn.pseudo:
        case op.MAP_FD | op.MAP_VALUE:
            return f"fd {number} is not pointing to valid bpf_map", EBADF
        case op.MAP_INDEX | op.MAP_INDEX_VALUE:
            return "fd_idx without fd_array is invalid", EPROTO
        case op.BTF_VAR:
            return f"ldimm64 insn specifies invalid btf_id {number}.", ENOENT
        case op.CODE_ADDR:
            words = "pointers to functions are not supported yet" if has_btf else "missing btf func_info"
            return words, EINVAL
        case _:
            return "unrecognized bpf_ld_imm64 insn", EINVAL
