"""The picture of an argument layout as SVG, for reports and pages: no script, no network, light and dark."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.abi_view import Row, View, picture

if TYPE_CHECKING:
    import jinja2

CELL: Final = 26  # pixels of a byte
LINE: Final = 24  # pixels of a row
LEFT: Final = 90  # pixels before the bytes
EIGHT: Final = 8  # bytes of a row, as a rule
WIDE: Final = 16  # bytes; a wider register is drawn as one box
COLOURS: Final = 8  # then from the first again


@cache
def _template() -> "jinja2.Template":
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        "abi.svg.j2"
    )


def svg(view: View) -> str:
    """One picture: registers above, stack below, a colour for each argument."""
    shown = picture(view)
    page = _template()
    columns = WIDE if any(len(row.cells) > EIGHT for row in (*shown.registers, *shown.stack)) else EIGHT
    blocks, top = [], 56
    for title, rows in (("Registers", shown.registers), (f"Stack, from {view.abi.sp}", shown.stack)):
        if rows:
            blocks.append(
                {
                    "title": title,
                    "top": top,
                    "rows": [_row(row, top + 12 + LINE * n, columns) for n, row in enumerate(rows)],
                }
            )
            top += 12 + LINE * len(rows) + 34
    notes = LEFT + CELL * columns + 12
    longest = max((len(row.note) for row in (*shown.registers, *shown.stack)), default=0)
    width = max(notes + 8 * longest, 24 + 8 * len(str(view.proto)), 640)
    return page.render(
        title=str(view.proto), document=f"{view.abi.arch}: {view.abi.document}", blocks=blocks, width=width, height=top,
        notes=notes, cell=CELL, line=LINE,
    )  # fmt: skip


def _row(row: Row, top: int, columns: int) -> dict[str, Any]:
    """Byte 0 stands to the right, as in a register."""
    colour = "none" if row.owner is None else f"c{row.owner % COLOURS}"
    if len(row.cells) > WIDE:
        known = [cell for cell in row.cells if cell is not None]
        boxes = [{"x": LEFT, "width": CELL * columns, "text": f"{known[-1]} ... {known[0]}", "colour": colour}]
    else:
        boxes = [
            {
                "x": LEFT + CELL * (columns - 1 - number),
                "width": CELL,
                "text": "" if cell is None else str(cell),
                "colour": "none" if cell is None else colour,
            }
            for number, cell in enumerate(row.cells)
        ]
    return {"place": row.place, "top": top, "boxes": boxes, "note": row.note}
