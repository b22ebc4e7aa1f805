"""Random programs: what the verifier accepts runs without a fault, and alike in the interpreter and both JITs."""

import random

from backends.arm64.jit import Arm64Jit
from backends.base import Backend, Job, Ran
from backends.calls import Body
from backends.interp import Interpreter
from backends.native import NativeBackend
from backends.x86_64.jit import X8664Jit
from harness.isa import opcodes as op
from harness.isa.asm import Source, assemble
from harness.isa.insn import Prog
from harness.isa.proto import Proto, parse_proto
from verifier.verdict import Accepted
from verifier.verify import Verifier

SEED = 20261120
PROGRAMS = 400
CTX = bytes(range(0x30, 0x50))
CONSTS = (0, 1, -1, 7, 8, 16, 255, 0x7FFFFFFF, -0x80000000, 0x1234567)
ALU = [row.symbol for row in op.ALU if row not in (op.NEG, op.MOV)]
JMP = [row.symbol for row in op.JMP]


def proto_of(name: str, count: int) -> Proto:
    return parse_proto(f"u64 {name}({', '.join(f'u64 a{i}' for i in range(count))})")


class Generator:
    """Writes one program. Registers that hold numbers are tracked, so that most programs are accepted; not all."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.labels = 0
        self.stores = 0
        self.kfuncs = [proto_of("kf", rng.randint(1, 12))]
        self.callees = [proto_of("f", rng.randint(1, 12)), proto_of("g", rng.randint(1, 12))]

    def program(self) -> Prog:
        f, g = self.callees
        main = Source("main", "\n".join(["r6 = r1", *self.start([6]), *self.body(12, [f, *self.kfuncs]), *self.end()]))
        inner = Source(f.name, self.function(f, [g, *self.kfuncs]), f)
        leaf = Source(g.name, self.function(g, self.kfuncs), g)
        used = [main, inner, leaf] if "call g" in inner.text else [main, inner]
        return assemble(used if "call f" in main.text else [main], self.kfuncs).prog

    def function(self, proto: Proto, callees: list[Proto]) -> str:
        loads = [f"r{7 + i % 3} = *(u64 *)(r11 + {8 * (i + 1)})" for i in range(max(len(proto.params) - 5, 0))]
        self.rng.shuffle(loads)
        return "\n".join([*loads, *self.start([]), *self.body(7, callees), *self.end()])

    def start(self, kept: list[int]) -> list[str]:
        return [f"r{n} = {self.const()}" for n in (0, 6, 7, 8, 9) if n not in kept and self.rng.random() < 0.9] + [
            "r0 = 5"
        ]

    def end(self) -> list[str]:
        return [f"r0 {self.rng.choice(ALU[:2])} r{self.number()}", "exit"]

    def const(self) -> int:
        return self.rng.choice(CONSTS)

    def number(self) -> int:
        return self.rng.choice((0, 7, 8, 9))

    def body(self, length: int, callees: list[Proto]) -> list[str]:
        lines: list[str] = []
        for _ in range(self.rng.randint(1, length)):
            lines += self.rng.choice((self.alu, self.alu, self.branch, self.stack, self.pointer, self.context))()
            if self.rng.random() < 0.25:
                lines += self.call(self.rng.choice(callees))
        return lines

    def alu(self) -> list[str]:
        kind, symbol = self.rng.choice("rrw"), self.rng.choice(ALU)
        dst, count = self.number(), self.rng.randint(0, 31)
        shift = symbol in ("<<=", ">>=", "s>>=")
        zero = symbol in ("/=", "%=")
        imm = count if shift else self.const() or 3 if zero else self.const()
        return [f"{kind}{dst} {symbol} {imm if self.rng.random() < 0.5 else f'{kind}{self.number()}'}"]

    def branch(self) -> list[str]:
        self.labels += 1
        kind = self.rng.choice("rrw")
        right = self.const() if self.rng.random() < 0.6 else f"{kind}{self.number()}"
        test = f"if {kind}{self.number()} {self.rng.choice(JMP)} {right} goto l{self.labels}"
        return [test, *self.alu(), *self.alu(), f"l{self.labels}:"]

    def stack(self) -> list[str]:
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
        at, n = self.rng.randint(0, 24), self.rng.choice((7, 8, 9))
        return [f"r{n} = *(u8 *)(r6 + {at})"] if self.rng.random() < 0.7 else [f"*(u8 *)(r6 + {at}) = r{n}"]

    def call(self, callee: Proto) -> list[str]:
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


def job_of(prog: Prog, verdict: Accepted, reference: Ran | None) -> Job:
    bodies = tuple(Body(proto, "sum") for proto in prog.kfuncs)
    return Job(prog, verdict.verified, CTX, bodies, reference=reference)


def differences(prog: Prog, backends: list[Backend]) -> list[str] | None:
    """What went wrong with an accepted program; None for a rejected one."""
    verdict = Verifier().verify(prog)
    if not isinstance(verdict, Accepted):
        return None
    reference = Interpreter().run(job_of(prog, verdict, None))
    assert isinstance(reference, Ran)
    found = [f"interp: {violation}" for violation in reference.violations]
    for backend in [] if found else backends:
        outcome = backend.run(job_of(prog, verdict, reference))
        assert isinstance(outcome, Ran), outcome
        found += [f"{backend.name}: {violation}" for violation in outcome.violations]
        if (outcome.retval, outcome.memory) != (reference.retval, reference.memory):
            found.append(f"{backend.name}: {outcome.retval}, not {reference.retval}")
    return found


def sweep(seed: int, count: int) -> tuple[int, list[tuple[int, list[str]]]]:
    """Programs `seed` to `seed + count`: how many were accepted, and those that went wrong."""
    backends: list[Backend] = [NativeBackend("jit-x86_64", X8664Jit()), NativeBackend("jit-arm64", Arm64Jit())]
    accepted, wrong = 0, list[tuple[int, list[str]]]()
    for number in range(seed, seed + count):
        found = differences(Generator(random.Random(number)).program(), backends)
        accepted += found is not None
        if found:
            wrong.append((number, found))
    return accepted, wrong


def test_accepted_programs_run_alike() -> None:
    accepted, wrong = sweep(SEED, PROGRAMS)
    assert wrong == []
    assert accepted > PROGRAMS // 5
