"""Trampolines between compiled code: a caller and a traced function that a C compiler made from the prototype.

Nothing here is ours but the trampoline and the programs, so that no layout of the suite's has to be right.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from backends import emulator as emu
from backends import trampoline_code
from backends.abi import Placed
from backends.arm64 import encode as a64
from backends.oracle.compilers import Compiler, CompilerError
from backends.oracle.generate import Generated
from backends.oracle.judge import machine_of
from backends.oracle.machine import mask_of, with_bools
from backends.oracle.source import PLACE, RESULT, SEEN, SEEN_RESULT, VALUES, pairs
from backends.trampoline_bench import Outcome, Scenario, TrampolineBench, layout_of, return_sites
from backends.trampoline_code import Code, code_at
from backends.x86_64 import encode as x86
from harness.isa.ctypes import ARM64, CType, CVoid, Param, bare, type_text

COMPILED_AT: Final = emu.CODE_BASE + 0x8_0000  # behind the programs; a page's start
# As kernels are compiled, where an interrupt uses what is below SP.
_FLAGS: Final = {"arm64": (), "x86_64": ("-mno-red-zone",)}


@dataclass(frozen=True, slots=True)
class Pair:
    """A caller and the function that it calls, in an image for COMPILED_AT: byte offsets of both."""

    image: bytes
    callee: range
    caller: range


def generated(seed: int, call: Scenario) -> Generated:
    """A call's prototype as C with a name for each type."""
    types = [*call.proto.params, Param("result", call.proto.result)]
    names = [f"t{number}_{seed}" for number, _ in enumerate(types)]
    rows = [
        f"typedef {type_text(param.type)} {name};\n"
        for param, name in zip(types, names, strict=True)
        if _is_value(param.type)
    ]
    result = names[-1] if _is_value(call.proto.result) else "void"
    return Generated(seed, "".join(rows), result, tuple(names[:-1]), (), variadic=False, has_half=False)


def with_c_values(call: Scenario) -> Scenario:
    """The call as C can make it."""
    types = [param.type for param in call.proto.params]
    args = tuple(with_bools(ctype, ARM64, raw) for ctype, raw in zip(types, call.args, strict=True))
    return replace(call, args=args, result=with_bools(call.proto.result, ARM64, call.result) if call.result else b"")


def _is_value(ctype: CType) -> bool:
    return not isinstance(bare(ctype), CVoid)


def compiled(compiler: Compiler, calls: Mapping[int, Scenario]) -> dict[int, Pair]:
    """The pairs of calls, by their seeds, as far as the compiler passes arguments as the document has it without a trampoline.

    Raises CompilerError.
    """
    source = pairs(compiler.arch, [generated(seed, call) for seed, call in calls.items()])
    made = compiler.compile(source, _FLAGS[compiler.arch])
    machine = machine_of(compiler.arch)
    machine.load(made.image)
    found: dict[int, Pair] = {}
    for seed, call in calls.items():
        layout = layout_of(compiler.arch, call)
        callee, caller = (
            range(made.functions[name], made.functions[name] + len(made.constants[name]))
            for name in (f"callee{seed}", f"caller{seed}")
        )
        wrong = machine.callee(emu.CODE_BASE + callee.start, layout, random.Random(seed))
        wrong += machine.caller(emu.CODE_BASE + caller.start, layout, random.Random(seed))
        if not wrong:
            found[seed] = Pair(made.image, callee, caller)
    return found


class CompiledBench(TrampolineBench):
    """One emulated CPU, where compiled code calls and is called."""

    def judge(self, scenario: Scenario, code: bytes, pair: Pair) -> Outcome:
        """As `run`, with a compiled caller and function."""
        self.pair = pair
        self._callee, self._caller = (
            code_at(self.arch, COMPILED_AT + part.start, pair.image[part.start : part.stop]).insns
            for part in (pair.callee, pair.caller)
        )
        self._back = -1
        self._was_back = False
        return self.run(scenario, code)

    # --- what is native code

    def functions(self) -> Iterator[Code]:
        """The entry jumps to the compiled function; both of the pair are decoded, what they call is not."""
        patched = trampoline_code.entry(self.arch, self.scenario.target, jumps=self.scenario.attached.calls_original)
        body = emu.CODE_BASE + len(patched)
        distance = COMPILED_AT + self.pair.callee.start - body
        jump = a64.b_i(distance).to_bytes(4, "little") if self.arch == "arm64" else x86.jmp_near(distance - 5)
        yield code_at(self.arch, emu.CODE_BASE, patched + jump)
        yield Code(COMPILED_AT, self.pair.image, {**self._callee, **self._caller})

    def entry(self) -> int:
        """The compiled caller's."""
        return COMPILED_AT + self.pair.caller.start

    def watched(self) -> Iterable[int]:
        """The call, and where it comes back to."""
        return {emu.CODE_BASE, *return_sites(self._caller)}

    # --- the caller

    def set_up(self) -> None:
        """Its one argument is the function; values are where the C source looks for them."""
        values = {name: 0xC0DE_0000_0000 + number for number, name in enumerate(self.names)}
        values[self.abi.int_args[0]] = emu.CODE_BASE
        values[self.abi.sp] = emu.STACK_TOP - 0x400 - self.abi.return_address_bytes
        self.to_stop(values)
        self._began = values
        self.cpu.write(VALUES, b"".join(raw.ljust(PLACE, b"\0") for raw in self.args))
        self.cpu.write(RESULT, self.given)
        self.cpu.write(SEEN, bytes(PLACE * max(1, len(self.args))))
        self.cpu.write(SEEN_RESULT, bytes(PLACE))
        self.regs.write([values[name] for name in self.names])

    def on_code(self, address: int) -> None:
        """The call and its return, apart from what every trampoline does."""
        if address == emu.CODE_BASE:
            values = self.values()
            self.called(values)
            self._back = self.return_address(values)
        elif address == self._back and not self._was_back:
            self._was_back = True
            self.returned()
        else:
            super().on_code(address)

    def function_bytes(self) -> int:
        """It may use its arguments' memory, which is its caller's where the trampoline makes no copy."""
        return 0 if self.scenario.attached.calls_original else self.truth.stack_bytes

    def finish(self) -> None:
        """The caller has returned, too, and stored what it got."""
        if not self._was_back:
            self.report("TRAMP-ORDER", "the caller returned without its call having come back")
        placed = self.truth.result
        if placed is not None:
            seen = self.cpu.read(SEEN_RESULT, placed.size)
            wanted = self.final[: placed.size].ljust(placed.size, b"\0")
            if self.passed(placed, seen, wanted) != wanted:
                self.report("TRAMP-RESULT", f"the compiled caller gets {seen.hex()}, not {wanted.hex()}")
        now = self.values()
        for reg in self.abi.callee_saved:
            if now[reg] != self._began[reg]:
                self.report("ABI-SAVED", f"the compiled caller returns with {reg} = {now[reg]:#x}")

    # --- what was found

    def noted_args(self) -> Iterator[bytes]:
        """The C function copied all of them."""
        for number, (placed, wanted) in enumerate(zip(self.truth.args, self.args, strict=True)):
            yield self.passed(placed, self.cpu.read(SEEN + PLACE * number, len(wanted)), wanted)

    def passed(self, placed: Placed, got: bytes, wanted: bytes) -> bytes:
        """Compilers need not keep padding, wherever it is."""
        mask = mask_of(placed.type, self.abi.model)
        mixed = int.from_bytes(got, "little") & mask | int.from_bytes(wanted, "little") & ~mask
        return (mixed & (1 << 8 * len(wanted)) - 1).to_bytes(len(wanted), "little")


class CompiledTracer:
    """One compiler's callers and functions around trampolines of ours."""

    def __init__(self, compiler: Compiler) -> None:
        self.compiler = compiler
        self._bench: CompiledBench | None = None

    def pairs(self, calls: Mapping[int, Scenario]) -> dict[int, Pair]:
        """As `compiled`, halved where one of them cannot be compiled, so that no other is lost."""
        try:
            return compiled(self.compiler, calls) if calls else {}
        except CompilerError:
            if len(calls) == 1:
                return {}
            seeds: Sequence[int] = list(calls)
            halves = (seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :])
            return {
                seed: pair for half in halves for seed, pair in self.pairs({one: calls[one] for one in half}).items()
            }

    def judge(self, call: Scenario, code: bytes, pair: Pair) -> Outcome:
        """One call of the compiled caller through a trampoline that was made for the bench."""
        self._bench = self._bench or CompiledBench(self.compiler.arch)
        return self._bench.judge(with_c_values(call), code, pair)
