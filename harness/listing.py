"""Listings for people: BPF insns beside native insns, a frame at a call."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from backends.base import FrameView, StackRef, Value
from backends.image import Image
from harness.isa.disasm import insn_text
from harness.isa.insn import Hole, Prog

Lines = Mapping[int, str]
Form = Callable[[Prog, int], str]  # an insn as text
FORMS: Final = ("log", "objdump")
NO_LINES: Final[Lines] = {}


@dataclass(frozen=True, slots=True)
class Row:
    """One BPF insn (`number` counts from its subprog's first; None in a prologue) and its native insns."""

    subprog: str
    number: int | None
    text: str
    native: tuple[tuple[int, str], ...]  # (byte offset, text)
    source: str = ""  # the line of the program's own source that begins here


def text_form(name: str) -> Form:
    """`log`: as the verifier's log writes insns; `objdump`: as llvm-objdump does."""
    if name == "log":
        return insn_text
    from harness.isa.objdump import objdump_text

    return objdump_text


def bpf_rows(prog: Prog, lines: Lines = NO_LINES, form: Form = insn_text) -> list[Row]:
    """A program without native code."""
    rows = (_bpf_row(prog, index, (), lines.get(index, ""), form) for index in range(len(prog.insns)))
    return [row for row in rows if row is not None]


def _bpf_row(prog: Prog, index: int, native: tuple[tuple[int, str], ...], source: str, form: Form) -> Row | None:
    if isinstance(prog.ops[index], Hole):
        return None
    subprog = prog.subprogs[prog.subprog_of(index)]
    return Row(subprog.name, index - subprog.start, form(prog, index), native, source)


def listing_lines(rows: Iterable[Row]) -> Iterator[str]:
    """Rows as lines: a heading for each subprog, a line of the source once."""
    subprog, source = None, ""
    for row in rows:
        if row.subprog != subprog:
            subprog = row.subprog
            yield f"\n{subprog}:"
        yield from row_lines(row if row.source != source else replace(row, source=""))
        source = row.source or source
    yield ""


def native_rows(image: Image, lines: Lines = NO_LINES, form: Form = insn_text) -> list[Row]:
    """An image beside what it was made of: per function the prologue, then insn by insn; the epilogue is with `exit`."""
    from backends.decode import disassemble

    prog = image.source.prog
    starts = [*image.insn_offsets, len(image.code)]
    decoded = disassemble(image.arch, image.code, image.base)
    native = [(address - image.base, f"{mnemonic} {operands}".rstrip()) for address, _, mnemonic, operands in decoded]
    rows: list[Row] = []
    for symbol in image.symbols:
        subprog = prog.subprogs[symbol.subprog]
        prologue = tuple(_between(native, symbol.offset, starts[subprog.start]))
        rows.append(Row(subprog.name, None, "prologue", prologue))
        end = symbol.offset + symbol.size
        for index in range(subprog.start, subprog.end):
            stop = starts[index + 1] if index + 1 < subprog.end else end
            origin = image.source.origin[index]
            first = index == 0 or image.source.origin[index - 1] != origin
            source = lines.get(origin, "") if first else ""
            row = _bpf_row(prog, index, tuple(_between(native, starts[index], stop)), source, form)
            if row is not None:
                rows.append(row)
    return rows


def _between(lines: list[tuple[int, str]], low: int, high: int) -> Iterator[tuple[int, str]]:
    return ((offset, text) for offset, text in lines if low <= offset < high)


def row_lines(row: Row) -> Iterator[str]:
    """A row as terminal lines: the native insns stand to the right, the source's line above."""
    if row.source:
        yield f"      ; {row.source}"
    number = "" if row.number is None else f"{row.number:4}"
    left = f"{number:>4}  {row.text}"
    if not row.native:
        yield left
    for at, (offset, text) in enumerate(row.native):
        yield f"{left if at == 0 else '':<52}{offset:6x}  {text}"


def frame_lines(view: FrameView) -> Iterator[str]:
    """Registers and stack at one call."""
    yield f"call {view.call + 1}: {view.callee}"
    for at in range(0, len(view.regs), 4):
        yield "  " + "  ".join(f"{name:>4} {value:016x}" for name, value in view.regs[at : at + 4])
    for offset, value in view.stack:
        yield f"  [{view.regs[0][0]}{f'+{offset}' if offset else ''}]".ljust(12) + f"{value:016x}"


def value_text(value: Value | None) -> str:
    """An argument of a call trace."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, StackRef) or -4096 < value < 4096 else f"{value:#x}"
