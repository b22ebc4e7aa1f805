"""System V x86-64 psABI 1.0, for integers and pointers of up to 8 bytes."""

from typing import Final

from backends.abi import Abi, InReg, Layout, Location, OnStack, Placed, scalar_size
from harness.isa.proto import Proto

# psABI, 3.2.1 "Registers", 3.2.3 "Parameter Passing". The stack boundary is the Linux kernel's (psABI, "Linux Kernel
# Conventions": 8 bytes, no red zone), not the 16 bytes of user code.
ABI: Final = Abi(
    arch="x86_64",
    int_args=("rdi", "rsi", "rdx", "rcx", "r8", "r9"),
    result="rax",
    callee_saved=("rbx", "rbp", "r12", "r13", "r14", "r15"),
    caller_saved=("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"),
    sp="rsp",
    fp="rbp",
    stack_align=8,
    return_address_bytes=8,
)


def layout(proto: Proto) -> Layout:
    """Where the arguments of `proto` are at the call. psABI, 3.2.3 "Passing"."""
    taken, stack = 0, 0
    placed: list[Placed] = []
    for param in proto.params:
        size = scalar_size(param.type)
        where: Location
        if taken < len(ABI.int_args):
            where, taken = InReg(ABI.int_args[taken]), taken + 1
        else:
            where, stack = OnStack(stack, ABI.sp), stack + 8
        placed.append(Placed(param.name, size, where))
    return Layout(tuple(placed), stack)
