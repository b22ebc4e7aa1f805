"""llvm-objdump's form against what llvm-objdump 19.1.7 printed, and against the one that is installed."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from harness.isa.asm import Source, assemble
from harness.isa.insn import Prog
from harness.isa.objdump import objdump_text

RECORDED = [
    line.split("\t") for line in Path(__file__).with_name("objdump-19.1.7.txt").read_text(encoding="utf-8").splitlines()
]
# LLVM 19 does not know them; LLVM llvm/test/MC/BPF/load-store-acquire.s of 21 has these.
NEWER = {
    "r1 = load_acquire((u64 *)(r2 + 0))": "r1 = load_acquire((u64 *)(r2 + 0x0))",
    "r1 = load_acquire((u32 *)(r2 - 4))": "w1 = load_acquire((u32 *)(r2 - 0x4))",
    "store_release((u8 *)(r1 + 1), r2)": "store_release((u8 *)(r1 + 0x1), w2)",
    "store_release((u64 *)(r1 + 8), r2)": "store_release((u64 *)(r1 + 0x8), r2)",
}


def whole() -> Prog:
    return assemble([Source("main", "\n".join(text for text, _ in RECORDED))]).prog


def test_what_llvm_19_printed() -> None:
    prog = whole()
    found = [text for index in range(len(prog.insns)) if (text := objdump_text(prog, index))]
    assert found == [text for _, text in RECORDED]


@pytest.mark.parametrize("text", NEWER)
def test_what_newer_ones_print(text: str) -> None:
    assert objdump_text(assemble([Source("main", f"{text}\nexit")]).prog, 0) == NEWER[text]


def test_what_is_no_insn() -> None:
    assert objdump_text(assemble([Source("main", ".quad 0xff\nexit")]).prog, 0) == "<unknown>"


def test_targets_are_named_by_function() -> None:
    prog = assemble([Source("main", "exit"), Source("f", "if r1 == 0 goto -1\ngoto +0\nexit")]).prog
    assert [objdump_text(prog, n) for n in (1, 2)] == ["if r1 == 0x0 goto -0x1 <f>", "goto +0x0 <f+0x10>"]


def elf_of(code: bytes) -> bytes:
    """A relocatable EM_BPF object with one function, `main`. ELF-64 object file format."""
    names, strings = b"\0.text\0.shstrtab\0.symtab\0.strtab\0", b"\0main\0"
    symbols = bytes(24) + struct.pack("<IBBHQQ", 1, 0x12, 0, 1, 0, len(code))
    body, headers = b"", bytes(64)
    for name, kind, flags, data, link, info, entry in (
        (1, 1, 6, code, 0, 0, 0), (7, 3, 0, names, 0, 0, 0), (17, 2, 0, symbols, 4, 1, 24), (25, 3, 0, strings, 0, 0, 0),
    ):  # fmt: skip
        headers += struct.pack("<IIQQQQIIQQ", name, kind, flags, 0, 64 + len(body), len(data), link, info, 8, entry)
        body += data + bytes(-len(data) % 8)
    ident = b"\x7fELF\2\1\1" + bytes(9)
    return (
        ident + struct.pack("<HHIQQQIHHHHHH", 1, 247, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, 5, 2) + body + headers
    )


def test_the_installed_one_agrees(tmp_path: Path) -> None:
    found = next((tool for n in range(30, 18, -1) if (tool := shutil.which(f"llvm-objdump-{n}"))), None)
    if found is None:
        pytest.skip("no llvm-objdump of LLVM 19 or newer: its output is on record")
    path, prog = tmp_path / "main.o", whole()
    path.write_bytes(elf_of(b"".join(insn.to_bytes() for insn in prog.insns)))
    command = [found, "-d", "--no-show-raw-insn", "--mcpu=v4", str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    printed = {int(index): text for index, text in re.findall(r"^ +(\d+):\t(.*)$", out, re.MULTILINE)}
    ours = {index: text for index in range(len(prog.insns)) if (text := objdump_text(prog, index))}
    assert printed == ours
