"""Maps: what the helpers do to them, and what an engine or native code may not do."""

from dataclasses import replace

import pytest

from backends import emulator as emu
from backends.base import Job, Ran
from backends.image import Image, Symbol
from backends.interp import Interpreter
from backends.maps import MAPS_BASE, VALUES, MapStore, constant, resolved, values_of
from backends.native import Bench
from harness.isa.asm import Source, assemble
from harness.isa.insn import LdImm64, Prog
from harness.isa.maps import Map, MapError, check
from harness.isa.verified import Verified
from verifier.verdict import Accepted
from verifier.verify import Verifier

ARRAY = Map("a", "array", 4, 5, 3, content=((b"\1\0\0\0", b"abcde"),))
HASH = Map("h", "hash", 2, 8, 2, content=((b"kk", b"12345678"),))


class Bytes:
    """Memory that is one long piece."""

    def __init__(self) -> None:
        self.data = bytearray(b"\xee" * (3 << 20))

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.data[address - MAPS_BASE :][:size])

    def write(self, address: int, data: bytes) -> None:
        at = address - MAPS_BASE
        self.data[at : at + len(data)] = data


def store() -> MapStore:
    made = MapStore([ARRAY, HASH], Bytes())
    made.begin()
    return made


def test_before_the_run() -> None:
    assert store().contents() == (
        ((b"\0\0\0\0", b"\0" * 5), (b"\1\0\0\0", b"abcde"), (b"\2\0\0\0", b"\0" * 5)),
        ((b"kk", b"12345678"),),
    )


def test_where_values_are() -> None:
    """Elements of an array are 8 bytes apart at 5 bytes each; a value lies 256 bytes behind its map's address."""
    maps = store()
    assert maps.lookup(0, b"\2\0\0\0") == 0x6D61_0000_0000 + 0x100 + 16
    assert maps.lookup(0, b"\3\0\0\0") == 0
    assert maps.lookup(1, b"kk") == 0x6D61_0010_0000 + 0x100
    assert maps.lookup(1, b"kl") == 0


def test_what_an_access_reaches() -> None:
    maps = store()
    at = values_of(0)
    found = [
        maps.value_at(at + off, size)
        for off, size in ((0, 5), (0, 6), (4, 1), (5, 1), (8, 5), (16, 5), (24, 1), (-1, 1))
    ]
    assert found == [0, None, 0, None, 0, 0, None, None]
    assert maps.value_at(values_of(2), 1) is None
    assert maps.find(MAPS_BASE) == 0
    assert maps.find(MAPS_BASE + 1) is None
    assert maps.find(MAPS_BASE + (2 << 20)) is None


def test_an_update_of_a_hash_makes_a_new_entry() -> None:
    """A pointer from before the update is to the old value. Linux kernel/bpf/hashtab.c, htab_map_update_elem()."""
    maps = store()
    before = maps.lookup(1, b"kk")
    assert maps.update(1, b"kk", b"abcdefgh", 0) == 0
    assert maps.lookup(1, b"kk") != before
    assert maps.memory.read(before, 8) == b"12345678"
    assert maps.contents()[1] == ((b"kk", b"abcdefgh"),)


def test_helpers_are_given_addresses() -> None:
    maps = store()
    maps.memory.write(values_of(0) + 64, b"kk")
    assert maps.call("bpf_map_lookup_elem", [MAPS_BASE + (1 << 20), values_of(0) + 64]) == values_of(1)
    assert maps.call("bpf_map_delete_elem", [MAPS_BASE + (1 << 20), values_of(0) + 64]) == 0
    assert maps.call("bpf_map_delete_elem", [MAPS_BASE + (1 << 20), values_of(0) + 64]) == 0xFFFF_FFFF_FFFF_FFFE
    assert maps.call("bpf_map_lookup_elem", [5, values_of(0)]) is None
    assert maps.call("bpf_ktime_get_ns", []) is None


WRONG = {
    "type: expected one of hash, array, prog_array, found 'queue'": replace(ARRAY, type="queue"),
    "key: expected 4 bytes, as an array has, found 8": replace(ARRAY, key_size=8),
    "key: expected 1 to 512 bytes, found 513": replace(HASH, key_size=513),
    "value and entries: expected 1 or more": replace(HASH, value_size=0),
    "expected at most 1044480 bytes of values, found 1048576": replace(ARRAY, value_size=1 << 20, max_entries=1),
    "content: expected 4 bytes of key and 5 of value, found 4 and 1": replace(ARRAY, content=((b"\0" * 4, b"x"),)),
    "content: there is no entry 3; there are 3": replace(ARRAY, content=((b"\3\0\0\0", b"abcde"),)),
    "content: a key is there twice": replace(HASH, content=HASH.content * 2),
    "content: expected at most 1 entries, found 2": replace(
        HASH, max_entries=1, content=((b"kk", b"12345678"), (b"kl", b"12345678"))
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_maps_that_are_none(message: str) -> None:
    with pytest.raises(MapError) as caught:
        check(WRONG[message])
    assert str(caught.value) == message


def prog(text: str, *maps: Map) -> Prog:
    return assemble([Source("main", text)], (), maps).prog


def test_constants() -> None:
    made = prog(
        "r1 = h ll\nr2 = map_val(a) + 3 ll\nr3 = 7 ll\nr4 = map_by_fd(3) ll\nr5 = map_by_idx(2) ll\nexit", ARRAY, HASH
    )
    found = [constant(made, typed) for typed in made.ops if isinstance(typed, LdImm64)]
    assert found == [0x6D61_0010_0000, 0x6D61_0000_0103, 7, None, None]


def test_what_a_compiler_sees_of_a_map() -> None:
    made = prog("r1 = map_val(a) + 3 ll\nexit", ARRAY)
    text = b"".join(insn.to_bytes() for insn in resolved(Verified(made, (), (0, 1, 2))).prog.insns).hex(" ", 8)
    assert text == "1801000003010000 00000000616d0000 9500000000000000"


FAULTS = {
    "r1 = map_val(a) ll\n*(u8 *)(r1 + 5) = 0": "neither context nor a live frame nor a map's value",
    "r1 = map_val(r) ll\n*(u8 *)(r1 + 0) = 0": "1 bytes are written to r, which programs may only read",
    "r1 = 5\nr2 = r10\nr2 += -8\ncall 1": "bpf_map_lookup_elem: 0x5 is no map",
    "r1 = a ll\nr2 = 5\ncall 1": "4 bytes at 0x5 are neither",
    "r1 = a ll\ncall 1": "argument 2 `key` of bpf_map_lookup_elem was never set",
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults_of_the_interpreter(text: str) -> None:
    """Programs that a verifier should have refused."""
    maps = (replace(ARRAY, max_entries=1, content=()), replace(ARRAY, name="r", max_entries=1, rdonly=True, content=()))
    outcome = Interpreter().run(Job(prog(f"{text}\nr0 = 0\nexit", *maps), None, b"", ()))
    assert isinstance(outcome, Ran)
    assert [FAULTS[text] in violation.message for violation in outcome.violations] == [True]


# Native code by hand, in the place of `r1 = *(u8 *)(map_val(a))`: what is loaded, and from where.
def judged(code: str, text: str, *maps: Map) -> list[str]:
    """What the probe says of x86-64 code that stands for a program."""
    made = prog(text, *maps)
    verdict = Verifier().verify(made)
    assert isinstance(verdict, Accepted), verdict
    raw = bytes.fromhex(code)
    image = Image(
        "x86_64", emu.CODE_BASE, raw, (Symbol("main", 0, len(raw), 0),), (0,) * len(made.insns), False, verdict.verified
    )
    job = Job(made, verdict.verified, b"", ())
    reference = Interpreter().run(job)
    assert isinstance(reference, Ran)
    outcome = Bench().judge(replace(job, reference=reference), image)
    assert isinstance(outcome, Ran)
    return [f"{violation.check}: {violation.message}" for violation in outcome.violations]


ONE = replace(ARRAY, max_entries=1, content=())
READ = "r1 = map_val(a) ll\nr0 = *(u8 *)(r1 + 0)\nexit"


def at(offset: int) -> str:
    """movabs rdi, the first value plus `offset`."""
    return "48bf" + (MAPS_BASE + VALUES + offset).to_bytes(8, "little").hex()


def test_native_code_that_reads_the_value() -> None:
    assert judged(at(0) + "0fb607 c3", READ, ONE) == []


def test_native_code_that_reads_behind_it() -> None:
    """The padding of the element, and the next page."""
    assert judged(at(5) + "0fb607 c3", READ, ONE) == [
        "MEM: a read of 1 bytes at 0x6d6100000105, outside every value of a map"
    ]
    assert judged(at(0x2000) + "0fb607 c3", READ, ONE)[0].startswith("MEM: a read of 1 bytes at 0x6d6100002100")


def test_native_code_that_writes_what_it_may_only_read() -> None:
    assert judged(at(0) + "c60700 31c0 c3", READ, replace(ONE, rdonly=True)) == [
        "MEM: a write of 1 bytes to a, which programs may only read"
    ]


LOOKUP = "*(u32 *)(r10 - 8) = 0\nr1 = a ll\nr2 = r10\nr2 += -8\ncall 1\nr0 = 0\nexit"


def call(after: int) -> str:
    """call bpf_map_lookup_elem, whose landing pad is the first of helpers, from `after` bytes into the code."""
    return "e8" + (emu.PADS_BASE + 16 - (emu.CODE_BASE + after)).to_bytes(4, "little").hex()


def test_native_code_that_passes_another_key() -> None:
    """push 0; lea rsi, [rsp+8]; movabs rdi, map; call; pop rsi; xor eax, eax; ret."""
    map_at = "48bf" + MAPS_BASE.to_bytes(8, "little").hex()
    right = f"6a00 488d3424 {map_at} {call(21)} 5e 31c0 c3"
    assert judged(right, LOOKUP, ONE) == []
    assert judged(right.replace("488d3424", "6a055e90"), LOOKUP, ONE)[:2] == [
        "ABI-ARG: bpf_map_lookup_elem: argument 2 `key` at rsi is 0x5, not r10-8 of main",
        "MEM: bpf_map_lookup_elem reads 4 bytes at 0x5, where nothing is",
    ]
    other = right.replace(map_at, "48bf" + (5).to_bytes(8, "little").hex())
    assert "MEM: bpf_map_lookup_elem: 0x5 is no map" in judged(other, LOOKUP, ONE)
