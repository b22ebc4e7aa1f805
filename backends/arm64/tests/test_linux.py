"""The bytes that a running Linux 7.2.13 made of the same insns; only the distance of a call within a program may differ."""

import json
from pathlib import Path
from typing import Any

import pytest

from backends.arm64.jit import Arm64Jit, Options
from backends.image import Addresses
from harness.isa.insn import Prog, Subprog, insns_from_bytes
from harness.isa.proto import parse_proto
from harness.isa.verified import FuncFacts, Verified

PROGRAMS = json.loads((Path(__file__).parent / "linux-7.2.13.json").read_text())["programs"]
BL, ANYWHERE = 0b100101 << 26, (1 << 26) - 1


def _words(code: bytes, *, is_alone: bool) -> list[str]:
    """The words; in a program of several functions, which the kernel lays out elsewhere, without distances of calls."""
    words = [int.from_bytes(code[at : at + 4], "little") for at in range(0, len(code), 4)]
    return [f"{word & ~ANYWHERE if word & ~ANYWHERE == BL and not is_alone else word:08x}" for word in words]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program["name"])
def test_same_bytes_as_linux(program: dict[str, Any]) -> None:
    funcs = program["funcs"]
    prog = Prog(
        insns_from_bytes(bytes.fromhex(program["insns"])),
        tuple(Subprog(f"f{number}", func["start"], func["end"]) for number, func in enumerate(funcs)),
        (parse_proto("u64 kfunc(void)"),),
    )
    facts = tuple(FuncFacts(f["stack_depth"], f["incoming_slots"], f["outgoing_slots"]) for f in funcs)
    externs = {name: int(address, 0) for name, address in program["externs"].items()}
    verified = Verified(prog, facts, tuple(range(len(prog.insns))))
    image = Arm64Jit(Options(bti=False, pac=True)).compile(verified, Addresses(int(program["base"], 0), externs))
    for symbol, func in zip(image.symbols, funcs, strict=True):
        ours = image.code[symbol.offset : symbol.offset + symbol.size]
        alone = len(funcs) == 1
        assert _words(ours, is_alone=alone) == _words(bytes.fromhex(func["jited"]), is_alone=alone)
