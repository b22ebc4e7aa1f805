"""The kernel's assembly, as LLVM accepts it: text to a Prog."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from harness.isa import opcodes as op
from harness.isa.calls import HELPERS_BY_NAME
from harness.isa.forms import (
    EXCHANGE,
    FETCH,
    SWAP,
    address,
    atomic,
    encode_alu,
    fetch,
    load,
    move_signed,
    store_release,
    swap,
    symbol,
)
from harness.isa.insn import (
    CALLX,
    LD_IMM64,
    MAY_GOTO,
    Imm,
    Insn,
    Prog,
    Reg,
    Src,
    Subprog,
)  # fmt: skip
from harness.isa.maps import Map
from harness.isa.proto import Proto
from harness.isa.tokens import COMMENT, REG, AsmError, Fail, Line

MAX_INSNS: Final = 1_000_000  # of a whole program. Linux include/linux/bpf.h, BPF_COMPLEXITY_LIMIT_INSNS


@dataclass(frozen=True, slots=True)
class Source:
    """One subprog's name or prototype, and its text."""

    name: str
    text: str
    proto: Proto | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where an insn was written: 0-based line and column in its subprog's text."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Assembled:
    """A program and, per insn, the place of its text."""

    prog: Prog
    places: tuple[Place, ...]


_ALU_BY_SYMBOL: Final = {row.symbol: row for row in op.ALU if row is not op.NEG and row not in op.MOVSX}
_JMP_BY_SYMBOL: Final = {row.symbol: row for row in op.JMP}
_PSEUDO: Final = {
    "map_by_fd": (op.MAP_FD, op.MAP_VALUE),
    "map_by_idx": (op.MAP_INDEX, op.MAP_INDEX_VALUE),
    "var_addr": (op.BTF_VAR, None),
    "code_addr": (op.CODE_ADDR, None),
}


@dataclass(frozen=True, slots=True)
class _Target:
    """A jump or call whose target is a name, to be resolved when all are known."""

    index: int
    name: str
    is_call: bool
    subprog: int
    column: int
    fail: Fail


def _imm32(line: Line, bits: int) -> int:
    """A 32-bit immediate. A 64-bit operation extends its sign, so only -2^31 to 2^31-1 mean what they say there."""
    value = line.number(-(1 << 31), (1 << 31) - 1 if bits == 64 else op.MASK32, "a 32-bit constant", ("-",))
    return op.signed(value, 32)


def _src(line: Line, bits: int) -> Src:
    if REG.match(line.peek()):
        column = line.column()
        n, src_bits = line.reg()
        if src_bits != bits:
            raise line.fail(column, f"expected a {bits}-bit register, found a {src_bits}-bit one")
        return Reg(n)
    return Imm(_imm32(line, bits))


def _ld_imm64(dst: int, pseudo: int, value: int) -> list[Insn]:
    value &= op.MASK64
    return [Insn(LD_IMM64, dst, pseudo, 0, op.signed(value, 32)), Insn(0, imm=op.signed(value >> 32, 32))]


def _is_wide(insn: Insn) -> bool:
    return insn.opcode & 0x18 == op.DW.code


class _Assembler:
    """Gathers insns subprog by subprog, then resolves names."""

    def __init__(self, sources: Sequence[Source], kfuncs: Sequence[Proto], maps: Sequence[Map]) -> None:
        self.sources, self.kfuncs, self.maps = sources, kfuncs, maps
        self.map_names = [map_.name for map_ in maps]
        self.insns: list[Insn] = []
        self.places: list[Place] = []
        self.targets: list[_Target] = []
        self.labels: list[dict[str, int]] = []
        self.starts: list[int] = []

    def run(self) -> Assembled:
        for index, source in enumerate(self.sources):
            self.starts.append(len(self.insns))
            self.labels.append({})
            self._subprog(index, source)
            if len(self.insns) == self.starts[-1]:
                raise AsmError(source.name, 0, 0, "there is no insn here")
            if len(self.insns) > MAX_INSNS:
                raise AsmError(source.name, 0, 0, f"more than {MAX_INSNS} insns")
        for target in self.targets:
            self._resolve(target)
        ends = [*self.starts[1:], len(self.insns)]
        subprogs = tuple(
            Subprog(s.name, start, end, s.proto, s.proto is not None and s.proto.is_global)
            for s, start, end in zip(self.sources, self.starts, ends, strict=True)
        )
        return Assembled(Prog(tuple(self.insns), subprogs, tuple(self.kfuncs), tuple(self.maps)), tuple(self.places))

    def _subprog(self, index: int, source: Source) -> None:
        for number, text in enumerate(source.text.splitlines()):
            comment = COMMENT.search(text)
            code = text[: comment.start()] if comment else text
            fail = Fail(source.name, number)
            while match := re.match(r"\s*([A-Za-z_.][\w.$]*)\s*:", code):
                if match.group(1) in self.labels[index]:
                    raise fail(match.start(1), f"label {match.group(1)!r} is already defined")
                self.labels[index][match.group(1)] = len(self.insns)
                fail = Fail(source.name, number, fail.shift + match.end())
                code = code[match.end() :]
            if code.strip():
                self._statement(index, Line(code, fail))

    def _emit(self, line: Line, *insns: Insn) -> None:
        column = (line.tokens[0][2] if line.tokens else 0) + line.fail.shift
        self.insns += insns
        self.places += [Place(line.fail.line, column)] * len(insns)

    def _statement(self, subprog: int, line: Line) -> None:
        match line.peek():
            case "exit":
                line.take()
                self._emit(line, Insn(op.JMP_CLASS.code | op.EXIT_CODE << 4))
            case "goto" | "may_goto":
                opcode = MAY_GOTO if line.take() == "may_goto" else op.JMP_CLASS.code | op.JA_CODE << 4
                self._emit(line, Insn(opcode, off=self._jump_target(subprog, line)))
            case "gotol":
                line.take()
                distance = self._jump_target(subprog, line, far=True)
                self._emit(line, Insn(op.JMP32_CLASS.code | op.JA_CODE << 4, imm=distance))
            case "callx":
                line.take()
                self._emit(line, Insn(CALLX, line.reg()[0]))
            case "lock":
                line.take()
                self._emit(line, atomic(line))
            case "store_release":
                line.take()
                self._emit(line, store_release(line))
            case "call":
                line.take()
                self._call(subprog, line)
            case "if":
                line.take()
                self._branch(subprog, line)
            case "*":
                self._store(line)
            case ".quad" | ".8byte":
                line.take()
                raw = line.number(0, op.MASK64, "8 bytes of an insn")
                self._emit(
                    line,
                    Insn(raw & 255, raw >> 8 & 15, raw >> 12 & 15, op.signed(raw >> 16, 16), op.signed(raw >> 32, 32)),
                )
            case _:
                if not REG.match(line.peek()):
                    raise line.expected("an insn: exit, goto, call, if, a store, or an operation on a register")
                self._register(line)
        line.done()

    def _register(self, line: Line) -> None:
        """Everything that starts with a register: arithmetic, negation, loads, constants."""
        dst, bits = line.reg()
        column = line.column()
        row = _ALU_BY_SYMBOL[symbol(line, _ALU_BY_SYMBOL)]
        if row is not op.MOV:
            self._emit(line, encode_alu(row, bits, dst, _src(line, bits)))
            return
        if line.peek() == "*":
            insn = load(line, dst)
            # LLVM names the 32-bit register of a load that leaves the upper half 0.
            if bits == 32 and (insn.opcode & 7 != op.LDX.code or insn.opcode & 0xE0 != op.MODE_MEM or _is_wide(insn)):
                raise line.fail(column, "a load of 64 bits, or of a signed value, needs a 64-bit register")
            self._emit(line, insn)
        elif line.peek() == "(":
            self._emit(line, move_signed(line, dst, bits))
        elif SWAP.match(line.peek()):
            self._emit(line, swap(line, dst, bits))
        elif FETCH.match(line.peek()) or EXCHANGE.match(line.peek()) or line.peek() == "load_acquire":
            self._emit(line, fetch(line, dst, bits))
        elif line.peek() in _PSEUDO or line.peek() == "map_val":
            self._pseudo(line, dst)
        elif line.kind() == "word" and not REG.match(line.peek()) and line.peek(1) == "ll":
            number = self._map(line)
            line.take()
            self._emit(line, *_ld_imm64(dst, op.MAP_INDEX, number))
        elif line.peek() == "-" and REG.match(line.peek(1)):
            line.take()
            column = line.column()
            if line.reg() != (dst, bits):
                raise line.fail(column, "a negation names one register twice")
            self._emit(line, encode_alu(op.NEG, bits, dst, Imm(0)))
        elif line.kind() == "num" and line.peek(1) == "ll":
            value = line.number(-(1 << 63), op.MASK64, "a 64-bit constant")
            line.take()
            self._emit(line, *_ld_imm64(dst, 0, value))
        else:
            self._emit(line, encode_alu(row, bits, dst, _src(line, bits)))

    def _map(self, line: Line) -> int:
        """The number of a map of the case by its name."""
        if line.peek() not in self.map_names:
            known = ", ".join(self.map_names) or "none"
            raise line.fail(line.column(), f"there is no map {line.peek()!r} (maps: {known})")
        return self.map_names.index(line.take())

    def _pseudo(self, line: Line, dst: int) -> None:
        """`map_by_fd(3) ll`, `map_val(map_by_fd(3)) + 8 ll`, `var_addr(7) ll`, `code_addr(f) ll`. RFC 9669, table 12.

        `map_val(NAME) + 8 ll` names a map of the case.
        """
        value = line.peek() == "map_val"
        if value:
            line.take()
            line.want("(")
        if value and line.kind() == "word" and line.peek() not in _PSEUDO:
            number = self._map(line)
            line.want(")")
            off = line.number(0, (1 << 32) - 1, "an offset") if line.peek() == "+" else 0
            line.want("ll")
            self._emit(line, *_ld_imm64(dst, op.MAP_INDEX_VALUE, off << 32 | number))
            return
        if line.peek() not in _PSEUDO or (value and _PSEUDO[line.peek()][1] is None):
            raise line.expected("map_by_fd or map_by_idx")
        plain, of_value = _PSEUDO[line.take()]
        line.want("(")
        number, off = 0, 0
        if plain == op.CODE_ADDR and line.kind() == "word" and line.peek() != "pc":
            self._want_name(0, line, is_call=True)
        elif plain == op.CODE_ADDR:
            number = self._jump_target(0, line, far=True)
        else:
            number = line.number(0, (1 << 31) - 1, "a number")
        line.want(")")
        if value:
            line.want(")")
            off = line.number(0, (1 << 32) - 1, "an offset") if line.peek() == "+" else 0
        line.want("ll")
        pseudo = of_value if value and of_value is not None else plain
        self._emit(line, *_ld_imm64(dst, pseudo, off << 32 | number & op.MASK32))

    def _store(self, line: Line) -> None:
        size, base, off = address(line)
        line.want("=")
        if match := REG.match(line.peek()):
            src, bits = line.reg()
            if match.group(1) == "w" and size is op.DW:
                raise line.fail(line.column(), f"expected a 64-bit register, found a {bits}-bit one")
            self._emit(line, Insn(op.STX.code | size.code | op.MODE_MEM, base, src, off))
        else:
            self._emit(
                line,
                Insn(op.ST.code | size.code | op.MODE_MEM, base, 0, off, _imm32(line, 64 if size is op.DW else 32)),
            )

    def _branch(self, subprog: int, line: Line) -> None:
        dst, bits = line.reg()
        row = _JMP_BY_SYMBOL[symbol(line, _JMP_BY_SYMBOL)]
        src = _src(line, bits)
        line.want("goto")
        off = self._jump_target(subprog, line)
        code = (op.JMP_CLASS if bits == 64 else op.JMP32_CLASS).code | row.code << 4
        insn = Insn(code | op.SRC_REG, dst, src.n, off) if isinstance(src, Reg) else Insn(code, dst, 0, off, src.value)
        self._emit(line, insn)

    def _jump_target(self, subprog: int, line: Line, *, far: bool = False) -> int:
        """A label, `+N`, `-N` or `pc+N`; a label gives 0 now and its distance later."""
        if line.peek() == "pc":
            line.take()
        elif line.kind() == "word":
            self._want_name(subprog, line, is_call=False)
            return 0
        limit = 1 << (31 if far else 15)
        return line.number(-limit, limit - 1, "a label or a distance in insns")

    def _want_name(self, subprog: int, line: Line, *, is_call: bool) -> None:
        column = line.column()
        self.targets.append(_Target(len(self.insns), line.take(), is_call, subprog, column, line.fail))

    def _call(self, subprog: int, line: Line) -> None:
        call = op.JMP_CLASS.code | op.CALL_CODE << 4
        if line.peek() == "pc":
            line.take()
            off = line.number(-(1 << 31), (1 << 31) - 1, "a distance in insns")
            self._emit(line, Insn(call, src=op.CALL_SUBPROG.src, imm=off))
        elif line.kind() == "num":
            self._emit(line, Insn(call, imm=line.number(-(1 << 31), (1 << 31) - 1, "a helper's id")))
        elif line.kind() == "word":
            self._want_name(subprog, line, is_call=True)
            self._emit(line, Insn(call))
        else:
            raise line.expected("a subprog, a kfunc, or a helper by name or id")

    def _resolve(self, target: _Target) -> None:
        insn = self.insns[target.index]
        if not target.is_call:
            label = self.labels[target.subprog].get(target.name)
            if label is None:
                known = ", ".join(self.labels[target.subprog]) or "none"
                raise target.fail(target.column, f"there is no label {target.name!r} here (labels: {known})")
            off = label - target.index - 1
            if insn.opcode == op.JMP32_CLASS.code | op.JA_CODE << 4:
                self.insns[target.index] = Insn(insn.opcode, imm=off)
                return
            if not -(1 << 15) <= off < 1 << 15:
                raise target.fail(target.column, f"label {target.name!r} is {off} insns away, more than 16 bits hold")
            self.insns[target.index] = Insn(insn.opcode, insn.dst, insn.src, off, insn.imm)
            return
        if insn.opcode == LD_IMM64:
            names = [source.name for source in self.sources]
            if target.name not in names:
                raise target.fail(target.column, f"there is no subprog {target.name!r} (subprogs: {', '.join(names)})")
            distance = self.starts[names.index(target.name)] - target.index - 1
            self.insns[target.index] = Insn(insn.opcode, insn.dst, insn.src, 0, distance)
            return
        self.insns[target.index] = self._resolved_call(target, insn.opcode)

    def _resolved_call(self, target: _Target, opcode: int) -> Insn:
        names = [source.name for source in self.sources]
        if target.name in names:
            distance = self.starts[names.index(target.name)] - target.index - 1
            return Insn(opcode, src=op.CALL_SUBPROG.src, imm=distance)
        kfuncs = [kfunc.name for kfunc in self.kfuncs]
        if target.name in kfuncs:
            return Insn(opcode, src=op.CALL_KFUNC.src, imm=kfuncs.index(target.name) + 1)
        helper = HELPERS_BY_NAME.get(target.name)
        if helper is None:
            known = ", ".join([*names, *kfuncs]) or "none"
            raise target.fail(target.column, f"nothing named {target.name!r} to call (subprogs and kfuncs: {known})")
        return Insn(opcode, imm=helper.id)


def assemble(sources: Sequence[Source], kfuncs: Sequence[Proto] = (), maps: Sequence[Map] = ()) -> Assembled:
    """A program from the texts of its subprogs; the first is the main prog. Raises AsmError."""
    return _Assembler(sources, kfuncs, maps).run()
