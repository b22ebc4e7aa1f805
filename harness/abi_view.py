"""An argument layout for people and programs: table, picture of registers and stack, the rules one by one, JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backends.abi import EIGHTBYTE, Abi, InReg, Layout, Piece, Placed, bytes_text
from backends.abis import ARCHES
from harness.isa.ctypes import rounded_up, type_text
from harness.isa.proto import Proto

SHOWN_EIGHTBYTES: Final = 8  # of one argument in the picture
MAX_TYPE: Final = 44  # characters of a type in the table; the rules show it whole


@dataclass(frozen=True, slots=True)
class Row:
    """A register or eight bytes of stack: which byte of its argument each of its own bytes holds, from the lowest.

    `owner` is the number of the argument, None for what belongs to none.
    """

    place: str
    cells: tuple[int | None, ...]
    owner: int | None
    note: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Registers and stack as the callee finds them."""

    registers: tuple[Row, ...]
    stack: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of one prototype on one architecture."""

    proto: Proto
    abi: Abi
    layout: Layout


def view_of(proto: Proto, arch: str) -> View:
    """Raises LayoutError."""
    abi, layout = ARCHES[arch]
    return View(proto, abi, layout(proto))


def picture(view: View) -> Picture:
    """Every argument register up to the last that is used, and the stack up to the end of the last argument."""
    return Picture(tuple(_registers(view)), tuple(_stack(view)))


def _registers(view: View) -> Iterator[Row]:
    used: dict[str, tuple[int, Placed, Piece]] = {}
    result = view.layout.result
    for number, placed in enumerate(view.layout.args):
        for piece in placed.pieces:
            if isinstance(piece.where, InReg):
                used[piece.where.reg] = number, placed, piece
    if result is not None and result.by_reference:
        yield Row(str(result.pieces[0].where), tuple(range(EIGHTBYTE)), len(view.layout.args), "address for the result")
    vectors = sorted(
        (reg for reg in used if reg[0] in "vxyz" and reg not in view.abi.int_args),
        key=lambda reg: int(reg.lstrip("vxyzm")),
    )
    for group in (view.abi.int_args, vectors):
        last = max((at for at, reg in enumerate(group) if reg in used), default=-1)
        for reg in group[: last + 1]:
            if reg in used:
                number, placed, piece = used[reg]
                yield Row(reg, _cells(piece, _width(piece.size)), number, _note(placed, piece))
            elif result is None or not result.by_reference or reg != str(result.pieces[0].where):
                yield Row(reg, (None,) * EIGHTBYTE, None, "stays empty")
    if view.layout.vector_args is not None:
        yield Row("al", (None,), None, f"{view.layout.vector_args} or more, up to 8: vector registers used")


def _width(size: int) -> int:
    return next(width for width in (8, 16, 32, 64) if size <= width)


def _cells(piece: Piece, width: int) -> tuple[int | None, ...]:
    return tuple(piece.at + n if n < piece.size else None for n in range(width))


def _note(placed: Placed, piece: Piece) -> str:
    if placed.by_reference:
        return f"{placed.name}: address of a copy, {placed.size} bytes"
    part = "" if piece.size == placed.size else f", {bytes_text(piece.at, piece.size)} of {placed.size}"
    return f"{placed.name}{part}"


def _stack(view: View) -> Iterator[Row]:
    if not view.layout.stack_bytes:
        return
    if view.abi.return_address_bytes:
        yield Row(f"[{view.abi.sp}+0]", (None,) * EIGHTBYTE, None, "return address")
    at = 0
    for number, placed in enumerate(view.layout.args):
        for piece in placed.pieces:
            if not isinstance(piece.where, InReg):
                if at < piece.where.off:
                    yield Row(_address(view, at), (None,) * EIGHTBYTE, None, f"{piece.where.off - at} bytes stay empty")
                yield from _slots(view, number, placed, piece)
                at = rounded_up(piece.where.off + piece.size, EIGHTBYTE)


def _address(view: View, off: int) -> str:
    return f"[{view.abi.sp}+{off + view.abi.return_address_bytes}]"


def _slots(view: View, number: int, placed: Placed, piece: Piece) -> Iterator[Row]:
    assert not isinstance(piece.where, InReg)
    count = rounded_up(piece.size, EIGHTBYTE) // EIGHTBYTE
    left_out = max(count - SHOWN_EIGHTBYTES, 0)
    for slot in range(count - left_out):
        first = slot * EIGHTBYTE
        if left_out and slot == SHOWN_EIGHTBYTES - 1:
            yield Row("...", (), number, f"{placed.name}, {left_out * EIGHTBYTE} more bytes")
            first = (count - 1) * EIGHTBYTE
        part = Piece(first, min(EIGHTBYTE, piece.size - first), piece.where)
        yield Row(_address(view, piece.where.off + first), _cells(part, EIGHTBYTE), number, _note(placed, part))


# --- as text


def text_lines(view: View) -> Iterator[str]:
    """Everything, for a terminal."""
    sp = view.abi.sp
    yield f"{view.proto}"
    yield f"{view.abi.arch}: {view.abi.document}. Places as the callee finds them at entry."
    yield ""
    yield from _table(view)
    yield ""
    yield "Each row is a register or 8 bytes of stack, its lowest byte to the right; numbers are bytes of the argument, its padding among them; `.` is nothing of it, and unspecified."
    shown = picture(view)
    if shown.registers:
        yield "  registers"
        yield from map(_row_text, shown.registers)
    if shown.stack:
        yield f"  stack; {_sp_rule(view)}"
        yield from map(_row_text, shown.stack)
    elif not shown.registers:
        yield "  no argument is passed"
    else:
        yield f"  nothing on the stack ({sp} as the call left it)"
    yield ""
    yield from _rules(view)


def _sp_rule(view: View) -> str:
    first, align = _address(view, 0)[1:-1], view.layout.stack_align
    kernel = "; 16 in user code" if view.abi.arch == "x86_64" and align == 8 else ""
    return f"{first} is a multiple of {align}{kernel}"


def _table(view: View) -> Iterator[str]:
    rows = [("argument", "type", "size", "align", "place", "rule")]
    for placed in view.layout.args:
        rows.append(_table_row(view, placed, placed.name))
    if view.layout.result is None:
        rows.append(("result", "void", "", "", "", ""))
    else:
        rows.append(_table_row(view, view.layout.result, "result"))
    rows.append(("stack", f"{view.layout.stack_bytes} bytes", "", "", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for name, ctype, size, align, place, rule in rows:
        left = f"  {name:<{widths[0]}}  {ctype:<{widths[1]}}  {size:>{widths[2]}}  {align:>{widths[3]}}"
        yield f"{left}  {place:<{widths[4]}}  {rule}".rstrip()


def _table_row(view: View, placed: Placed, name: str) -> tuple[str, str, str, str, str, str]:
    text = type_text(placed.type)
    short = text if len(text) <= MAX_TYPE else f"{text[: MAX_TYPE - 3]}..."
    return name, short, str(placed.size), str(placed.align), _place_text(view, placed), placed.rule


def _place_text(view: View, placed: Placed) -> str:
    places = ", ".join(_places(view, placed)) or "nowhere"
    if placed is view.layout.result and placed.by_reference:
        return f"memory at {places}" + (f", {view.abi.result} at return" if view.abi.arch == "x86_64" else "")
    return f"address in {places}" if placed.by_reference else places


def _places(view: View, placed: Placed) -> list[str]:
    return [view.abi.at_entry(piece.where) for piece in placed.pieces]


def _row_text(row: Row) -> str:
    if len(row.cells) > 16:
        known = [cell for cell in row.cells if cell is not None]
        cells = f"{known[-1]} ... {known[0]}"
    else:
        cells = " ".join(f"{'.' if cell is None else cell:>2}" for cell in reversed(row.cells))
    return f"  {row.place:<10} |{cells:>23}| {row.note}" if row.cells else f"  {row.place:<10}  {'':>23}  {row.note}"


def _rules(view: View) -> Iterator[str]:
    everything = [*view.layout.args, *([view.layout.result] if view.layout.result else [])]
    width = max((len(step.rule) for placed in everything for step in placed.steps), default=0)
    if view.layout.begin:
        yield "before the first argument"
        yield from (f"  {step.rule:<{width}}  {step.text}" for step in view.layout.begin)
    for placed in everything:
        yield f"{placed.name}: {type_text(placed.type)}, {placed.size} byte{'s' * (placed.size != 1)} aligned to {placed.align}"
        for step in placed.steps:
            yield f"  {step.rule:<{width}}  {step.text}"


# --- as JSON


def json_of(view: View) -> dict[str, Any]:
    """docs/abi.md names every field."""
    data: dict[str, Any] = {
        "arch": view.abi.arch,
        "prototype": str(view.proto),
        "args": [_json_placed(view, placed) for placed in view.layout.args],
        "result": [_json_placed(view, placed) for placed in _sequence(view.layout.result)],
        "stack": view.layout.stack_bytes,
        "stack_align": view.layout.stack_align,
    }
    if view.layout.vector_args is not None:
        data["al"] = view.layout.vector_args
    return data


def _sequence(result: Placed | None) -> Sequence[Placed]:
    return () if result is None else (result,)


def _json_placed(view: View, placed: Placed) -> dict[str, Any]:
    return {
        "name": placed.name,
        "type": type_text(placed.type),
        "size": placed.size,
        "align": placed.align,
        "where": _places(view, placed),
        "rule": placed.rule,
        "by_reference": placed.by_reference,
        "pieces": [{"at": p.at, "size": p.size, "where": view.abi.at_entry(p.where)} for p in placed.pieces],
        "rules": [{"rule": step.rule, "text": step.text} for step in placed.steps],
    }
