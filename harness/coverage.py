"""Which insns the cases have: a row per operation, width and kind of source, with its group of RFC 9669."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from backends.base import Backend
from harness.case import Case
from harness.isa import opcodes as op
from harness.isa.insn import (
    Alu,
    Atomic,
    Branch,
    CallHelper,
    CallKfunc,
    CallReg,
    CallSubprog,
    Exit,
    Goto,
    LdImm64,
    Load,
    LoadAcquire,
    LoadArg,
    MayGoto,
    Op,
    PacketLoad,
    Reg,
    Src,
    Store,
    StoreArg,
    StoreRelease,
    Swap,
)  # fmt: skip
from harness.suite import Suite
from verifier.verdict import Rejected

BASE32, BASE64, DIVMUL32, DIVMUL64 = "base32", "base64", "divmul32", "divmul64"
ATOMIC32, ATOMIC64, PACKET, LINUX = "atomic32", "atomic64", "packet", "Linux"
_CONSTANTS: Final = (
    "constant",
    "map_by_fd",
    "map_val of map_by_fd",
    "var_addr",
    "code_addr",
    "map_by_idx",
    "map_val of map_by_idx",
)
_DIVISION: Final = (op.MUL, op.DIV, op.MOD, op.SDIV, op.SMOD)


def _source(src: Src) -> str:
    return "register" if isinstance(src, Reg) else "constant"


def name_of(insn: Op) -> str | None:
    """The row that an insn belongs to; None for a second slot and for what is no insn."""
    match insn:
        case Alu():
            return f"{insn.op.name}{insn.bits} {_source(insn.src)}"
        case Swap():
            return f"{insn.op.name}{insn.width}"
        case LdImm64():
            known = insn.pseudo < len(_CONSTANTS)
            return f"ld_imm64 {_CONSTANTS[insn.pseudo]}" if known else None
        case Load():
            return f"load {'s' if insn.signed else 'u'}{8 * insn.size.bytes}"
        case Store():
            return f"store {insn.size.name} {_source(insn.src)}"
        case Atomic():
            return f"atomic {insn.op.name} {insn.size.name}"
        case LoadAcquire():
            return f"load_acquire {insn.size.name}"
        case StoreRelease():
            return f"store_release {insn.size.name}"
        case PacketLoad():
            return f"packet {insn.size.name} {'absolute' if insn.index is None else 'indirect'}"
        case LoadArg():
            return "load stack argument"
        case StoreArg():
            return f"store stack argument {_source(insn.src)}"
        case Branch():
            return f"{insn.op.name}{insn.bits} {_source(insn.src)}"
        case _:
            return _name_of_flow(insn)


def _name_of_flow(insn: Op) -> str | None:
    match insn:
        case Goto():
            return "gotol" if insn.far else "goto"
        case MayGoto():
            return "may_goto"
        case CallHelper():
            return "call helper"
        case CallSubprog():
            return "call subprog"
        case CallKfunc():
            return "call kfunc"
        case CallReg():
            return "callx"
        case Exit():
            return "exit"
        case _:
            return None


def every_insn() -> Iterator[tuple[str, str]]:
    """(row, group) of everything that there is. RFC 9669, "Conformance groups"; what is not in it is Linux's."""
    for bits in (32, 64):
        base, divmul = (BASE32, DIVMUL32) if bits == 32 else (BASE64, DIVMUL64)
        for row in op.ALU:
            if (row, bits) == (op.MOVSX32, 32):
                continue
            sources = ["constant"] if row is op.NEG else ["register"] if row in op.MOVSX else ["register", "constant"]
            yield from ((f"{row.name}{bits} {source}", divmul if row in _DIVISION else base) for source in sources)
        yield from ((f"{row.name}{bits} {source}", base) for row in op.JMP for source in ("register", "constant"))
    for end in op.END:
        yield from ((f"{end.name}{width}", BASE64 if width == 64 else BASE32) for width in op.END_WIDTHS)
    yield from ((f"ld_imm64 {name}", BASE64) for name in _CONSTANTS)
    for size in op.SIZES:
        base = BASE64 if size is op.DW else BASE32
        yield f"load u{8 * size.bytes}", base
        if size is not op.DW:
            yield f"load s{8 * size.bytes}", BASE32
            yield from ((f"packet {size.name} {kind}", PACKET) for kind in ("absolute", "indirect"))
        yield from ((f"store {size.name} {source}", base) for source in ("register", "constant"))
        yield from ((f"{word} {size.name}", LINUX) for word in ("load_acquire", "store_release"))
    for size in (op.W, op.DW):
        yield from ((f"atomic {row.name} {size.name}", ATOMIC32 if size is op.W else ATOMIC64) for row in op.ATOMIC)
    yield from (
        (name, BASE32) for name in ("goto", "gotol", "exit", "call helper", "call subprog", "call kfunc", "callx")
    )
    yield from ((name, LINUX) for name in ("may_goto", "load stack argument"))
    yield from ((f"store stack argument {source}", LINUX) for source in ("register", "constant"))


@dataclass(slots=True)
class Row:
    """One kind of insn: on how many passing cases each engine had it, and how many cases refuse it."""

    name: str
    group: str
    refused: int = 0
    passed: dict[str, int] = field(default_factory=dict)

    @property
    def only_refused(self) -> bool:
        """Whether no program here may have it."""
        return (
            self.name.startswith("packet")
            or self.name == "callx"
            or (self.name.startswith("ld_imm64") and "constant" not in self.name)
        )

    @property
    def is_covered(self) -> bool:
        """Whether a passing case has it on each engine, or refuses it where nobody may have it."""
        return self.refused > 0 if self.only_refused else bool(self.passed) and all(self.passed.values())


def covered(cases: Iterable[Case], backends: Sequence[Backend]) -> list[Row]:
    """Every row, counted over the cases as they pass."""
    rows = {name: Row(name, group, passed=dict.fromkeys((b.name for b in backends), 0)) for name, group in every_insn()}
    suite = Suite()
    for case in cases:
        ops = case.assembled.prog.ops
        names = {name for insn in ops if (name := name_of(insn)) is not None}
        for backend in backends:
            result = suite.judge(case, backend)
            if result.status != "passed":
                continue
            if isinstance(result.verdict, Rejected):
                at = result.verdict.insn
                name = name_of(ops[at]) if at is not None else None
                if name is not None and backend is backends[0]:
                    rows[name].refused += 1
                continue
            for name in names:
                rows[name].passed[backend.name] += 1
    return list(rows.values())


def report_lines(rows: Sequence[Row], *, every: bool) -> Iterator[str]:
    """A table: every row, or those without a case; then a line per group."""
    engines = list(rows[0].passed)
    width = max(len(row.name) for row in rows)
    shown = [row for row in rows if every or not row.is_covered]
    if shown:
        yield f"{'insn':<{width}}  {'group':<9}" + "".join(f"{name:>12}" for name in engines) + f"{'refused':>9}"
    for row in shown:
        yield (
            f"{row.name:<{width}}  {row.group:<9}"
            + "".join(f"{n:>12}" for n in row.passed.values())
            + f"{row.refused:>9}"
        )
    for group in dict.fromkeys(row.group for row in rows):
        own = [row for row in rows if row.group == group]
        yield f"{group}: {sum(row.is_covered for row in own)} of {len(own)} covered"
