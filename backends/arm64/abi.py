"""AAPCS64 2025Q4 for Linux: the registers, and where the arguments and the result of a C prototype are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from backends.abi import EIGHTBYTE, Abi, Arg, InReg, Layout, OnStack, Piece, Placed, Step, vector_of
from harness.isa.ctypes import (
    ARM64,
    CArray,
    CComplex,
    CFloat,
    CStruct,
    CType,
    CVector,
    CVoid,
    Param,
    bare,
    natural_of,
    rounded_up,
    size_of,
    type_text,
)
from harness.isa.proto import Proto

# AAPCS64, "General-purpose Registers" and "The Stack". x18 is the platform register and belongs to neither set.
ABI: Final = Abi(
    arch="arm64",
    document="AAPCS64 2025Q4",
    int_args=("x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7"),
    result="x0",
    callee_saved=("x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29"),
    caller_saved=(
        "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16",
        "x17", "x30",
    ),
    sp="sp",
    fp="x29",
    stack_align=16,
    return_address_bytes=0,
    model=ARM64,
)  # fmt: skip
REGISTERS: Final = 8  # for arguments, of each kind
MOST_MEMBERS: Final = 4  # of a homogeneous aggregate
SHORT_VECTORS: Final = (8, 16)

Pieces = tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Homogeneous:
    """An HFA or HVA: `count` members of one floating or short vector type of `size` bytes."""

    of: CFloat | CVector
    size: int
    count: int

    def __str__(self) -> str:
        return f"{'HVA' if isinstance(self.of, CVector) else 'HFA'} of {self.count} x {type_text(self.of)}"


def homogeneous(ctype: CType) -> Homogeneous | None:
    """AAPCS64, "Homogeneous Aggregates". Vectors of one size count as one type; structs without a size do not count.

    With an array of no elements, which is GNU C, compilers see none.
    """
    if not isinstance(ctype, CStruct | CComplex):
        return None
    found = _members(ctype)
    return found if found is not None and 1 <= found.count <= MOST_MEMBERS else None


_NONE: Final = Homogeneous(CFloat("float", 4), 0, 0)  # no member that counts


def _members(ctype: CType) -> Homogeneous | None:
    """The members of a type, flattened; None where they differ or leave a gap."""
    ctype = bare(ctype)
    match ctype:
        case CFloat():
            return Homogeneous(ctype, ctype.size, 1)
        case CVector():
            return Homogeneous(ctype, ctype.size, 1) if ctype.size in SHORT_VECTORS else None
        case CComplex(of):
            return Homogeneous(of, of.size, 2)
        case CArray(of, count) if count:
            inner = _members(of)
            return inner and Homogeneous(inner.of, inner.size, inner.count * count)
        case CStruct():
            return _of_struct(ctype)
        case _:
            return None


def _of_struct(struct: CStruct) -> Homogeneous | None:
    total = _NONE
    for member in struct.members or ():
        if member.bits == 0:
            continue
        inner = _members(member.type) if member.bits is None else None
        if inner is None:
            return None
        if inner.count == 0:
            continue
        if total.count and (inner.size != total.size or type(inner.of) is not type(total.of)):
            return None
        count = max(total.count, inner.count) if struct.union else total.count + inner.count
        total = Homogeneous(inner.of, inner.size, count)
    return total if size_of(struct, ARM64) == total.size * total.count else None


class Marshalling:
    """Stages A to C of "Parameter passing rules" for one call: a method for each rule, called as the document numbers them.

    A rule gives pieces where it places the argument, and else None. B.1, B.2, C.7 and C.8 are about scalable types, and types
    whose size is not known: C for this suite has none.
    """

    def __init__(self) -> None:
        """Stage A. `nsaa` counts from SP. A.3 is about scalable types."""
        self.ngrn, self.nsrn, self.nsaa = 0, 0, 0
        self.begin = (
            Step("A.1", f"NGRN = {self.ngrn}"), Step("A.2", f"NSRN = {self.nsrn}"), Step("A.4", f"NSAA = sp+{self.nsaa}"),
        )  # fmt: skip
        self.stack_align = ABI.stack_align
        self.rules: tuple[tuple[str, Callable[[Arg], Pieces | None]], ...] = (
            ("C.1", self.c1), ("C.2", self.c2), ("C.3", self.c3), ("C.4", self.c4), ("C.5", self.c5), ("C.6", self.c6),
            ("C.9", self.c9), ("C.10", self.c10), ("C.11", self.c11), ("C.12", self.c12), ("C.13", self.c13),
            ("C.14", self.c14), ("C.15", self.c15), ("C.16", self.c16), ("C.17", self.c17),
        )  # fmt: skip
        self.homogeneous: Homogeneous | None = None  # the argument as HFA or HVA
        self.align = 0  # of its copy

    def place(self, param: Param) -> Placed:
        """One argument. Raises LayoutError."""
        arg = Arg(param.name, param.type, ARM64)
        vector_of(arg.type, SHORT_VECTORS, ABI.document)
        if self.is_nothing(arg):
            arg.step("GNU C", "a struct of 0 bytes: no register, no memory")
            return arg.placed((), "GNU C")
        self.stage_b(arg)
        for rule, apply in self.rules:
            pieces = apply(arg)
            if pieces is not None:
                # C.15 and C.17 copy to the address that C.14 gave.
                return arg.placed(pieces, "C.14" if rule in ("C.15", "C.17") else rule)
        raise AssertionError("C.17 places everything")

    def place_anonymous(self, param: Param) -> Placed:
        """One for the `...`: placed like a named one. "Variable argument lists", for other platforms than Apple's."""
        return self.place(param)

    def is_nothing(self, arg: Arg) -> bool:
        """GNU C has structs of 0 bytes, AAPCS64 has not."""
        return arg.size == 0

    # --- stage B: padding and extension of arguments

    def stage_b(self, arg: Arg) -> None:
        """B.3 to B.6."""
        self.homogeneous = self.homogeneous_of(arg.type)
        self.b3(arg)
        self.b4(arg)
        self.b5(arg)
        self.b6(arg)

    def homogeneous_of(self, ctype: CType) -> Homogeneous | None:
        """The type as HFA or HVA."""
        return homogeneous(ctype)

    def b3(self, arg: Arg) -> None:
        """An HFA or HVA is unchanged."""
        if self.homogeneous:
            arg.step("B.3", f"{self.homogeneous}: unchanged")

    def b4(self, arg: Arg) -> None:
        """A composite of more than 16 bytes is copied to memory, and its address passed."""
        if arg.is_composite and not self.homogeneous and arg.size > 16:
            arg.step("B.4", f"{arg.size} bytes, more than 16: copied to memory, its address is passed")
            arg.to_reference()

    def b5(self, arg: Arg) -> None:
        """The size of a composite is a multiple of 8."""
        if arg.is_composite and not self.homogeneous and arg.size % 8:
            arg.step("B.5", f"size rounded up: {arg.size} -> {rounded_up(arg.size, 8)}")
            arg.size = rounded_up(arg.size, 8)

    def b6(self, arg: Arg) -> None:
        """The alignment of the copy: natural for a fundamental type; 8 or 16 for a composite."""
        natural = self.natural(arg)
        self.align = natural if not arg.is_composite else 8 if natural <= 8 else 16
        if self.align > 8 or arg.is_composite:
            arg.step("B.6", f"natural alignment {natural}: the copy is aligned to {self.align}")

    def natural(self, arg: Arg) -> int:
        """The alignment before any attribute on the whole type."""
        return natural_of(arg.type, ARM64)

    # --- stage C: assignment of arguments to registers and stack

    def c1(self, arg: Arg) -> Pieces | None:
        """A float or short vector goes to the next v register."""
        if not arg.is_float or self.nsrn >= REGISTERS:
            return None
        return self._vectors(arg, "C.1", 1, arg.bytes)

    def c2(self, arg: Arg) -> Pieces | None:
        """An HFA or HVA for which there are registers has one for each member."""
        if self.homogeneous is None or self.nsrn + self.homogeneous.count > REGISTERS:
            return None
        return self._vectors(arg, "C.2", self.homogeneous.count, self.homogeneous.size)

    def _vectors(self, arg: Arg, rule: str, count: int, each: int) -> Pieces:
        first, self.nsrn = self.nsrn, self.nsrn + count
        regs = tuple(f"v{n}" for n in range(first, self.nsrn))
        arg.step(rule, f"NSRN {first} + {count} <= {REGISTERS}: {', '.join(regs)}; NSRN {first} -> {self.nsrn}")
        return arg.in_registers(regs, each)

    def c3(self, arg: Arg) -> None:
        """An HFA or HVA that did not fit closes the v registers."""
        if self.homogeneous:
            size = rounded_up(arg.size, 8)
            arg.step(
                "C.3",
                f"{self.homogeneous.count} registers are not left: NSRN {self.nsrn} -> 8; size {arg.size} -> {size}",
            )
            self.nsrn, arg.size = REGISTERS, size

    def c4(self, arg: Arg) -> None:
        """The NSAA for an HFA, HVA, quad or short vector: a multiple of 8 or 16, as its natural alignment."""
        if self.homogeneous or isinstance(arg.type, CVector) or (arg.is_float and arg.bytes == 16):
            self._round_nsaa(arg, "C.4", 8 if self.align <= 8 else 16)

    def c5(self, arg: Arg) -> None:
        """Half and single precision have a slot of 8 bytes."""
        if isinstance(arg.type, CFloat) and arg.size < 8:
            arg.step("C.5", f"size {arg.size} -> 8")
            arg.size = 8

    def c6(self, arg: Arg) -> Pieces | None:
        """Everything else of floating type is copied to memory."""
        return self._memory(arg, "C.6") if self.homogeneous or arg.is_float else None

    def c9(self, arg: Arg) -> Pieces | None:
        """An integer or pointer of up to 8 bytes goes to the next x register."""
        if not arg.is_integral or arg.size > 8 or self.ngrn >= REGISTERS:
            return None
        return self._generals(arg, "C.9", 1)

    def c10(self, arg: Arg) -> None:
        """Alignment 16 starts at an even register."""
        if self.align == 16:
            even = rounded_up(self.ngrn, 2)
            skipped = f": x{self.ngrn} stays empty" if even != self.ngrn else ""
            arg.step("C.10", f"alignment 16: NGRN {self.ngrn} -> {even}{skipped}")
            self.ngrn = even

    def c11(self, arg: Arg) -> Pieces | None:
        """An integer of 16 bytes has two registers."""
        if not arg.is_integral or arg.size != 16 or self.ngrn >= REGISTERS - 1:
            return None
        return self._generals(arg, "C.11", 2)

    def c12(self, arg: Arg) -> Pieces | None:
        """A composite for which there are x registers is loaded into them."""
        if not arg.is_composite or arg.size // 8 > REGISTERS - self.ngrn:
            return None
        return self._generals(arg, "C.12", arg.size // 8)

    def _generals(self, arg: Arg, rule: str, count: int) -> Pieces:
        first, self.ngrn = self.ngrn, self.ngrn + count
        regs = ABI.int_args[first : self.ngrn]
        arg.step(rule, f"NGRN {first} + {count} <= {REGISTERS}: {', '.join(regs)}; NGRN {first} -> {self.ngrn}")
        return arg.in_registers(regs)

    def c13(self, arg: Arg) -> None:
        """Nothing later returns to an x register."""
        if self.ngrn < REGISTERS:
            empty = ", ".join(ABI.int_args[self.ngrn :])
            arg.step("C.13", f"{arg.size // 8} registers are not left: NGRN {self.ngrn} -> 8; {empty} stays empty")
        self.ngrn = REGISTERS

    def c14(self, arg: Arg) -> None:
        """The NSAA is a multiple of 8, or of the alignment where that is more."""
        self._round_nsaa(arg, "C.14", max(8, self.align))

    def c15(self, arg: Arg) -> Pieces | None:
        """A composite is copied to memory."""
        return self._memory(arg, "C.15") if arg.is_composite else None

    def c16(self, arg: Arg) -> None:
        """Nothing takes less than 8 bytes."""
        if arg.size < 8:
            arg.step("C.16", f"size {arg.size} -> 8")
            arg.size = 8

    def c17(self, arg: Arg) -> Pieces:
        """All others are copied to memory."""
        return self._memory(arg, "C.17")

    def _round_nsaa(self, arg: Arg, rule: str, to: int) -> None:
        rounded = rounded_up(self.nsaa, to)
        hole = f": {rounded - self.nsaa} bytes stay empty" if rounded != self.nsaa else ""
        arg.step(rule, f"NSAA a multiple of {to}: sp+{self.nsaa} -> sp+{rounded}{hole}")
        self.nsaa = rounded

    def _memory(self, arg: Arg, rule: str) -> Pieces:
        at, self.nsaa = self.nsaa, self.nsaa + arg.size
        arg.step(rule, f"copied to [sp+{at}]; NSAA sp+{at} -> sp+{self.nsaa}")
        return (Piece(0, arg.bytes, OnStack(at, ABI.sp)),)


def layout(proto: Proto, rules: type[Marshalling] = Marshalling) -> Layout:
    """Where the arguments of `proto` are at the call, and its result at the return. Raises LayoutError."""
    state = rules()
    args = (*map(state.place, proto.params), *map(state.place_anonymous, proto.anonymous))
    return Layout(args, result(proto.result, rules), state.nsaa, state.stack_align, begin=state.begin)


def result(ctype: CType, rules: type[Marshalling] = Marshalling) -> Placed | None:
    """AAPCS64, "Result return": where a first argument of its type would be; by reference, its address is in x8."""
    if isinstance(bare(ctype), CVoid):
        return None
    placed = rules().place(Param("result", ctype))
    if not placed.by_reference:
        return placed
    arg = Arg("result", ctype, ARM64)
    arg.steps = [*placed.steps[:1]]
    arg.step("result", "the caller gives the address of memory for it in x8, which the callee need not keep")
    arg.to_reference()
    return arg.placed((Piece(0, EIGHTBYTE, InReg("x8")),), "result")
