"""Where BPF code has the arguments of the BPF function that it calls: eightbytes in a row, whatever their types say.

Linux Documentation/bpf/standardization/abi.rst, "Registers and calling convention"; arch/x86/net/bpf_jit_comp.c and
arch/arm64/net/bpf_jit_comp.c, stack arguments. TR-23.
"""

from backends.abi import EIGHTBYTE, Abi, InReg, Layout, OnStack, Piece, Placed
from harness.isa.ctypes import CVoid, Param, align_of, bare, rounded_up, size_of
from harness.isa.proto import Proto

RULE = "BPF"


def bpf_layout(abi: Abi, proto: Proto) -> Layout:
    """Every eightbyte of 64 bits: BPF code may rely on what is above a narrow value, too."""
    args: list[Placed] = []
    word = 0
    for param in proto.params:
        args.append(_placed(abi, param, word))
        word += args[-1].size // EIGHTBYTE
    result = None
    if not isinstance(bare(proto.result), CVoid):
        size = size_of(proto.result, abi.model)
        piece = Piece(0, EIGHTBYTE, InReg(abi.result))
        result = Placed("result", proto.result, size, align_of(proto.result, abi.model), (piece,), RULE, ())
    return Layout(tuple(args), result, EIGHTBYTE * max(0, word - len(abi.int_args)), EIGHTBYTE)


def _placed(abi: Abi, param: Param, first: int) -> Placed:
    size = rounded_up(size_of(param.type, abi.model), EIGHTBYTE)
    regs = abi.int_args[first : first + size // EIGHTBYTE]
    pieces = [Piece(EIGHTBYTE * number, EIGHTBYTE, InReg(reg)) for number, reg in enumerate(regs)]
    if (at := EIGHTBYTE * len(regs)) < size:
        stacked = max(0, first - len(abi.int_args))
        pieces.append(Piece(at, size - at, OnStack(EIGHTBYTE * stacked, abi.sp)))
    return Placed(param.name, param.type, size, align_of(param.type, abi.model), tuple(pieces), RULE, ())
