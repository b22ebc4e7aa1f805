"""Runs an image in Unicorn, as little as these tests need: a stack, stubs for externs, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import unicorn
from unicorn import x86_const as uc

from backends.image import Addresses, Image
from backends.x86_64.jit import X8664Jit
from harness.isa.asm import Source, assemble
from harness.isa.proto import parse_proto
from harness.isa.verified import FuncFacts, Verified

CODE, EXTERN, STACK, STOP = 0x10_0000, 0x20_0000, 0x30_0000, 0x40_0000
STACK_TOP = STACK + 0xF000
# psABI, 3.2.3: where the first six arguments are; the others follow the return address.
ARG_REGS = (
    uc.UC_X86_REG_RDI,
    uc.UC_X86_REG_RSI,
    uc.UC_X86_REG_RDX,
    uc.UC_X86_REG_RCX,
    uc.UC_X86_REG_R8,
    uc.UC_X86_REG_R9,
)
SAVED = {
    "rbx": uc.UC_X86_REG_RBX,
    "rbp": uc.UC_X86_REG_RBP,
    "r12": uc.UC_X86_REG_R12,
    "r13": uc.UC_X86_REG_R13,
    "r14": uc.UC_X86_REG_R14,
    "r15": uc.UC_X86_REG_R15,
}
SCRATCH = (*ARG_REGS, uc.UC_X86_REG_R10, uc.UC_X86_REG_R11)
POISON = 0xDEAD_BEEF_DEAD_BEEF


@dataclass
class Run:
    """What a run left: r0, the arguments of each call of an extern, the registers that were not given back."""

    r0: int | None = None
    calls: list[tuple[int, ...]] = field(default_factory=list)
    lost: tuple[str, ...] = ()
    fault: str = ""
    stack: bytes = field(default=b"", compare=False, repr=False)  # of the whole run, up to the return address

    def slot(self, off: int) -> int:
        """The 8 bytes at R10 + off, as the main prog left them."""
        start = STACK_TOP - 8 - STACK + off
        return int.from_bytes(self.stack[start : start + 8], "little")


@dataclass(frozen=True)
class Program:
    """BPF text by name or prototype, kfuncs by prototype with the value they return, facts per subprog.

    A fact is (stack_depth, incoming_slots, outgoing_slots).
    """

    text: Mapping[str, str]
    facts: Sequence[tuple[int, int, int]]
    kfuncs: Mapping[str, int] = field(default_factory=dict)

    def verified(self) -> Verified:
        sources = [Source(name, text, None) for name, text in self.text.items()]
        prog = assemble(sources, [parse_proto(text) for text in self.kfuncs]).prog
        return Verified(prog, tuple(FuncFacts(*row) for row in self.facts), tuple(range(len(prog.insns))))

    def image(self, jit: X8664Jit | None = None) -> Image:
        names = [parse_proto(text).name for text in self.kfuncs]
        externs = {name: EXTERN + 16 * i for i, name in enumerate(names)}
        return (jit or X8664Jit()).compile(self.verified(), Addresses(CODE, externs))

    def run(self, jit: X8664Jit | None = None, args: Sequence[int] = ()) -> Run:
        return run(self.image(jit), self.kfuncs, args)


def run(image: Image, kfuncs: Mapping[str, int], args: Sequence[int] = ()) -> Run:
    """Calls the main prog with `args` in its argument registers; every other register holds a marker."""
    machine, result = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64), Run()
    for start in (CODE, EXTERN, STACK, STOP):
        machine.mem_map(start, 0x10000)
    machine.mem_write(image.base, image.code)
    machine.mem_write(STACK, b"\xa5" * 0x10000)
    machine.mem_write(STACK_TOP, STOP.to_bytes(8, "little"))
    _mark(machine)
    machine.reg_write(uc.UC_X86_REG_RSP, STACK_TOP)
    for reg, value in zip(ARG_REGS, args, strict=False):
        machine.reg_write(reg, value)
    for i, (text, returns) in enumerate(kfuncs.items()):
        _stub(machine, EXTERN + 16 * i, len(parse_proto(text).params), returns, result)
    try:
        machine.emu_start(image.base, STOP, count=100_000)
    except unicorn.UcError as error:
        result.fault = str(error)
        return result
    result.r0 = machine.reg_read(uc.UC_X86_REG_RAX)
    lost = [name for i, (name, reg) in enumerate(SAVED.items()) if machine.reg_read(reg) != 0x5A00 + i]
    if machine.reg_read(uc.UC_X86_REG_RSP) != STACK_TOP + 8 or machine.reg_read(uc.UC_X86_REG_RIP) != STOP:
        lost.append("rsp")
    result.lost = tuple(lost)
    result.stack = bytes(machine.mem_read(STACK, STACK_TOP - STACK))
    return result


def _mark(machine: unicorn.Uc) -> None:
    for i, reg in enumerate(SAVED.values()):
        machine.reg_write(reg, 0x5A00 + i)
    for reg in (*SCRATCH, uc.UC_X86_REG_RAX):
        machine.reg_write(reg, POISON)


def _stub(machine: unicorn.Uc, address: int, params: int, returns: int, result: Run) -> None:
    """A `ret` that first notes its arguments, then destroys all that a callee may destroy."""

    def called(machine: unicorn.Uc, _address: int, _size: int, _data: object) -> None:
        rsp = machine.reg_read(uc.UC_X86_REG_RSP)
        stack = [int.from_bytes(machine.mem_read(rsp + 8 + 8 * i, 8), "little") for i in range(6)]
        result.calls.append((*[machine.reg_read(reg) for reg in ARG_REGS], *stack)[:params])
        for i, reg in enumerate(SCRATCH):
            machine.reg_write(reg, POISON + i)
        machine.mem_write(rsp + 8, POISON.to_bytes(8, "little") * max(params - 6, 0))
        machine.reg_write(uc.UC_X86_REG_RAX, returns)

    machine.mem_write(address, b"\xc3")
    machine.hook_add(unicorn.UC_HOOK_CODE, called, begin=address, end=address)
