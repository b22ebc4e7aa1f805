"""Atomics with and without the Large System Extensions: words typed by hand from the Arm ARM."""

import pytest

from backends.arm64.jit import Arm64Jit, Options
from harness.isa.asm import Source, assemble

# x0 is R1, x1 is R2, x8 is R0; x11 and x12 are scratch, x9 is the auxiliary register.
WORDS = {
    # ldxr x11, [x0]; add x11, x11, x1; stxr w12, x11, [x0]; cbnz w12, .-12
    "lock *(u64 *)(r1 + 0) += r2": "c85f7c0b 8b01016b c80c7c0b 35ffffac",
    # mov x9, x1; ldxr x1, [x0]; orr x11, x1, x9; stlxr w12, x11, [x0]; cbnz w12, .-12; dmb ish
    "r2 = atomic64_fetch_or((u64 *)(r1 + 0), r2)": "aa0103e9 c85f7c01 aa09002b c80cfc0b 35ffffac d5033bbf",
    # mov w11, w1; ldxr w1, [x0]; stlxr w12, w11, [x0]; cbnz w12, .-8; dmb ish
    "w2 = xchg32_32(r1 + 0, w2)": "2a0103eb 885f7c01 880cfc0b 35ffffcc d5033bbf",
    # mov x11, x8; ldxr x8, [x0]; eor x12, x8, x11; cbnz x12, .+16; stlxr w12, x1, [x0]; cbnz w12, .-16; dmb ish
    "r0 = cmpxchg_64(r1 + 0, r0, r2)": "aa0803eb c85f7c08 ca0b010c b500008c c80cfc01 35ffff8c d5033bbf",
}
LSE_WORDS = {
    "lock *(u64 *)(r1 + 0) += r2": "f821001f",  # stadd x1, [x0]
    "lock *(u64 *)(r1 + 0) &= r2": "aa2103eb f82b101f",  # mvn x11, x1; stclr x11, [x0]
    "r2 = atomic64_fetch_add((u64 *)(r1 + 0), r2)": "f8e10001",  # ldaddal x1, x1, [x0]
    "w2 = atomic_fetch_and((u32 *)(r1 + 0), w2)": "2a2103eb b8eb1001",  # mvn w11, w1; ldclral w11, w1, [x0]
    "w2 = xchg32_32(r1 + 0, w2)": "b8e18001",  # swpal w1, w1, [x0]
    "r0 = cmpxchg_64(r1 + 8, r0, r2)": "9100200a c8e8fd41",  # add x10, x0, #8; casal x8, x1, [x10]
    "r3 = load_acquire((u16 *)(r1 - 2))": "d100080a 48dffd42",  # sub x10, x0, #2; ldarh w2, [x10]
    "store_release((u64 *)(r1 + 0), r2)": "c89ffc01",  # stlr x1, [x0]
}


@pytest.mark.parametrize(("text", "lse"), [*((text, False) for text in WORDS), *((text, True) for text in LSE_WORDS)])
def test_words(text: str, lse: bool) -> None:
    (insn,) = assemble([Source("main", text)], []).prog.ops
    words = Arm64Jit(Options(lse=lse)).atomic(insn)  # type: ignore[arg-type]
    assert " ".join(f"{word:08x}" for word in words) == (LSE_WORDS if lse else WORDS)[text]
