"""The interpreter against values worked out by hand."""

import pytest

from backends.base import CTX_BASE, Ran, StackRef
from backends.tests.hand import job_of

VALUES = [
    ("r0 = -1\nexit", 2**64 - 1),
    ("w0 = -1\nexit", 0xFFFFFFFF),
    ("r0 = 0xfedcba9876543210 ll\nw0 += 1\nexit", 0x76543211),
    ("r0 = 7\nr1 = 0\nr0 /= r1\nexit", 0),
    ("r0 = 7\nr1 = 0\nr0 %= r1\nexit", 7),
    ("r0 = 0x100000007 ll\nr1 = 0\nw0 %= w1\nexit", 7),
    ("r0 = 1\nr1 = 65\nr0 <<= r1\nexit", 2),
    ("r0 = 1\nr1 = 33\nw0 <<= w1\nexit", 2),
    ("r0 = -16\nr0 s>>= 2\nexit", 2**64 - 4),
    ("w0 = -16\nw0 s>>= 2\nexit", 0xFFFFFFFC),
    ("r0 = 5\nr0 = -r0\nexit", 2**64 - 5),
    ("r0 = 0\nr1 = -1\nif r1 s> 0 goto out\nr0 = 1\nout: exit", 1),
    ("r0 = 0\nr1 = -1\nif r1 > 0 goto out\nr0 = 1\nout: exit", 0),
    ("r0 = 1\nr1 = 0x100000000 ll\nif w1 == 0 goto out\nr0 = 2\nout: exit", 1),
    ("*(u64 *)(r10 - 8) = -2\nr0 = *(u16 *)(r10 - 8)\nexit", 0xFFFE),
    ("call bpf_ktime_get_ns\nexit", 0x1122334455667788),
]


@pytest.mark.parametrize(("text", "retval"), VALUES)
def test_value(text: str, retval: int) -> None:
    reference = job_of({"main": text}).reference
    assert reference is not None
    assert (reference.retval, reference.violations) == (retval, ())


def ran(texts: dict[str, str], kfuncs: dict[str, int | str] | None = None, ctx: bytes = b"") -> Ran:
    reference = job_of(texts, kfuncs, ctx).reference
    assert reference is not None
    return reference


def test_context() -> None:
    outcome = ran({"main": "*(u16 *)(r1 + 2) = 0x1234\nr0 = *(u32 *)(r1 + 0)\nexit"}, ctx=b"\x01\x02\x03\x04")
    assert (outcome.retval, outcome.memory.hex()) == (0x12340201, "01023412")


def test_call_trace_and_pointers() -> None:
    main = """
        r1 = r10
        r1 += -16
        r2 = r1
        *(u64 *)(r10 - 16) = 40
        *(u64 *)(r11 - 8) = 0x1ff
        call f
        exit
    """
    six = "u64 f(void *a, u64 b, u64 c, u64 d, u64 e, u8 g)"
    callee = "r0 = *(u64 *)(r1 + 0)\nr2 = *(u64 *)(r11 + 8)\nr0 += r2\nexit"
    outcome = ran({"main": "r3 = 3\nr4 = 4\nr5 = 5\n" + main, six: callee})
    assert outcome.retval == 40 + 0x1FF
    assert outcome.calls[0].args == (StackRef(0, -16), StackRef(0, -16), 3, 4, 5, 0x1FF)
    assert str(StackRef(0, -16)) == "r10-16 of main"


def test_context_pointer_is_the_shared_address() -> None:
    outcome = ran({"main": "call kf\nexit"}, {"u64 kf(void *p)": "p"})
    assert (outcome.retval, outcome.calls[0].args) == (CTX_BASE, (CTX_BASE,))


def test_kfunc_results() -> None:
    main = "r1 = 0x1ff\nr2 = -2\ncall kf\nexit"
    assert ran({"main": main}, {"u64 kf(u8 a, s32 b)": "sum"}).retval == 0xFF - 2
    assert ran({"main": main}, {"u64 kf(u8 a, s32 b)": "b"}).retval == 2**64 - 2
    assert ran({"main": main}, {"u64 kf(u8 a, s32 b)": -5}).retval == 2**64 - 5


FAULTS = [
    ("r0 = r3\nexit", "MEM", "R3 is read and holds nothing"),
    ("call bpf_ktime_get_ns\nr0 = r1\nexit", "MEM", "R1 is read and holds nothing"),
    ("r1 = 5\nr0 = *(u64 *)(r1 + 0)\nexit", "MEM", "8 bytes at 0x5 are neither context nor a live frame"),
    ("r0 = *(u64 *)(r10 - 4)\nexit", "MEM", "neither context nor a live frame"),
    ("r0 = *(u64 *)(r10 - 520)\nexit", "MEM", "neither context nor a live frame"),
    ("*(u64 *)(r11 - 64) = 1\nexit", "MEM", "there is no stack argument at r11-64"),
    ("l: goto l\nexit", "END", "still running after 1000000 insns"),
    ("r0 = 0", "MEM", "ran out of the program"),
]


@pytest.mark.parametrize(("text", "check", "message"), FAULTS)
def test_fault(text: str, check: str, message: str) -> None:
    (violation,) = ran({"main": text}).violations
    assert (violation.check, message in violation.message) == (check, True)


def test_slots_do_not_survive_a_call() -> None:
    six = "u64 f(u64 a, u64 b, u64 c, u64 d, u64 e, u64 g)"
    main = "r1 = 1\nr2 = 2\nr3 = 3\nr4 = 4\nr5 = 5\n*(u64 *)(r11 - 8) = 6\ncall f\n" * 1
    again = main + main.replace("*(u64 *)(r11 - 8) = 6\n", "") + "exit"
    outcome = ran({"main": again, six: "r0 = 0\nexit"}, {"u64 kf(u64 a, u64 b, u64 c, u64 d, u64 e, u64 g)": 0})
    assert outcome.calls[1].args == (1, 2, 3, 4, 5, None)
    outcome = ran({"main": again.replace("call f", "call kf")}, {"u64 kf(u64 a, u64 b, u64 c, u64 d, u64 e, u64 g)": 0})
    assert outcome.violations[0].message == "argument 6 `g` of kf was never set"
