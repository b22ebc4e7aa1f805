"""Generated prototypes through one compiler: what it says of the types, and its callers and callees against the layouts."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from backends import emulator as emu
from backends.abi import Layout
from backends.arm64 import abi as arm64
from backends.oracle.compilers import Compiler, CompilerError, Object
from backends.oracle.generate import Generated
from backends.oracle.machine import Machine, Mismatch, covered, mask_of
from backends.oracle.quirks import models, of_types
from backends.oracle.source import facts, masks, source, types_of
from backends.x86_64 import abi as x86_64

Run = Callable[[int, Layout, random.Random], list[Mismatch]]
_MODULES: Final[dict[str, Any]] = {"arm64": arm64, "x86_64": x86_64}


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference: `side` is compile, facts, layout, callee or caller; `quirks` explain it, none where nothing does."""

    seed: int
    text: str
    compiler: str
    side: str
    mismatches: tuple[str, ...]
    quirks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """What one compiler did with some prototypes; `left_out` of them have types that it does not know."""

    compiler: Compiler
    prototypes: int
    left_out: int
    findings: tuple[Finding, ...]


@cache
def has_half(compiler: Compiler) -> bool:
    """Whether it knows `_Float16`: clang 14 does not, for x86-64."""
    try:
        compiler.compile("_Float16 f(_Float16 a) { return a; }\n")
    except CompilerError:
        return False
    return True


@cache
def machine_of(arch: str) -> Machine:
    """One CPU for each architecture and process."""
    return Machine(_MODULES[arch].ABI)


def judge(compiler: Compiler, prototypes: Sequence[Generated]) -> Judged:
    """Compiles all of them in one file and runs each, both ways."""
    known = [made for made in prototypes if not made.has_half or has_half(compiler)]
    return Judged(compiler, len(known), len(prototypes) - len(known), tuple(_findings(compiler, known)))


def _findings(compiler: Compiler, prototypes: Sequence[Generated]) -> list[Finding]:
    if not prototypes:
        return []
    machine = machine_of(compiler.arch)
    try:
        compiled = compiler.compile(source(compiler.arch, machine.abi.model, prototypes))
    except CompilerError as error:
        if len(prototypes) > 1:  # one of them is what the compiler cannot do
            half = len(prototypes) // 2
            return [*_findings(compiler, prototypes[:half]), *_findings(compiler, prototypes[half:])]
        (made,) = prototypes
        quirks = of_types(compiler, (ctype for _, ctype in types_of(made)), fails=True)
        found = _finding(
            compiler, made, "compile", [Mismatch("compile", "failed", str(error).partition("\n")[0])], quirks
        )
        return [found] if found else []
    machine.load(compiled.image)
    return [found for made in prototypes for found in _judge_one(compiler, compiled, machine, made)]


def _judge_one(compiler: Compiler, compiled: Object, machine: Machine, made: Generated) -> list[Finding]:
    module = _MODULES[compiler.arch]
    layout = module.layout(made.proto)
    wrong = _wrong_facts(compiled, made, machine)
    otherwise = of_types(compiler, (ctype for _, ctype in types_of(made))) if wrong else ()
    found = [
        _finding(compiler, made, "facts", wrong, otherwise),
        _finding(compiler, made, "layout", _left_out(layout, machine)),
    ]
    for side, run in (("callee", machine.callee), ("caller", machine.caller)):
        at = emu.CODE_BASE + compiled.functions[f"{side}{made.seed}"]
        mismatches = run(at, layout, random.Random(made.seed))
        quirks = _explained(compiler, made, run, at) or otherwise if mismatches else ()
        found.append(_finding(compiler, made, side, mismatches, quirks))
    return [finding for finding in found if finding is not None]


def _finding(
    compiler: Compiler, made: Generated, side: str, mismatches: Sequence[Mismatch], quirks: tuple[str, ...] = ()
) -> Finding | None:
    return (
        Finding(made.seed, made.text, str(compiler), side, tuple(map(str, mismatches)), quirks) if mismatches else None
    )


def _explained(compiler: Compiler, made: Generated, run: Run, at: int) -> tuple[str, ...]:
    """The fewest known differences of this compiler with which the layout is what it does."""
    module = _MODULES[compiler.arch]
    for quirks, rules in models(compiler):
        if not run(at, module.layout(made.proto, rules), random.Random(made.seed)):
            return tuple(quirk.id for quirk in quirks)
    return ()


def _wrong_facts(compiled: Object, made: Generated, machine: Machine) -> list[Mismatch]:
    """Sizes, alignments, offsets and bit-fields that are others than ours."""
    model, found = machine.abi.model, list[Mismatch]()
    raw = compiled.constants.get(f"facts{made.seed}", b"")
    for number, fact in enumerate(facts(made, model)):
        value = int.from_bytes(raw[8 * number : 8 * number + 8], "little")
        if value != fact.value:
            found.append(Mismatch("facts", fact.text, f"{value}, ours is {fact.value}"))
    for name, ctype, leaf in masks(made, model):
        ours = ((1 << leaf.size_bits) - 1) << leaf.at_bit
        theirs = int.from_bytes(compiled.constants[name], "little")
        if theirs != ours:
            found.append(Mismatch("facts", f"{ctype}{leaf.path}", f"bits {theirs:#x}, ours are {ours:#x}"))
    return found


def _left_out(layout: Layout, machine: Machine) -> list[Mismatch]:
    """Values that a layout has no place for."""
    everything = [*layout.args, *([layout.result] if layout.result else [])]
    return [
        Mismatch("layout", placed.name, "not all of it has a place")
        for placed in everything
        if not placed.by_reference and mask_of(placed.type, machine.abi.model) & ~covered(placed)
    ]
