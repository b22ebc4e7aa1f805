"""Tail calls as the verifier hands them on: which arrays and indices each had on all paths."""

from harness.isa.asm import Source, assemble
from harness.isa.maps import Map
from harness.isa.proto import parse_bpf_proto
from harness.isa.verified import TailSite, Verified
from verifier.verdict import Accepted
from verifier.verify import Verifier

ONE, TWO = Map("one", "prog_array", 4, 4, 4), Map("two", "prog_array", 4, 4, 8)


def verified(text: str) -> Verified:
    verdict = Verifier().verify(assemble([Source("main", text)], (), [ONE, TWO]).prog)
    assert isinstance(verdict, Accepted)
    return verdict.verified


def arms(first: str, second: str) -> str:
    return f"r6 = *(u32 *)(r1 + 0)\nif r6 == 0 goto other\n{first}\ngoto go\nother:\n{second}\ngo:\ncall 12\nr0 = 0\nexit\n"


def sites(text: str) -> list[TailSite]:
    return list(verified(text).tail_calls.values())


def test_one_index() -> None:
    """The same array and the same index on both arms."""
    assert sites("r2 = two ll\nr3 = 7\ncall 12\nr0 = 0\nexit\n") == [TailSite(1, False, 7)]


def test_index_out_of_range() -> None:
    """TC-31: 8 is no index of an array of 8; 2^32 is none either, though its low half is."""
    assert sites("r2 = two ll\nr3 = 8\ncall 12\nr0 = 0\nexit\n") == [TailSite(1, False, None)]
    assert sites("r2 = two ll\nr3 = 0x100000000 ll\ncall 12\nr0 = 0\nexit\n") == [TailSite(1, False, None)]


def test_dead_tail_call() -> None:
    """A tail call on no path becomes a jump to itself, and has no site."""
    text = "r6 = 1\nif r6 == 1 goto go\nr2 = one ll\nr3 = 0\ncall 12\ngo:\nr0 = 0\nexit\n"
    found = verified(text)
    assert found.tail_calls == {}
    assert (found.prog.insns[5].opcode, found.prog.insns[5].off, found.origin[5]) == (0x05, -1, 5)


def test_two_indices() -> None:
    """TC-31: an index that was known twice, and not the same, is not known."""
    assert sites(arms("r3 = 1\nr2 = one ll", "r3 = 2\nr2 = one ll")) == [TailSite(0, False, None)]
    assert sites(arms("r3 = 1\nr2 = one ll", "r3 = 1\nr2 = one ll")) == [TailSite(0, False, 1)]


def test_two_arrays() -> None:
    """TC-30: several is for good; the array is the one seen last."""
    (site,) = sites(arms("r3 = 1\nr2 = one ll", "r3 = 1\nr2 = two ll"))
    assert (site.several, site.key) == (True, 1)


def test_whose_count_is_handed_on() -> None:
    """TC-26: functions that tail call and those above them, not those beside or below; as Linux 7.2.13 compiles them."""
    calls = "r6 = r1\ncall sub\nr1 = 1\ncall beside\nr0 = 0\nexit\n"
    tail = "r6 = r1\ncall below\nr1 = r6\nr2 = one ll\nr3 = 0\ncall 12\nr0 = 0\nexit\n"
    sources = [
        Source("main", calls),
        Source("sub", tail, parse_bpf_proto("int sub(struct c *ctx __arg_ctx)")),
        Source("below", "r0 = 1\nexit\n", parse_bpf_proto("u64 below(void)")),
        Source("beside", "call below\nexit\n", parse_bpf_proto("u64 beside(u64 a)")),
    ]
    verdict = Verifier().verify(assemble(sources, (), [ONE, TWO]).prog)
    assert isinstance(verdict, Accepted)
    assert [func.tail_reachable for func in verdict.verified.funcs] == [True, True, False, False]
