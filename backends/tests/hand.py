"""Images written by hand in native code, to drive the probe without any compiler."""

from dataclasses import dataclass

from backends.base import Job, Ran
from backends.calls import Body
from backends.emulator import CODE_BASE, PADS_BASE
from backends.image import Addresses, Image, Symbol
from backends.interp import Interpreter
from backends.native import NativeBackend
from harness.isa.asm import Source, assemble
from harness.isa.proto import parse_proto
from harness.isa.verified import FuncFacts, Verified

KFUNC_AT = PADS_BASE + 512 * 16  # those before are for helpers, by their ids, and for the kernel


def job_of(texts: dict[str, str], kfuncs: dict[str, int | str] | None = None, ctx: bytes = b"") -> Job:
    """A job whose keys are names or prototypes, with the interpreter's run as its reference."""
    bodies = tuple(Body(parse_proto(text), returns) for text, returns in (kfuncs or {}).items())
    sources = []
    for key, text in texts.items():
        proto = parse_proto(key) if "(" in key else None
        sources.append(Source(proto.name if proto else key, text, proto))
    prog = assemble(sources, [body.proto for body in bodies]).prog
    verified = Verified(prog, tuple(FuncFacts(0, 0, 0) for _ in prog.subprogs), tuple(range(len(prog.insns))))
    bare = Job(prog, verified, ctx, bodies)
    reference = Interpreter().run(bare)
    assert isinstance(reference, Ran)
    return Job(prog, verified, ctx, bodies, reference=reference)


@dataclass(frozen=True)
class HandCompiler:
    """A compiler that always gives the same functions, each as hex."""

    arch: str
    functions: tuple[str, ...]
    landing_pads: bool = False

    def compile(self, verified: Verified, addresses: Addresses) -> Image:
        code, symbols = b"", list[Symbol]()
        for index, text in enumerate(self.functions):
            raw = b"".join(self._insn(word) for word in text.split())
            symbols.append(Symbol(verified.prog.subprogs[index].name, len(code), len(raw), index))
            code += raw
        table = [symbols[verified.prog.subprog_of(i)].offset for i in range(len(verified.prog.insns))]
        return Image(self.arch, addresses.base, code, tuple(symbols), tuple(table), self.landing_pads, verified)

    def _insn(self, word: str) -> bytes:
        """arm64 words are written as numbers, x86-64 insns as bytes."""
        raw = bytes.fromhex(word)
        return raw[::-1] if self.arch == "arm64" else raw


def run_hand(arch: str, job: Job, *functions: str, landing_pads: bool = False) -> Ran:
    """The outcome of hand-written native code."""
    outcome = NativeBackend("hand", HandCompiler(arch, functions, landing_pads)).run(job)
    assert isinstance(outcome, Ran)
    return outcome


def bl(at: int, target: int) -> str:
    """arm64 `bl` at byte offset `at` of the image to an absolute address, as a word."""
    return f"{0x94000000 | ((target - CODE_BASE - at) // 4 & 0x3FFFFFF):08x}"


def call(at: int, target: int) -> str:
    """x86-64 `call rel32` at byte offset `at` of the image to an absolute address, as bytes."""
    return "e8" + ((target - CODE_BASE - at - 5) & 0xFFFFFFFF).to_bytes(4, "little").hex()
