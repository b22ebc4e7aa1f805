"""What the assembler accepts, and where and how it refuses."""

import pytest

from harness.isa.asm import Source, assemble
from harness.isa.tokens import AsmError


def test_labels_comments_and_blank_lines() -> None:
    text = """
    # a comment
    r0 = 0          // another
    if r0 == 0 goto out ; and a third
    r0 = 1
    out: exit
    """
    prog = assemble([Source("main", text)]).prog
    assert [insn.opcode for insn in prog.insns] == [0xB7, 0x15, 0xB7, 0x95]
    assert prog.insns[1].off == 1


def test_labels_belong_to_their_subprog() -> None:
    body = "goto out\nout: exit"
    assert len(assemble([Source("a", body), Source("b", body)]).prog.insns) == 4


def test_places() -> None:
    assembled = assemble([Source("main", "  r0 = 0\n\nl: r1 = 5 ll\n exit")])
    assert [(p.line, p.column) for p in assembled.places] == [(0, 2), (2, 3), (2, 3), (3, 1)]


BAD = [
    ("r0 = ", 0, 4, "expected a 32-bit constant, found the end of the line"),
    ("r0 =+ 5", 0, 4, "expected a 32-bit constant, found '+'"),
    ("r0 = - -5", 0, 7, "expected a 32-bit constant, found '-5'"),
    ("r16 = 1", 0, 0, "expected an insn"),
    ("r0 = 1 2", 0, 7, "expected the end of the line, found '2'"),
    ("r0 = w1", 0, 5, "expected a 64-bit register, found a 32-bit one"),
    ("r0 = 0x80000000", 0, 5, "a 32-bit constant 0x80000000 does not fit"),
    ("w0 = 0x100000000", 0, 5, "does not fit"),
    ("exit\n goto nowhere", 1, 6, "there is no label 'nowhere' here (labels: none)"),
    ("call nobody", 0, 5, "nothing named 'nobody' to call"),
    ("call", 0, 4, "expected a subprog, a kfunc, or a helper"),
    ("a: exit\na: exit", 1, 0, "label 'a' is already defined"),
    ("a:b: r0 = @", 0, 10, "expected a 32-bit constant, found '@'"),
    ("if r1 ~ 5 goto +1", 0, 6, "expected one of =="),
    ("if r1 == 5 got +1", 0, 11, "expected 'goto'"),
    ("goto +40000", 0, 5, "does not fit"),
    ("r0 = *(u65 *)(r1 + 0)", 0, 7, "expected one of u32 u16 u8 u64"),
    ("r0 = *(u64 *)(r1 + 0", 0, 20, "expected ')'"),
    ("w0 = *(u64 *)(r1 + 0)", 0, 3, "a load of 64 bits, or of a signed value, needs a 64-bit register"),
    ("*(u64 *)(r1 + 99999) = 1", 0, 12, "an offset 0x1869f does not fit"),
    ("r1 = -r2", 0, 6, "a negation names one register twice"),
    ("", 0, 0, "there is no insn here"),
    (".quad 0x1ffffffffffffffff", 0, 6, "does not fit"),
]


@pytest.mark.parametrize(("text", "line", "column", "message"), BAD, ids=[row[0] or "empty" for row in BAD])
def test_refusals(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(AsmError) as caught:
        assemble([Source("main", text)])
    assert message in caught.value.message
    assert (caught.value.line, caught.value.column) == (line, column)


def test_raw_insns() -> None:
    prog = assemble([Source("main", ".quad 0x00000001fff8b179\n exit")]).prog
    assert prog.insns[0].to_bytes().hex() == "79b1f8ff01000000"
