"""The assembly of uBPF and of bpf_conformance's test files: `add %r0, 1`, `ldxdw %r0, [%r1+2]`, `jeq %r1, 5, out`."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from harness.isa import opcodes as op
from harness.isa.insn import LD_IMM64, Insn, Prog, Subprog

_LABEL: Final = re.compile(r"([A-Za-z_.][\w.]*):\s*")
_REG: Final = re.compile(r"%r(\d|1[0-5])\Z")
_PLACE: Final = re.compile(r"\[\s*%r(\d|1[0-5])\s*(?:([+-])\s*(\w+)\s*)?\]\Z")
_NUMBER: Final = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|\d+)\Z")
_SIZES: Final = {"b": op.B, "h": op.H, "w": op.W, "dw": op.DW}
_ATOMIC: Final = {"add": op.ATOMIC_ADD, "or": op.ATOMIC_OR, "and": op.ATOMIC_AND, "xor": op.ATOMIC_XOR}
_EXCHANGE: Final = {"xchg": op.XCHG, "cmpxchg": op.CMPXCHG}
MAX_INSNS: Final = 100_000


class DialectError(ValueError):
    """A line that is no insn: `line` is 0-based."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line, self.message = line, message


@dataclass(frozen=True, slots=True)
class _Statement:
    """A mnemonic and its operands, and where a jump may name a label."""

    line: int
    operands: tuple[str, ...]
    labels: Mapping[str, int]
    index: int

    def fail(self, message: str) -> DialectError:
        return DialectError(self.line, message)

    def operand(self, at: int) -> str:
        return self.operands[at]

    def reg(self, at: int) -> int:
        match = _REG.match(self.operand(at))
        if match is None:
            raise self.fail(f"expected a register (%r0-%r10), found {self.operand(at)!r}")
        return int(match.group(1))

    def number(self, at: int, bits: int) -> int:
        """A constant that `bits` hold, with either sign."""
        return self._number(self.operand(at), bits)

    def _number(self, text: str, bits: int) -> int:
        if not _NUMBER.match(text) or len(text) > 32:
            raise self.fail(f"expected a number, found {text[:40]!r}")
        digits = text.lstrip("+-")
        value = int(digits, 16 if digits[:2] in ("0x", "0X") else 10) * (-1 if text.startswith("-") else 1)
        if not -(1 << bits - 1) <= value < 1 << bits:
            raise self.fail(f"{text} does not fit in {bits} bits")
        return op.signed(value, bits)

    def place(self, at: int) -> tuple[int, int]:
        """`[%r1+8]` as (register, offset)."""
        match = _PLACE.match(self.operand(at))
        if match is None:
            raise self.fail(f"expected a place in memory ([%r1+8]), found {self.operand(at)!r}")
        off = self._number((match.group(2) or "+") + match.group(3), 16) if match.group(3) else 0
        return int(match.group(1)), off

    def source(self, at: int) -> tuple[int, int, int]:
        """A register or a constant as (opcode bit, src, imm)."""
        if self.operand(at).startswith("%"):
            return op.SRC_REG, self.reg(at), 0
        return 0, 0, self.number(at, 32)

    def target(self, at: int, bits: int) -> int:
        """A distance in insns, or a label's."""
        text = self.operand(at)
        if text[:1] in ("+", "-") or text.isdigit():
            return self._number(text, bits)
        if text not in self.labels:
            raise self.fail(f"there is no label {text!r}")
        distance = self.labels[text] - self.index - 1
        if not -(1 << bits - 1) <= distance < 1 << bits - 1:
            raise self.fail(f"label {text!r} is {distance} insns away")
        return distance


_Encode = Callable[[_Statement], list[Insn]]


def _alu(row: op.AluOp, cls: op.InsnClass) -> _Encode:
    def encode(s: _Statement) -> list[Insn]:
        bit, src, imm = (0, 0, 0) if row is op.NEG else s.source(1)
        return [Insn(cls.code | row.code << 4 | bit, s.reg(0), src, row.off, imm)]

    return encode


def _movsx(row: op.AluOp, cls: op.InsnClass) -> _Encode:
    return lambda s: [Insn(cls.code | row.code << 4 | op.SRC_REG, s.reg(0), s.reg(1), row.off)]


def _swap(row: op.EndOp, width: int) -> _Encode:
    return lambda s: [Insn(row.cls.code | op.END_CODE << 4 | row.src, s.reg(0), imm=width)]


def _jump(row: op.JmpOp, cls: op.InsnClass) -> _Encode:
    def encode(s: _Statement) -> list[Insn]:
        bit, src, imm = s.source(1)
        return [Insn(cls.code | row.code << 4 | bit, s.reg(0), src, s.target(2, 16), imm)]

    return encode


def _load(size: op.Size, mode: int) -> _Encode:
    def encode(s: _Statement) -> list[Insn]:
        base, off = s.place(1)
        return [Insn(op.LDX.code | size.code | mode, s.reg(0), base, off)]

    return encode


def _store(size: op.Size, *, register: bool) -> _Encode:
    def encode(s: _Statement) -> list[Insn]:
        base, off = s.place(0)
        if register:
            return [Insn(op.STX.code | size.code | op.MODE_MEM, base, s.reg(1), off)]
        return [Insn(op.ST.code | size.code | op.MODE_MEM, base, 0, off, s.number(1, 32))]

    return encode


def _lddw(s: _Statement) -> list[Insn]:
    value = s.number(1, 64) & op.MASK64
    return [Insn(LD_IMM64, s.reg(0), imm=op.signed(value, 32)), Insn(0, imm=op.signed(value >> 32, 32))]


def _rows() -> dict[str, tuple[int, _Encode]]:
    """Every mnemonic: how many operands it has, and its encoding."""
    rows: dict[str, tuple[int, _Encode]] = {}
    for suffix, cls in (("", op.ALU64_CLASS), ("32", op.ALU32_CLASS)):
        for row in op.ALU:
            if row not in op.MOVSX:
                rows[row.name + suffix] = 1 if row is op.NEG else 2, _alu(row, cls)
            elif cls is op.ALU64_CLASS or row is not op.MOVSX32:
                rows[f"movsx{row.off}{suffix or '64'}"] = 2, _movsx(row, cls)
    for suffix, cls in (("", op.JMP_CLASS), ("32", op.JMP32_CLASS)):
        rows |= {jmp.name + suffix: (3, _jump(jmp, cls)) for jmp in op.JMP}
    for end in op.END:
        name = "swap" if end is op.BSWAP else end.name
        rows |= {f"{name}{width}": (1, _swap(end, width)) for width in op.END_WIDTHS}
    for name, size in _SIZES.items():
        rows[f"ldx{name}"] = 2, _load(size, op.MODE_MEM)
        if size is not op.DW:
            rows[f"ldxs{name}"] = 2, _load(size, op.MODE_MEMSX)
        rows[f"st{name}"] = 2, _store(size, register=False)
        rows[f"stx{name}"] = 2, _store(size, register=True)
    goto = op.JA_CODE << 4
    rows["lddw"] = 2, _lddw
    rows["ja"] = 1, lambda s: [Insn(op.JMP_CLASS.code | goto, off=s.target(0, 16))]
    rows["ja32"] = 1, lambda s: [Insn(op.JMP32_CLASS.code | goto, imm=s.target(0, 32))]
    rows["exit"] = 0, lambda s: [Insn(op.JMP_CLASS.code | op.EXIT_CODE << 4)]
    return rows


_ROWS: Final[Mapping[str, tuple[int, _Encode]]] = _rows()


def _atomic(s: _Statement, words: Sequence[str]) -> list[Insn]:
    """After `lock`: `[fetch] add[32] [%r1+0], %r2`."""
    fetch = words[:1] == ["fetch"]
    (name,) = words[1:] if fetch and len(words) == 2 else words if len(words) == 1 else ("",)
    size, name = (op.W, name[:-2]) if name.endswith("32") else (op.DW, name)
    if name in _ATOMIC:
        code = _ATOMIC[name].code | (op.FETCH if fetch else 0)
    elif name in _EXCHANGE:
        code = _EXCHANGE[name].code
    else:
        raise s.fail(f"expected [fetch] add, or, and, xor, xchg or cmpxchg, or with 32, found {' '.join(words)!r}")
    base, off = s.place(0)
    return [Insn(op.STX.code | size.code | op.MODE_ATOMIC, base, s.reg(1), off, code)]


def _call(s: _Statement, words: Sequence[str]) -> list[Insn]:
    """After `call`: `local LABEL`, `helper N`, `runtime N`, or `N`."""
    opcode = op.JMP_CLASS.code | op.CALL_CODE << 4
    kind = words[0] if words else "helper"
    if kind == "local":
        return [Insn(opcode, src=op.CALL_SUBPROG.src, imm=s.target(0, 32))]
    if kind in ("helper", "runtime"):
        src = op.CALL_KFUNC.src if kind == "runtime" else op.CALL_HELPER.src
        return [Insn(opcode, src=src, imm=s.number(0, 32))]
    raise s.fail(f"expected call local, helper or runtime, found {kind!r}")


@dataclass(slots=True)
class _Reader:
    """Takes the lines of a program twice: for labels, then for insns."""

    lines: Sequence[str]
    statements: list[tuple[int, str]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def run(self) -> tuple[Insn, ...]:
        index = 0
        for number, raw in enumerate(self.lines):
            text = re.split(r"#|;|//", raw, maxsplit=1)[0].strip()
            while match := _LABEL.match(text):
                if match.group(1) in self.labels:
                    raise DialectError(number, f"label {match.group(1)!r} is already defined")
                self.labels[match.group(1)] = index
                text = text[match.end() :]
            if text:
                self.statements.append((number, text))
                index += 2 if text.split()[0] == "lddw" else 1
        insns: list[Insn] = []
        for number, text in self.statements:
            insns += self._insn(number, text, len(insns))
            if len(insns) > MAX_INSNS:
                raise DialectError(number, f"more than {MAX_INSNS} insns")
        return tuple(insns)

    def _insn(self, line: int, text: str, index: int) -> list[Insn]:
        mnemonic, _, rest = text.partition(" ")
        words: list[str] = []
        if mnemonic in ("lock", "call"):
            # Words come before the first operand: `lock fetch add [%r1+0], %r2`, `call local f`.
            first, comma, others = rest.partition(",")
            head, at, bracket = first.partition("[") if mnemonic == "lock" else ("", "", "")
            words = head.split() if mnemonic == "lock" else first.split()[:-1]
            rest = at + bracket + comma + others if mnemonic == "lock" else (first.split() or [""])[-1]
        operands = tuple(part.strip() for part in rest.split(",")) if rest.strip() else ()
        statement = _Statement(line, operands, self.labels, index)
        worded: dict[str, tuple[int, _Encode]] = {
            "lock": (2, lambda s: _atomic(s, words)),
            "call": (1, lambda s: _call(s, words)),
        }
        known = worded.get(mnemonic) or _ROWS.get(mnemonic)
        if known is None:
            raise statement.fail(f"there is no insn {mnemonic!r}")
        count, encode = known
        if len(operands) != count or "" in operands:
            raise statement.fail(f"{mnemonic} takes {count} operand{'' if count == 1 else 's'}, found {len(operands)}")
        return encode(statement)


def assemble_dialect(lines: Sequence[str]) -> tuple[Insn, ...]:
    """The insns of a program. Raises DialectError."""
    return _Reader(lines).run()


def prog_of(insns: tuple[Insn, ...]) -> Prog:
    """A program of bare insns: a function begins where one is called; the first is the main prog."""
    call = op.JMP_CLASS.code | op.CALL_CODE << 4
    targets = {
        i + 1 + insn.imm for i, insn in enumerate(insns) if (insn.opcode, insn.src) == (call, op.CALL_SUBPROG.src)
    }
    starts = sorted({0, *(at for at in targets if 0 < at < len(insns))})
    ends = [*starts[1:], len(insns)]
    subprogs = (
        Subprog("main" if i == 0 else f"local{i}", start, end)
        for i, (start, end) in enumerate(zip(starts, ends, strict=True))
    )
    return Prog(insns, tuple(subprogs))
