"""A CPU just large enough for this folder's tests: runs an image and says what a caller and its callees could see."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import unicorn
from unicorn import arm64_const as reg

from backends.arm64.jit import Arm64Jit
from backends.image import Addresses, Image
from harness.isa.asm import Source, assemble
from harness.isa.calls import HELPERS
from harness.isa.proto import parse_proto
from harness.isa.verified import FuncFacts, Verified

BASE, PADS, STACK, STOP = 0x4000_0000, 0x4400_0000, 0x3000_0000, 0x4500_0000
STACK_TOP = STACK + 0x8000
RET = bytes.fromhex("c0035fd6")
POISON = 0xDEAD_0000_0000_0000
SAVED = (*range(18, 30),)  # x18 belongs to the platform, the others to the caller
HELPER_RESULT = 0x1122_3344_5566_7788


@dataclass(frozen=True, slots=True)
class ExternCall:
    """A call of a helper or kfunc: arguments read where AAPCS64 puts them."""

    name: str
    args: tuple[int, ...]
    sp_aligned: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run did. `fault` is empty where it came back."""

    result: int
    sp_kept: bool
    lost: tuple[int, ...]  # registers that did not come back
    calls: tuple[ExternCall, ...]
    fault: str


def verified(*functions: tuple[str, str, FuncFacts], kfuncs: Sequence[str] = ()) -> Verified:
    """A program from (name, text, facts) per function; kfuncs as prototypes."""
    sources = [Source(name, text) for name, text, _ in functions]
    prog = assemble(sources, [parse_proto(kfunc) for kfunc in kfuncs]).prog
    return Verified(prog, tuple(facts for _, _, facts in functions), tuple(range(len(prog.insns))))


def addresses(program: Verified, base: int = BASE, pads: int = PADS) -> Addresses:
    """Helpers and kfuncs 16 bytes apart."""
    names = [helper.name for helper in HELPERS.values()] + [kfunc.name for kfunc in program.prog.kfuncs]
    return Addresses(base, {name: pads + 16 * index for index, name in enumerate(names)})


def run(program: Verified, jit: Arm64Jit | None = None, r1: int = 0, r2: int = 0) -> Seen:
    """Compiles and runs; kfuncs return the sum of their arguments, and every callee leaves poison behind."""
    where = addresses(program)
    return _run(program, (jit or Arm64Jit()).compile(program, where), where, r1, r2)


def _run(program: Verified, image: Image, where: Addresses, r1: int, r2: int) -> Seen:
    engine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    engine.ctl_set_cpu_model(reg.UC_CPU_ARM64_MAX)  # it has LSE
    for at, size in ((BASE, 0x1_0000), (PADS, 0x1000), (STOP, 0x1000), (STACK, 0x1_0000)):
        engine.mem_map(at, size)
    engine.mem_write(BASE, image.code)
    engine.mem_write(PADS, RET * 0x400)
    for n in range(29):
        engine.reg_write(_x(n), 0x5A5A_0000 + n)
    engine.reg_write(_x(0), r1)
    engine.reg_write(_x(1), r2)
    engine.reg_write(_x(29), STACK_TOP + 0x100)
    engine.reg_write(_x(30), STOP)
    engine.reg_write(reg.UC_ARM64_REG_SP, STACK_TOP)
    before = [engine.reg_read(_x(n)) for n in SAVED]
    calls: list[ExternCall] = []
    counts = {kfunc.name: len(kfunc.params) for kfunc in program.prog.kfuncs}
    names = {address: name for name, address in where.externs.items()}

    def on_call(uc: Any, address: int, size: int, data: Any) -> None:
        if address in names:
            calls.append(_extern(uc, names[address], counts.get(names[address])))

    def on_return(uc: Any, address: int, size: int, data: Any) -> None:
        if uc.reg_read(_x(30)) != STOP:
            _poison_registers(uc)

    engine.hook_add(unicorn.UC_HOOK_CODE, on_call, begin=PADS, end=PADS + 0xFFF)
    for at in range(0, len(image.code), 4):
        if image.code[at : at + 4] == RET:
            engine.hook_add(unicorn.UC_HOOK_CODE, on_return, begin=BASE + at, end=BASE + at)
    fault = ""
    try:
        engine.emu_start(BASE, STOP, count=100_000)
        if engine.reg_read(reg.UC_ARM64_REG_PC) != STOP:
            fault = "did not stop"
    except unicorn.UcError as error:
        fault = str(error)
    lost = tuple(n for n, old in zip(SAVED, before, strict=True) if engine.reg_read(_x(n)) != old)
    return Seen(engine.reg_read(_x(0)), engine.reg_read(reg.UC_ARM64_REG_SP) == STACK_TOP, lost, tuple(calls), fault)


def _extern(uc: Any, name: str, count: int | None) -> ExternCall:
    sp = uc.reg_read(reg.UC_ARM64_REG_SP)
    in_regs = [uc.reg_read(_x(n)) for n in range(min(count or 0, 8))]
    stack_bytes = 8 * max((count or 0) - 8, 0)
    memory = bytes(uc.mem_read(sp, stack_bytes))
    args = (*in_regs, *(int.from_bytes(memory[at : at + 8], "little") for at in range(0, stack_bytes, 8)))
    uc.mem_write(sp, POISON.to_bytes(8, "little") * (stack_bytes // 8))
    uc.mem_write(sp - 0x400, POISON.to_bytes(8, "little") * 0x80)
    _poison_registers(uc)
    uc.reg_write(_x(0), HELPER_RESULT if count is None else sum(args) % (1 << 64))
    return ExternCall(name, args, sp % 16 == 0)


def _poison_registers(uc: Any) -> None:
    """What a callee may destroy, but for its result."""
    for n in range(1, 18):
        uc.reg_write(_x(n), POISON + n)


def _x(n: int) -> int:
    return int(getattr(reg, f"UC_ARM64_REG_X{n}"))
