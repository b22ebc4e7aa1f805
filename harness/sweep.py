"""Random programs: what the verifier accepts runs without a fault, and alike on every back end."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backends.base import Backend, Referee
from backends.calls import Body
from harness.case import Case
from harness.expect import Expect
from harness.isa import opcodes as op
from harness.isa.asm import Assembled, Source, assemble
from harness.isa.proto import Proto, parse_proto
from harness.suite import Result, Suite
from verifier.verdict import Rejected
from verifier.verify import Verifier

CTX: Final = bytes(range(0x30, 0x50))
CONSTS: Final = (0, 1, -1, 7, 8, 16, 255, 0x7FFFFFFF, -0x80000000, 0x1234567)
ALU: Final = [row.symbol for row in op.ALU if row not in (op.NEG, op.MOV, *op.MOVSX)]
JMP: Final = [row.symbol for row in op.JMP]


def proto_of(name: str, count: int) -> Proto:
    """A function of `count` u64."""
    return parse_proto(f"u64 {name}({', '.join(f'u64 a{i}' for i in range(count))})")


class Generator:
    """Writes one program. Registers that hold numbers are tracked, so that most programs are accepted; not all."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.labels = 0
        self.stores = 0
        self.kfuncs = [proto_of("kf", rng.randint(1, 12))]
        self.callees = [proto_of("f", rng.randint(1, 12)), proto_of("g", rng.randint(1, 12))]

    def program(self) -> Assembled:
        """A main prog, and up to two functions that it calls."""
        f, g = self.callees
        main = Source("main", "\n".join(["r6 = r1", *self.start([6]), *self.body(12, [f, *self.kfuncs]), *self.end()]))
        inner = Source(f.name, self.function(f, [g, *self.kfuncs]), f)
        leaf = Source(g.name, self.function(g, self.kfuncs), g)
        used = [main, inner, leaf] if "call g" in inner.text else [main, inner]
        return assemble(used if "call f" in main.text else [main], self.kfuncs)

    def function(self, proto: Proto, callees: list[Proto]) -> str:
        """A subprog that loads its stack arguments first."""
        loads = [f"r{7 + i % 3} = *(u64 *)(r11 + {8 * (i + 1)})" for i in range(max(len(proto.params) - 5, 0))]
        self.rng.shuffle(loads)
        return "\n".join([*loads, *self.start([]), *self.body(7, callees), *self.end()])

    def start(self, kept: list[int]) -> list[str]:
        """Numbers for most of the registers that are used."""
        return [f"r{n} = {self.const()}" for n in (0, 6, 7, 8, 9) if n not in kept and self.rng.random() < 0.9] + [
            "r0 = 5"
        ]

    def end(self) -> list[str]:
        """A result."""
        return [f"r0 {self.rng.choice(ALU[:2])} r{self.number()}", "exit"]

    def const(self) -> int:
        """A constant."""
        return self.rng.choice(CONSTS)

    def number(self) -> int:
        """A register that holds a number, as a rule."""
        return self.rng.choice((0, 7, 8, 9))

    def body(self, length: int, callees: list[Proto]) -> list[str]:
        """Insns of all kinds, and calls."""
        lines: list[str] = []
        for _ in range(self.rng.randint(1, length)):
            kinds = (self.alu, self.alu, self.branch, self.stack, self.pointer, self.context, self.special, self.atomic)
            lines += self.rng.choice(kinds)()
            if self.rng.random() < 0.25:
                lines += self.call(self.rng.choice(callees))
        return lines

    def alu(self) -> list[str]:
        """One operation."""
        kind, symbol = self.rng.choice("rrw"), self.rng.choice(ALU)
        dst, count = self.number(), self.rng.randint(0, 31)
        shift = symbol in ("<<=", ">>=", "s>>=")
        zero = symbol in ("/=", "%=", "s/=", "s%=")
        imm = count if shift else self.const() or 3 if zero else self.const()
        return [f"{kind}{dst} {symbol} {imm if self.rng.random() < 0.5 else f'{kind}{self.number()}'}"]

    def special(self) -> list[str]:
        """Moves that extend the sign, byte swaps, jumps with forms of their own."""
        dst, src = self.number(), self.number()
        match self.rng.randrange(5):
            case 0:
                return [f"r{dst} = (s{self.rng.choice((8, 16, 32))})r{src}"]
            case 1:
                return [f"w{dst} = (s{self.rng.choice((8, 16))})w{src}"]
            case 2:
                return [f"r{dst} = {self.rng.choice(('le', 'be', 'bswap'))}{self.rng.choice((16, 32, 64))} r{dst}"]
            case 3:
                at = self.rng.choice((8, 16, 32))
                fill = f"*(u64 *)(r10 - {at}) = r{src}"
                return [fill, f"r{dst} = *({self.rng.choice(('s8', 's16', 's32'))} *)(r10 - {at})"]
            case _:
                self.labels += 1
                return [f"may_goto l{self.labels}", *self.alu(), f"l{self.labels}:"]

    def atomic(self) -> list[str]:
        """On a slot of the stack that was stored before."""
        bits, at, n = self.rng.choice((32, 64)), self.rng.choice((8, 16, 24, 64)), self.number()
        kind, word = f"u{bits}", "atomic64" if bits == 64 else "atomic"
        place = f"({kind} *)(r10 - {at})"
        fill = f"*(u64 *)(r10 - {at}) = r{self.number()}"
        match self.rng.randrange(5):
            case 0:
                return [fill, f"lock *{place} {self.rng.choice(('+=', '&=', '|=', '^='))} r{n}"]
            case 1:
                name = self.rng.choice(("fetch_add", "fetch_or", "fetch_and", "fetch_xor", "xchg"))
                return [fill, f"r{n} = {word}_{name}({place}, r{n})"]
            case 2:
                return [fill, f"r0 = {word}_cmpxchg({place}, r0, r{n})"]
            case 3:
                return [fill, f"r{n} = load_acquire({place})"]
            case _:
                return [fill, f"store_release({place}, r{n})", f"r{n} = *(u64 *)(r10 - {at})"]

    def branch(self) -> list[str]:
        """A branch over two operations."""
        self.labels += 1
        kind = self.rng.choice("rrw")
        right = self.const() if self.rng.random() < 0.6 else f"{kind}{self.number()}"
        test = f"if {kind}{self.number()} {self.rng.choice(JMP)} {right} goto l{self.labels}"
        return [test, *self.alu(), *self.alu(), f"l{self.labels}:"]

    def stack(self) -> list[str]:
        """A store and a load, aligned as a rule."""
        size, name = self.rng.choice(((8, "u64"), (4, "u32"), (2, "u16"), (1, "u8")))
        at = self.rng.randrange(-64, -7, size) if self.rng.random() < 0.95 else self.rng.randrange(-70, 8)
        store = f"*({name} *)(r10 {at:+}) = {self.rng.choice((f'r{self.number()}', str(self.const())))}"
        return [store, f"r{self.number()} = *({name} *)(r10 {at:+})"]

    def pointer(self) -> list[str]:
        """A pointer moved by a number that the verifier has to bound."""
        n, mask = self.rng.choice((7, 8, 9)), self.rng.choice((8, 24, 56, 120))
        fill = [f"*(u64 *)(r10 - {at}) = {self.const()}" for at in range(8, 72, 8)]
        return [*fill, f"r1 = r{n}", f"r1 &= {mask}", "r2 = r10", "r2 += r1", f"r{n} = *(u64 *)(r2 - 64)"]

    def context(self) -> list[str]:
        """A load or store of the context."""
        at, n = self.rng.randint(0, 24), self.rng.choice((7, 8, 9))
        return [f"r{n} = *(u8 *)(r6 + {at})"] if self.rng.random() < 0.7 else [f"*(u8 *)(r6 + {at}) = r{n}"]

    def call(self, callee: Proto) -> list[str]:
        """A call with all its arguments, the slots in any order."""
        count = len(callee.params)
        lines = [
            f"r{i + 1} = {self.rng.choice((f'r{self.number()}', str(self.const())))}" for i in range(min(count, 5))
        ]
        slots = [
            f"*(u64 *)(r11 - {8 * (i + 1)}) = {self.rng.choice((f'r{self.number()}', str(self.const())))}"
            for i in range(count - 5)
        ]
        self.rng.shuffle(slots)
        return [*slots, *self.alu(), *lines, f"call {callee.name}"]


def case_of(seed: int) -> Case:
    """The program of one seed as a case that expects what the built-in verifier says."""
    assembled = Generator(random.Random(seed)).program()
    verdict = Verifier().verify(assembled.prog)
    refused = isinstance(verdict, Rejected)
    expect = Expect("reject", rule=verdict.rule) if isinstance(verdict, Rejected) else Expect("accept")
    return Case(
        name=f"seed-{seed}", file="random", line=1, about="refused" if refused else "accepted", spec=("random",), needs=(),
        type="syscall", ctx=CTX, kfuncs=tuple(Body(proto, "sum") for proto in assembled.prog.kfuncs), assembled=assembled,
        expect=expect, sources=(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found: programs made, how many of them were accepted, what went wrong, and the seconds it took."""

    programs: int
    accepted: int
    wrong: tuple[Result, ...]
    seconds: float


def sweep(first: int, last: int, backends: Sequence[Backend], *, stop_after: int = 20) -> Swept:
    """The programs of the seeds `first` to `last`; it ends early when `stop_after` went wrong."""
    suite, wrong, accepted, made = Suite(), list[Result](), 0, 0
    started = time.perf_counter()
    for seed in range(first, last + 1):
        case = case_of(seed)
        made += 1
        accepted += case.expect.verdict == "accept"
        for backend in backends:
            if case.expect.verdict == "accept" or isinstance(backend, Referee):
                result = suite.judge(case, backend)
                wrong += [result] if result.status not in ("passed", "differs") else []
        if len(wrong) >= stop_after:
            break
    return Swept(made, accepted, tuple(wrong), time.perf_counter() - started)
