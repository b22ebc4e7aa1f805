"""AAPCS64 2025Q4, for integers and pointers of up to 8 bytes."""

from typing import Final

from backends.abi import Abi, InReg, Layout, Location, OnStack, Placed, scalar_size
from harness.isa.proto import Proto

# AAPCS64, "General-purpose Registers" and "The Stack". x18 is the platform register and belongs to neither set.
ABI: Final = Abi(
    arch="arm64",
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
)  # fmt: skip


def layout(proto: Proto) -> Layout:
    """Where the arguments of `proto` are at the call. AAPCS64, "Parameter passing rules", stage C; letters as there."""
    ngrn, nsaa = 0, 0
    placed: list[Placed] = []
    for param in proto.params:
        size = scalar_size(param.type)
        where: Location
        if ngrn < 8:  # C.9
            where, ngrn = InReg(ABI.int_args[ngrn]), ngrn + 1
        else:  # C.13, C.14 (every alignment here is 8), C.16, C.17
            where, nsaa = OnStack(nsaa, ABI.sp), nsaa + 8
        placed.append(Placed(param.name, size, where))
    return Layout(tuple(placed), nsaa)
