"""Drawn programs on maps: a dictionary as the model, the interpreter, and both JITs."""

from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from backends.arm64.jit import Arm64Jit
from backends.base import Job, Ran
from backends.interp import Interpreter
from backends.native import NativeBackend
from backends.x86_64.jit import X8664Jit
from harness.isa.asm import Source, assemble
from harness.isa.maps import Map
from verifier.verdict import Accepted
from verifier.verify import Verifier

ENTRIES: Final = 3
ENGINES: Final = (NativeBackend("jit-x86_64", X8664Jit()), NativeBackend("jit-arm64", Arm64Jit()))
KEYS = st.integers(0, 4)
UPDATE = st.tuples(st.just("update"), KEYS, st.integers(-(1 << 31), (1 << 31) - 1), st.sampled_from([0, 0, 0, 1, 2, 3]))
OTHER = st.tuples(st.sampled_from(["delete", "read", "add"]), KEYS, st.integers(-100, 100), st.just(0))
OPS = st.lists(UPDATE | OTHER, min_size=1, max_size=8) | st.lists(UPDATE | UPDATE | OTHER, min_size=12, max_size=24)
Op = tuple[str, int, int, int]
_CALL: Final = "r1 = m ll\nr2 = r10\nr2 += -8\nr3 = r10\nr3 += -16\nr4 = {flags}\ncall bpf_map_{what}_elem"


def text_of(ops: list[Op]) -> str:
    """R7 gathers what every operation gives, times 3 before each."""
    lines = ["r7 = 0"]
    for number, (what, key, value, flags) in enumerate(ops):
        lines += ["r7 *= 3", f"r1 = {key}", "*(u32 *)(r10 - 8) = r1", f"*(u64 *)(r10 - 16) = {value}"]
        if what in ("update", "delete"):
            lines += [_CALL.format(what=what, flags=flags), "r7 += r0"]
            continue
        lines += [_CALL.format(what="lookup", flags=0), f"if r0 == 0 goto gone{number}"]
        lines += (
            [f"r1 = {value}", "lock *(u64 *)(r0 + 0) += r1"] if what == "add" else ["r1 = *(u64 *)(r0 + 0)", "r7 += r1"]
        )
        lines += [f"goto next{number}", f"gone{number}: r7 += 77", f"next{number}: r1 = 0"]
    return "\n".join([*lines, "r0 = r7", "exit"])


def model(ops: list[Op], *, is_array: bool) -> tuple[int, dict[int, int]]:
    """What Linux Documentation/bpf/map_array.rst and map_hash.rst say of it."""
    held = dict.fromkeys(range(ENTRIES), 0) if is_array else {}
    total = 0
    for what, key, value, flags in ops:
        total *= 3
        if what == "update":
            if flags > 2:
                total -= 22
            elif is_array:
                error = 7 if key >= ENTRIES else 17 if flags == 1 else 0
                total -= error
                held |= {} if error else {key: value}
            else:
                full = key not in held and len(held) >= ENTRIES
                error = 17 if flags == 1 and key in held else 2 if flags == 2 and key not in held else 7 if full else 0
                total -= error
                held |= {} if error else {key: value}
        elif what == "delete":
            total -= 22 if is_array else 0 if key in held else 2
            if not is_array:
                held.pop(key, None)
        elif key not in held:
            total += 77
        elif what == "add":
            held[key] += value
        else:
            total += held[key]
    return total, held


@settings(deadline=None, derandomize=True, max_examples=200)
@given(OPS, st.booleans())
def test_programs_on_a_map(ops: list[Op], is_array: bool) -> None:
    shape = Map("m", "array" if is_array else "hash", 4, 8, ENTRIES)
    prog = assemble([Source("main", text_of(ops))], (), [shape]).prog
    verdict = Verifier().verify(prog)
    assert isinstance(verdict, Accepted), verdict
    total, held = model(ops, is_array=is_array)
    entries = sorted(
        (key.to_bytes(4, "little"), (value & (1 << 64) - 1).to_bytes(8, "little")) for key, value in held.items()
    )
    reference = Interpreter().run(Job(prog, verdict.verified, b"", ()))
    assert isinstance(reference, Ran)
    found = [reference, *(engine.run(Job(prog, verdict.verified, b"", (), reference=reference)) for engine in ENGINES)]
    for outcome in found:
        assert isinstance(outcome, Ran)
        assert outcome.violations == ()
        assert (outcome.retval, outcome.maps) == (total & (1 << 64) - 1, (tuple(entries),))
