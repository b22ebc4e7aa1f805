"""Trampolines between code that compilers made: ours are right there, and broken ones are seen there, too."""

import pytest

from backends.oracle.compilers import Compiler
from backends.oracle.traced import CompiledTracer, generated, with_c_values
from backends.tests import trampoline_doubles as doubles
from backends.tests.trampoline_doubles import Double
from backends.tracing import Traced, Tracer
from backends.trampoline import TRACING, Kind, Mode
from backends.trampoline_bench import Scenario, Step
from backends.trampoline_grid import TYPES, proto_of, scenario


def broken(compiler: Compiler, calls: list[Scenario], maker: type[Double] | None = None) -> list[list[str]]:
    """The checks that our trampolines break between compiled code, by call."""
    tracer, ours = CompiledTracer(compiler), Tracer(compiler.arch, maker=maker)
    pairs = tracer.pairs(dict(enumerate(calls)))
    found: list[list[str]] = []
    for seed, call in enumerate(calls):
        made = ours.trace(call, Mode.FULL)
        assert isinstance(made, Traced)
        outcome = tracer.judge(call, made.code, pairs[seed])
        found.append([violation.check for violation in outcome.violations])
    return found


def test_every_type_in_registers_and_on_the_stack(compiler: Compiler) -> None:
    protos = [proto_of(["u64"] * before + [text] + ["u8"]) for text in TYPES.values() for before in (0, 6, 8)]
    calls = [scenario(proto, [Step(kind)]) for proto in protos for kind in (Kind.FENTRY, Kind.FEXIT)]
    assert broken(compiler, calls) == [[]] * len(calls)


def test_every_kind_and_result(compiler: Compiler) -> None:
    results = ("u64", "void", "int", "u8", "bool", "void *", "struct {int a, b;}")
    calls = [scenario(proto_of(["u64"] * 9, result), [Step(kind)]) for result in results for kind in TRACING]
    calls += [scenario("u64 f(u64 a)", [Step(Kind.FMOD_RET, 7), Step(Kind.FEXIT)])]
    calls += [scenario(f"{result} f(u64 a)", [Step(Kind.FENTRY)]) for result in ("__int128", "struct {u64 a, b;}")]
    assert broken(compiler, calls) == [[]] * len(calls)


BROKEN = [
    (doubles.Arm64AreaNotRounded, 9, Kind.FEXIT, "ABI-SP"),
    (doubles.Arm64StackNotCopied, 9, Kind.FEXIT, "TRAMP-ARG"),
    (doubles.Arm64SavedLost, 1, Kind.FENTRY, "ABI-SAVED"),
    (doubles.Arm64ResultClobbered, 1, Kind.FEXIT, "TRAMP-CTX"),
    (doubles.X86IncomingAsJumped, 7, Kind.FENTRY, "TRAMP-CTX"),
    (doubles.X86StackNotCopied, 7, Kind.FEXIT, "TRAMP-ARG"),
    (doubles.X86RbxLost, 1, Kind.FENTRY, "ABI-SAVED"),
    (doubles.X86ResultNotGiven, 1, Kind.FEXIT, "TRAMP-RESULT"),
]


@pytest.mark.parametrize(("double", "words", "kind", "check"), BROKEN, ids=[row[0].__name__ for row in BROKEN])
def test_a_broken_trampoline_is_seen(
    compiler: Compiler, double: type[Double], words: int, kind: Kind, check: str
) -> None:
    if double.arch == compiler.arch:
        call = scenario(proto_of(["u64"] * words), [Step(kind)])
        assert broken(compiler, [call], double)[0][0] == check


def test_what_cannot_be_compiled_does_not_take_others_with_it(compiler: Compiler) -> None:
    """No compiler takes a typedef of `struct {...}` with a member of a type that is not there."""
    calls = {
        seed: scenario(f"u64 f({text} a)", [Step(Kind.FENTRY)])
        for seed, text in enumerate(["u64", "struct gone", "int"])
    }
    assert list(CompiledTracer(compiler).pairs(calls)) == [0, 2]


def test_as_c() -> None:
    call = scenario("bool f(u8 a, struct {bool b; u64 c;} *d)", [Step(Kind.FENTRY)])
    made = generated(7, call)
    assert (made.result, made.params) == ("t2_7", ("t0_7", "t1_7"))
    assert made.declarations == "typedef u8 t0_7;\ntypedef struct {bool b; u64 c;} * t1_7;\ntypedef bool t2_7;\n"
    assert (call.result, with_c_values(call).result) == (b"\x88", b"\0")
