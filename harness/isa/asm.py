"""The kernel's assembly, as LLVM accepts it: text to a Prog, and insns back to text."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from harness.isa import opcodes as op
from harness.isa.calls import HELPERS_BY_NAME
from harness.isa.insn import (
    LD_IMM64,
    Alu,
    Branch,
    CallHelper,
    CallKfunc,
    CallSubprog,
    Exit,
    Goto,
    Hole,
    Imm,
    Insn,
    LdImm64,
    Load,
    LoadArg,
    Op,
    Prog,
    Reg,
    Src,
    Store,
    StoreArg,
    Subprog,
    Undefined,
)  # fmt: skip
from harness.isa.proto import Proto

MAX_INSNS: Final = 1_000_000  # of a whole program. Linux include/linux/bpf.h, BPF_COMPLEXITY_LIMIT_INSNS


class AsmError(ValueError):
    """Text that is not an insn. `line` and `column` are 0-based, within the text of `subprog`."""

    def __init__(self, subprog: str, line: int, column: int, message: str) -> None:
        super().__init__(f"{subprog}, line {line + 1}, column {column + 1}: {message}")
        self.subprog, self.line, self.column, self.message = subprog, line, column, message


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


_TOKEN: Final = re.compile(
    r"""\s*(?:
      (?P<num>-?0[xX][0-9a-fA-F]+\b|-?[0-9]+\b)
    | (?P<word>\.?[A-Za-z_][\w.$@]*)
    | (?P<sym>s>>=|<<=|>>=|s>=|s<=|[-+*/|&^%]=|[<>=!]=|[-+*/|&^%<>=():,])
    | (?P<bad>\S)
    )""",
    re.VERBOSE,
)
_COMMENT: Final = re.compile(r"#|//|;")
_REG: Final = re.compile(r"([rw])([0-9]|1[0-5])\Z")
_SIGNED_SYM: Final = {">": "s>", ">=": "s>=", "<": "s<", "<=": "s<=", ">>=": "s>>="}
_ALU_BY_SYMBOL: Final = {row.symbol: row for row in op.ALU if row is not op.NEG}
_JMP_BY_SYMBOL: Final = {row.symbol: row for row in op.JMP}
_SIZE_BY_NAME: Final = {row.name: row for row in op.SIZES}


class _Line:
    """The tokens of one statement: (kind, text, column)."""

    def __init__(self, text: str, fail: "_Fail") -> None:
        self.end = len(text.rstrip())
        # Up to there, because spaces that no token follows are searched again from each of them.
        found = _TOKEN.finditer(text, 0, self.end)
        self.tokens = [(m.lastgroup or "", m.group(m.lastgroup or 0), m.start(m.lastgroup or 0)) for m in found]
        self.at = 0
        self.fail = fail

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def column(self) -> int:
        return self.tokens[self.at][2] if self.at < len(self.tokens) else self.end

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def found(self) -> str:
        return repr(self.peek()) if self.peek() else "the end of the line"

    def expected(self, what: str) -> AsmError:
        return self.fail(self.column(), f"expected {what}, found {self.found()}")

    def want(self, what: str) -> None:
        if self.peek() != what:
            raise self.expected(repr(what))
        self.take()

    def reg(self) -> tuple[int, int]:
        """A register as (number, bits)."""
        match = _REG.match(self.peek())
        if not match:
            raise self.expected("a register (r0-r11, w0-w10)")
        self.take()
        return int(match.group(2)), 64 if match.group(1) == "r" else 32

    def number(self, low: int, high: int, what: str, signs: tuple[str, ...] = ("+", "-")) -> int:
        """A constant in [low, high]; one sign as a token of its own belongs to it."""
        column, sign = self.column(), ""
        if self.peek() in signs:
            sign = self.take()
        if self.kind() != "num" or (sign and self.peek().startswith("-")):
            raise self.expected(what)
        try:
            value = int(self.take(), 0) * (-1 if sign == "-" else 1)
        except ValueError:  # it begins with 0, which is octal elsewhere, or has thousands of digits
            raise self.fail(column, f"{what} is a decimal without a leading 0, or 0x...") from None
        if not low <= value <= high:
            raise self.fail(column, f"{what} {value:#x} does not fit: {low:#x} to {high:#x}")
        return value

    def done(self) -> None:
        if self.peek():
            raise self.expected("the end of the line")


@dataclass(frozen=True, slots=True)
class _Fail:
    """Makes an AsmError at one line of one subprog."""

    subprog: str
    line: int
    shift: int = 0  # columns before the statement

    def __call__(self, column: int, message: str) -> AsmError:
        return AsmError(self.subprog, self.line, column + self.shift, message)


@dataclass(frozen=True, slots=True)
class _Target:
    """A jump or call whose target is a name, to be resolved when all are known."""

    index: int
    name: str
    is_call: bool
    subprog: int
    column: int
    fail: _Fail


def _imm32(line: _Line, bits: int) -> int:
    """A 32-bit immediate. A 64-bit operation extends its sign, so only -2^31 to 2^31-1 mean what they say there."""
    value = line.number(-(1 << 31), (1 << 31) - 1 if bits == 64 else op.MASK32, "a 32-bit constant", ("-",))
    return op.signed(value, 32)


def _src(line: _Line, bits: int) -> Src:
    if _REG.match(line.peek()):
        column = line.column()
        n, src_bits = line.reg()
        if src_bits != bits:
            raise line.fail(column, f"expected a {bits}-bit register, found a {src_bits}-bit one")
        return Reg(n)
    return Imm(_imm32(line, bits))


def _symbol(line: _Line, known: Mapping[str, object]) -> str:
    """An operator; `s` may be a token of its own before it."""
    symbol = line.peek()
    if symbol == "s" and line.peek(1) in _SIGNED_SYM:
        line.take()
        symbol = _SIGNED_SYM[line.peek()]
    if symbol not in known:
        raise line.expected("one of " + " ".join(known))
    line.take()
    return symbol


def _encode_alu(row: op.AluOp, bits: int, dst: int, src: Src) -> Insn:
    cls = op.ALU64_CLASS if bits == 64 else op.ALU32_CLASS
    code = row.code << 4 | cls.code
    return Insn(code | op.SRC_REG, dst, src.n) if isinstance(src, Reg) else Insn(code, dst, imm=src.value)


def _ld_imm64(dst: int, pseudo: int, value: int) -> list[Insn]:
    value &= op.MASK64
    return [Insn(LD_IMM64, dst, pseudo, 0, op.signed(value, 32)), Insn(0, imm=op.signed(value >> 32, 32))]


def _address(line: _Line) -> tuple[op.Size, int, int]:
    """`*(u64 *)(r10 - 8)` as (size, base, off)."""
    line.want("*")
    line.want("(")
    if line.peek() not in _SIZE_BY_NAME:
        raise line.expected("one of " + " ".join(_SIZE_BY_NAME))
    size = _SIZE_BY_NAME[line.take()]
    line.want("*")
    line.want(")")
    line.want("(")
    base, _ = line.reg()
    off = line.number(-(1 << 15), (1 << 15) - 1, "an offset") if line.peek() != ")" else 0
    line.want(")")
    return size, base, off


class _Assembler:
    """Gathers insns subprog by subprog, then resolves names."""

    def __init__(self, sources: Sequence[Source], kfuncs: Sequence[Proto]) -> None:
        self.sources, self.kfuncs = sources, kfuncs
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
        return Assembled(Prog(tuple(self.insns), subprogs, tuple(self.kfuncs)), tuple(self.places))

    def _subprog(self, index: int, source: Source) -> None:
        for number, text in enumerate(source.text.splitlines()):
            comment = _COMMENT.search(text)
            code = text[: comment.start()] if comment else text
            fail = _Fail(source.name, number)
            while match := re.match(r"\s*([A-Za-z_.][\w.$]*)\s*:", code):
                if match.group(1) in self.labels[index]:
                    raise fail(match.start(1), f"label {match.group(1)!r} is already defined")
                self.labels[index][match.group(1)] = len(self.insns)
                fail = _Fail(source.name, number, fail.shift + match.end())
                code = code[match.end() :]
            if code.strip():
                self._statement(index, _Line(code, fail))

    def _emit(self, line: _Line, *insns: Insn) -> None:
        column = (line.tokens[0][2] if line.tokens else 0) + line.fail.shift
        self.insns += insns
        self.places += [Place(line.fail.line, column)] * len(insns)

    def _statement(self, subprog: int, line: _Line) -> None:
        match line.peek():
            case "exit":
                line.take()
                self._emit(line, Insn(op.JMP_CLASS.code | op.EXIT_CODE << 4))
            case "goto":
                line.take()
                off = self._jump_target(subprog, line)
                self._emit(line, Insn(op.JMP_CLASS.code | op.JA_CODE << 4, off=off))
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
                if not _REG.match(line.peek()):
                    raise line.expected("an insn: exit, goto, call, if, a store, or an operation on a register")
                self._register(line)
        line.done()

    def _register(self, line: _Line) -> None:
        """Everything that starts with a register: arithmetic, negation, loads, constants."""
        dst, bits = line.reg()
        column = line.column()
        row = _ALU_BY_SYMBOL[_symbol(line, _ALU_BY_SYMBOL)]
        if row is not op.MOV:
            self._emit(line, _encode_alu(row, bits, dst, _src(line, bits)))
            return
        if line.peek() == "*":
            size, base, off = _address(line)
            if bits == 32:
                raise line.fail(column, "a load needs a 64-bit register")
            self._emit(line, Insn(op.LDX.code | size.code | op.MODE_MEM, dst, base, off))
        elif line.peek() == "-" and _REG.match(line.peek(1)):
            line.take()
            column = line.column()
            if line.reg() != (dst, bits):
                raise line.fail(column, "a negation names one register twice")
            self._emit(line, _encode_alu(op.NEG, bits, dst, Imm(0)))
        elif line.kind() == "num" and line.peek(1) == "ll":
            value = line.number(-(1 << 63), op.MASK64, "a 64-bit constant")
            line.take()
            self._emit(line, *_ld_imm64(dst, 0, value))
        else:
            self._emit(line, _encode_alu(row, bits, dst, _src(line, bits)))

    def _store(self, line: _Line) -> None:
        size, base, off = _address(line)
        line.want("=")
        if match := _REG.match(line.peek()):
            src, bits = line.reg()
            if match.group(1) == "w" and size is op.DW:
                raise line.fail(line.column(), f"expected a 64-bit register, found a {bits}-bit one")
            self._emit(line, Insn(op.STX.code | size.code | op.MODE_MEM, base, src, off))
        else:
            self._emit(
                line,
                Insn(op.ST.code | size.code | op.MODE_MEM, base, 0, off, _imm32(line, 64 if size is op.DW else 32)),
            )

    def _branch(self, subprog: int, line: _Line) -> None:
        dst, bits = line.reg()
        row = _JMP_BY_SYMBOL[_symbol(line, _JMP_BY_SYMBOL)]
        src = _src(line, bits)
        line.want("goto")
        off = self._jump_target(subprog, line)
        code = (op.JMP_CLASS if bits == 64 else op.JMP32_CLASS).code | row.code << 4
        insn = Insn(code | op.SRC_REG, dst, src.n, off) if isinstance(src, Reg) else Insn(code, dst, 0, off, src.value)
        self._emit(line, insn)

    def _jump_target(self, subprog: int, line: _Line) -> int:
        """A label, `+N`, `-N` or `pc+N`; a label gives 0 now and its distance later."""
        if line.peek() == "pc":
            line.take()
        elif line.kind() == "word":
            self._want_name(subprog, line, is_call=False)
            return 0
        return line.number(-(1 << 15), (1 << 15) - 1, "a label or a distance in insns")

    def _want_name(self, subprog: int, line: _Line, *, is_call: bool) -> None:
        column = line.column()
        self.targets.append(_Target(len(self.insns), line.take(), is_call, subprog, column, line.fail))

    def _call(self, subprog: int, line: _Line) -> None:
        call = op.JMP_CLASS.code | op.CALL_CODE << 4
        if line.peek() == "pc":
            line.take()
            off = line.number(-(1 << 31), (1 << 31) - 1, "a distance in insns")
            self._emit(line, Insn(call, src=op.CALL_SUBPROG.src, imm=off))
        elif line.kind() == "num":
            self._emit(line, Insn(call, imm=line.number(0, (1 << 31) - 1, "a helper's id")))
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
            if not -(1 << 15) <= off < 1 << 15:
                raise target.fail(target.column, f"label {target.name!r} is {off} insns away, more than 16 bits hold")
            self.insns[target.index] = Insn(insn.opcode, insn.dst, insn.src, off, insn.imm)
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


def assemble(sources: Sequence[Source], kfuncs: Sequence[Proto] = ()) -> Assembled:
    """A program from the texts of its subprogs; the first is the main prog. Raises AsmError."""
    return _Assembler(sources, kfuncs).run()


def _signed_off(off: int) -> str:
    return f"{'+' if off >= 0 else '-'}{abs(off)}"


def _reg(n: int, bits: int) -> str:
    return f"{'r' if bits == 64 else 'w'}{n}"


def _src_text(src: Src, bits: int) -> str:
    return _reg(src.n, bits) if isinstance(src, Reg) else str(src.value)


def op_text(insn: Op) -> str:
    """One insn as the verifier's log writes it, without its opcode. Linux kernel/bpf/disasm.c, print_bpf_insn()."""
    match insn:
        case Alu():
            dst = _reg(insn.dst, insn.bits)
            if insn.op is op.NEG:
                return f"{dst} = -{dst}"
            return f"{dst} {insn.op.symbol} {_src_text(insn.src, insn.bits)}"
        case LdImm64():
            return f"r{insn.dst} = {insn.value:#x} ll"
        case Load() | LoadArg():
            base, size = (insn.base, insn.size) if isinstance(insn, Load) else (op.STACK_ARGS, op.DW)
            return f"r{insn.dst} = *({size.name} *)(r{base} {_signed_off(insn.off)})"
        case Store() | StoreArg():
            base, size = (insn.base, insn.size) if isinstance(insn, Store) else (op.STACK_ARGS, op.DW)
            return f"*({size.name} *)(r{base} {_signed_off(insn.off)}) = {_src_text(insn.src, 64)}"
        case Goto():
            return f"goto pc{_signed_off(insn.off)}"
        case Branch():
            src = _reg(insn.src.n, insn.bits) if isinstance(insn.src, Reg) else f"{insn.src.value & op.MASK32:#x}"
            return f"if {_reg(insn.dst, insn.bits)} {insn.op.symbol} {src} goto pc{_signed_off(insn.off)}"
        case CallHelper():
            return f"call {insn.id}"
        case CallSubprog():
            return f"call pc{_signed_off(insn.off)}"
        case CallKfunc():
            return f"call kernel-function#{insn.btf_id}"
        case Exit():
            return "exit"
        case Hole():
            return ""
        case Undefined():
            raw = int.from_bytes(insn.insn.to_bytes(), "little")
            return f".quad {raw:#018x}"
        case _:
            assert_never(insn)


def insn_text(prog: Prog, index: int) -> str:
    """Insn `index` of a program as the verifier's log writes it: `(79) r1 = *(u64 *)(r11 +8)`, callees by name."""
    typed = prog.ops[index]
    text = op_text(typed)
    if isinstance(typed, CallKfunc):
        kfunc = prog.kfunc(typed.btf_id)
        text = f"call {kfunc.name}#{typed.btf_id}" if kfunc else text
    elif isinstance(typed, LdImm64):
        text = text.removesuffix(" ll")
    elif isinstance(typed, CallHelper):
        from_id = {helper.id: helper.name for helper in HELPERS_BY_NAME.values()}
        text = f"call {from_id.get(typed.id, 'unknown')}#{typed.id}"
    return f"({prog.insns[index].opcode:02x}) {text}"
