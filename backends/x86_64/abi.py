"""System V x86-64 psABI 1.0 for Linux: the registers, and where the arguments and the result of a C prototype are."""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Final

from backends.abi import EIGHTBYTE, Abi, Arg, InReg, Layout, OnStack, Piece, Placed, bytes_text, vector_of
from harness.isa.ctypes import (
    X86_64,
    CArray,
    CComplex,
    CFloat,
    CInt,
    CPtr,
    CStruct,
    CType,
    CVector,
    CVoid,
    Leaf,
    Param,
    align_of,
    bare,
    leaves,
    rounded_up,
    size_of,
    struct_layout,
)
from harness.isa.proto import Proto

# psABI, 3.2.1 "Registers", 3.2.3 "Parameter Passing". The stack boundary is the Linux kernel's (psABI, "Linux Kernel
# Conventions": 8 bytes, no red zone), not the 16 bytes of user code.
ABI: Final = Abi(
    arch="x86_64",
    document="psABI 1.0, 3.2.3",
    int_args=("rdi", "rsi", "rdx", "rcx", "r8", "r9"),
    result="rax",
    callee_saved=("rbx", "rbp", "r12", "r13", "r14", "r15"),
    caller_saved=("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"),
    sp="rsp",
    fp="rbp",
    stack_align=8,
    return_address_bytes=8,
    model=X86_64,
)
INT_RESULTS: Final = ("rax", "rdx")
VECTOR_ARGS: Final = 8  # xmm0 to xmm7
VECTORS: Final = {8: "xmm", 16: "xmm", 32: "ymm", 64: "zmm"}  # bytes; what the psABI calls __m64 to __m512
MOST_EIGHTBYTES: Final = 8  # of an aggregate in registers


class Class(Enum):
    """The class of an eightbyte."""

    NO_CLASS = "NO_CLASS"
    INTEGER = "INTEGER"
    SSE = "SSE"
    SSEUP = "SSEUP"
    X87 = "X87"
    X87UP = "X87UP"
    COMPLEX_X87 = "COMPLEX_X87"
    MEMORY = "MEMORY"


IN_X87: Final = (Class.X87, Class.X87UP, Class.COMPLEX_X87)
Classes = list[Class]


def _scalar_classes(ctype: CInt | CFloat | CComplex | CVector | CPtr) -> Classes:
    """The natural class of each eightbyte. 3.2.3 "Classification"."""
    match ctype:
        case CInt() | CPtr():
            return [Class.INTEGER] * max(1, ctype.size // EIGHTBYTE)
        case CFloat("long double"):
            return [Class.X87, Class.X87UP]
        case CComplex(CFloat("long double")):
            return [Class.COMPLEX_X87] * 4
        case CComplex(of):
            return [Class.SSE] * max(1, 2 * of.size // EIGHTBYTE)
        case _:
            return [Class.SSE] + [Class.SSEUP] * (ctype.size // EIGHTBYTE - 1)


def merged(one: Class, other: Class) -> tuple[Class, str]:
    """Two fields in one eightbyte, and the item that decides. 3.2.3 "Classification", 4."""
    both = (one, other)
    if one is other:
        return one, "(a)"
    if Class.NO_CLASS in both:
        return other if one is Class.NO_CLASS else one, "(b)"
    if Class.MEMORY in both:
        return Class.MEMORY, "(c)"
    if Class.INTEGER in both:
        return Class.INTEGER, "(d)"
    if one in IN_X87 or other in IN_X87:
        return Class.MEMORY, "(e)"
    return Class.SSE, "(f)"


class Passing:
    """The classification and the registers of one call. `memory_result`: RDI holds the address of the result."""

    def __init__(self, *, memory_result: bool = False) -> None:
        self.integers, self.vectors, self.stack = int(memory_result), 0, 0
        self.stack_align = ABI.stack_align

    # --- classification

    def classes(self, arg: Arg) -> Classes:
        """The class of each eightbyte of an argument; [MEMORY] for one that is in memory as a whole."""
        ctype = arg.type
        if arg.size == 0:
            arg.step("classification 3", "a struct of 0 bytes has no eightbyte")
            return []
        if isinstance(ctype, CInt | CPtr | CFloat | CVector | CComplex):
            classes = _scalar_classes(ctype)
            arg.step("classification", _text(classes))
            return classes
        if arg.size > MOST_EIGHTBYTES * EIGHTBYTE:
            arg.step("classification 1", f"{arg.size} bytes, more than eight eightbytes: MEMORY")
            return [Class.MEMORY]
        if bad := next(self.unaligned(ctype, 0), None):
            at, align = bad
            arg.step("classification 1", f"the field at byte {at} is not at a multiple of {align}: MEMORY")
            return [Class.MEMORY]
        return self.cleaned(arg, self.merged_fields(arg))

    def unaligned(self, ctype: CType, at: int) -> Iterator[tuple[int, int]]:
        """Fields that are not at a multiple of their own size, and that size; bit-fields always are. `at` is where the type is."""
        ctype = bare(ctype)
        match ctype:
            case CArray(of, count) if count:
                step = size_of(of, X86_64)
                for index in range(count if step else 1):
                    yield from self.unaligned(of, at + index * step)
            case CArray(of, _):  # GNU C: nothing of it is passed, but compilers look at where it would be
                if at % align_of(of, X86_64):
                    yield at, align_of(of, X86_64)
            case CStruct():
                for member_field in struct_layout(ctype, X86_64).fields:
                    if member_field.member.bits is None:
                        yield from self.unaligned(member_field.member.type, at + member_field.at_bit // 8)
            case _:
                if at % align_of(ctype, X86_64):
                    yield at, align_of(ctype, X86_64)

    def fields(self, ctype: CType) -> Iterable[Leaf]:
        """What is classified."""
        return leaves(ctype, X86_64)

    def merged_fields(self, arg: Arg) -> Classes:
        """Items 3 and 4: each eightbyte from the fields in it."""
        classes = [Class.NO_CLASS] * (rounded_up(arg.size, EIGHTBYTE) // EIGHTBYTE)
        for leaf in self.fields(arg.type):
            first = leaf.at_bit // 64
            own = _scalar_classes(leaf.type)
            if leaf.is_bits:
                own = [Class.INTEGER] * ((leaf.at_bit + leaf.size_bits - 1) // 64 - first + 1)
            for number, klass in zip(range(first, len(classes)), own, strict=False):
                classes[number], item = merged(classes[number], klass)
                if item in ("(d)", "(e)", "(f)"):
                    arg.step(f"classification 4{item}", f"eightbyte {number}: {classes[number].value}")
        arg.step("classification 4", _text(classes))
        return classes

    def cleaned(self, arg: Arg, classes: Classes) -> Classes:
        """Item 5, the post merger cleanup."""
        item = ""
        if Class.MEMORY in classes:
            item = "(a)"
        elif any(k is Class.X87UP and (n == 0 or classes[n - 1] is not Class.X87) for n, k in enumerate(classes)):
            item = "(b)"
        elif len(classes) > 2 and (classes[0] is not Class.SSE or any(k is not Class.SSEUP for k in classes[1:])):
            item = "(c)"
        if item:
            arg.step(f"classification 5{item}", f"{arg.size} bytes: the whole is MEMORY")
            return [Class.MEMORY]
        for number, klass in enumerate(classes):
            if klass is Class.SSEUP and (number == 0 or classes[number - 1] not in (Class.SSE, Class.SSEUP)):
                classes[number] = Class.SSE
                arg.step("classification 5(d)", f"eightbyte {number}: SSE")
        return classes

    # --- passing

    def place(self, param: Param) -> Placed:
        """One argument. Raises LayoutError."""
        arg = _arg(param)
        classes = self.classes(arg)
        match self.leading(classes):
            case Class.NO_CLASS:
                arg.step("classification 3", "nothing but padding: no register, no memory")
                return arg.placed((), "classification 3")
            case Class.MEMORY:
                return self.in_memory(arg, "passing 1")
            case Class.X87 | Class.COMPLEX_X87:
                return self.in_memory(arg, "passing 5")
        pieces = self.in_registers(arg, classes)
        if pieces is None:
            return self.in_memory(arg, "passing, no registers")
        return arg.placed(pieces, "passing 2" if self.leading(classes) is Class.INTEGER else "passing 3")

    def place_anonymous(self, param: Param) -> Placed:
        """One for the `...`: placed like a named one."""
        return self.place(param)

    def leading(self, classes: Classes) -> Class:
        """The first class that is one; a struct of 0 bytes, and of nothing but padding, has none."""
        return next((klass for klass in classes if klass is not Class.NO_CLASS), Class.NO_CLASS)

    def in_registers(self, arg: Arg, classes: Classes) -> tuple[Piece, ...] | None:
        """A register for every eightbyte, or for none."""
        integers = sum(klass is Class.INTEGER for klass in classes)
        vectors = sum(klass is Class.SSE for klass in classes)
        if self.integers + integers > len(ABI.int_args) or self.vectors + vectors > VECTOR_ARGS:
            left = f"{len(ABI.int_args) - self.integers} general and {VECTOR_ARGS - self.vectors} vector registers are left"
            arg.step("passing, no registers", f"{left}, not {integers} and {vectors}: the whole is on the stack")
            return None
        general = ABI.int_args[self.integers :]
        vector = [str(number) for number in range(self.vectors, VECTOR_ARGS)]
        self.integers, self.vectors = self.integers + integers, self.vectors + vectors
        return self.assigned(arg, classes, general, vector, "passing 2", "passing 3")

    def assigned(
        self,
        arg: Arg,
        classes: Classes,
        general: Sequence[str],
        vector: Sequence[str],
        integer_rule: str,
        sse_rule: str,
    ) -> tuple[Piece, ...]:
        """The next registers of two sequences, eightbyte by eightbyte; SSEUP goes with the eightbyte before it."""
        pieces: list[Piece] = []
        taken = [0, 0]
        for number, klass in enumerate(classes):
            at = number * EIGHTBYTE
            size = min(EIGHTBYTE, arg.bytes - at)
            if klass is Class.INTEGER:
                pieces.append(Piece(at, size, InReg(general[taken[0]])))
                taken[0] += 1
                arg.step(integer_rule, f"{bytes_text(at, size)}: INTEGER, {pieces[-1].where}")
            elif klass is Class.SSE:
                whole = _with_upper(classes, number, arg.bytes - at)
                name = VECTORS[max(EIGHTBYTE, rounded_up(whole, EIGHTBYTE))]
                pieces.append(Piece(at, whole, InReg(f"{name}{vector[taken[1]]}")))
                taken[1] += 1
                arg.step(sse_rule, f"{bytes_text(at, whole)}: SSE, {pieces[-1].where}")
        return tuple(pieces)

    def in_memory(self, arg: Arg, rule: str) -> Placed:
        """The next place on the stack; registers stay as they are, for later arguments."""
        align = self.alignment(arg)
        at = rounded_up(self.stack, align)
        size, place = rounded_up(arg.size, EIGHTBYTE), ABI.at_entry(OnStack(at, ABI.sp))
        hole = f"; {at - self.stack} bytes before it stay empty" if at != self.stack else ""
        arg.step(rule, f"{size} bytes of stack, aligned to {align}: {place}{hole}")
        self.stack, self.stack_align = at + size, max(self.stack_align, align)
        return arg.placed((Piece(0, arg.bytes, OnStack(at, ABI.sp)),), rule)

    def alignment(self, arg: Arg) -> int:
        """Of an argument in memory; the psABI names `__int128` only, compilers take every attribute of an aggregate."""
        return max(EIGHTBYTE, align_of(arg.type, X86_64))


def _arg(param: Param) -> Arg:
    arg = Arg(param.name, param.type, X86_64)
    vector_of(arg.type, tuple(VECTORS), ABI.document)
    if arg.is_composite and arg.size <= MOST_EIGHTBYTES * EIGHTBYTE:
        for leaf in leaves(arg.type, X86_64):
            vector_of(leaf.type, tuple(VECTORS), ABI.document)
    return arg


def _with_upper(classes: Classes, number: int, left: int) -> int:
    """Bytes of an SSE eightbyte and the SSEUPs after it."""
    size = EIGHTBYTE
    for klass in classes[number + 1 :]:
        if klass is not Class.SSEUP:
            break
        size += EIGHTBYTE
    return min(size, left)


def _text(classes: Classes) -> str:
    return ", ".join(klass.value for klass in classes)


def layout(proto: Proto, rules: type[Passing] = Passing) -> Layout:
    """Where the arguments of `proto` are at the call, and its result at the return. Raises LayoutError."""
    returned = result(proto.result, rules)
    state = rules(memory_result=returned is not None and returned.by_reference)
    args = (*map(state.place, proto.params), *map(state.place_anonymous, proto.anonymous))
    return Layout(args, returned, state.stack, state.stack_align, state.vectors if proto.variadic else None)


def result(ctype: CType, rules: type[Passing] = Passing) -> Placed | None:
    """3.2.3 "Returning of Values"; a result in memory is `by_reference`, its address in RDI at the call and in RAX after it."""
    if isinstance(bare(ctype), CVoid):
        return None
    arg, state = _arg(Param("result", ctype)), rules()
    classes = state.classes(arg)
    leading = state.leading(classes)
    if leading is Class.NO_CLASS:
        arg.step("classification 3", "nothing but padding: nothing is returned")
        return arg.placed((), "classification 3")
    if leading is Class.MEMORY:
        arg.step("returning 2", "the caller gives the address of memory in rdi, as if a first argument; rax returns it")
        arg.to_reference()
        return arg.placed((Piece(0, EIGHTBYTE, InReg("rdi")),), "returning 2")
    if leading is Class.X87:
        arg.step("returning 6", "st0, as an 80-bit number")
        return arg.placed((Piece(0, 10, InReg("st0")),), "returning 6")
    if leading is Class.COMPLEX_X87:
        arg.step("returning 8", "the real part in st0, the imaginary part in st1")
        return arg.placed((Piece(0, 10, InReg("st0")), Piece(16, 10, InReg("st1"))), "returning 8")
    pieces = state.assigned(arg, classes, INT_RESULTS, ("0", "1"), "returning 3", "returning 4")
    return arg.placed(pieces, "returning 3" if leading is Class.INTEGER else "returning 4")
