"""Tail calls as native code: sequences typed by hand from the kernel's layout, and what updates of prog arrays leave behind."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.arm64 import tailcall as arm64
from backends.arm64.jit import Arm64Jit
from backends.arm64.jit import Options as Arm64Options
from backends.base import Job, Loaded, Ran, Unsupported, Update
from backends.decode import decode_code, disassemble, is_landing_pad
from backends.image import Addresses, Image, Tail
from backends.interp import Interpreter
from backends.linux.backend import Accepted as LinuxAccepted
from backends.linux.backend import LinuxBackend
from backends.linux.differs import Differences
from backends.maps import MapStore, address_of, resolved
from backends.native import NativeBackend, native_code
from backends.progs import BPF_FUNC_AT, MAX_ENTRIES_AT, PTRS_AT, NativeProgs, object_of
from backends.x86_64.encode import Gpr
from backends.x86_64.jit import Options, X8664Jit
from backends.x86_64.tailcall import TailCalls
from harness import cli
from harness.isa.asm import Source, assemble
from harness.isa.insn import joined
from harness.isa.maps import Map
from harness.isa.verified import Verified
from verifier.verdict import Accepted
from verifier.verify import Verifier

ENTRY = "r6 = r1\nr2 = jmp ll\nr3 = *(u32 *)(r6 + 0)\ncall bpf_tail_call\nr0 = 7\nexit"
DIRECT = "r2 = jmp ll\nr3 = 1\ncall bpf_tail_call\nr0 = 7\nexit"
LEAF = "r0 = 42\nexit"


# --- x86-64: TC-76 and TC-82, byte by byte


def hexed(code: bytes) -> str:
    return code.hex()


def test_x86_64_indirect_as_linux() -> None:
    code = TailCalls(Tail.BASE, 16).indirect([Gpr.RBX], 0, 3, cached=False)
    assert hexed(code) == (
        "89d2" "39564c" "762c" "488b85f0ffffff" "48833821" "731f" "488b8cd630010000" "4885c9" "7412" "48830001"
        "5b" "58" "58" "488b4948" "4883c110" "ffe1" "cc"
    )  # fmt: skip


def test_x86_64_indirect_of_the_series() -> None:
    """44 bytes against 49, without the INT3 behind the jump; the operands of the compare the other way round."""
    dynamic = TailCalls(Tail.DYNAMIC, 12).indirect([], 0, 3, cached=False)
    assert hexed(dynamic) == (
        "89d2" "3b564c" "732b" "488b85f0ffffff" "48833821" "731e" "488b8cd630010000" "4885c9" "7411" "48830001"
        "58" "58" "488b4948" "4883c10c" "ffe1" "cc"
    )  # fmt: skip
    static = TailCalls(Tail.STATIC, 12).indirect([], 0, 3, cached=True)
    assert hexed(static) == (
        "89d2" "81fa03000000" "7323" "488b85f0ffffff" "48833821" "7316" "488b8cd648010000" "4885c9" "7409" "48830001"
        "58" "58" "ffe1" "cc"
    )  # fmt: skip
    assert (len(static) - 1, len(dynamic) - 1) == (44, 49)


def test_x86_64_direct() -> None:
    found = TailCalls(Tail.BASE, 16).direct([Gpr.RBX, Gpr.R13], 8, 0, 1)
    assert hexed(found.code) == (
        "488b85e8ffffff" "48833821" "731a" "e915000000" "48830001" "415d" "5b" "58" "58" "4881c408000000"
        "0f1f440000"
    )  # fmt: skip
    assert (found.bypass, found.target) == (13, len(found.code) - 5)


def test_x86_64_counter() -> None:
    calls = TailCalls(Tail.BASE, 16)
    assert hexed(calls.counter(is_main=True)) == "4883f8217706504889e0eb015050"
    assert hexed(calls.counter(is_main=False)) == "5050"


# --- arm64: TC-93 and TC-94

ARM64_BASE = """\
mov w10, #0x4c
ldr w10, [x1, x10]
mov w2, w2
cmp w2, w10
b.hs #0x50
mov w10, #0x21
ldr x12, [x26]
cmp x12, x10
b.hs #0x50
add x12, x12, #1
mov w10, #0x130
add x10, x1, x10
lsl x11, x2, #3
ldr x11, [x10, x11]
cbz x11, #0x50
str x12, [x26]
mov w10, #0x48
ldr x10, [x11, x10]
add x10, x10, #0x1c
br x10"""
ARM64_STATIC = """\
mov w10, #3
mov w2, w2
cmp w2, w10
b.hs #0x40
mov w10, #0x21
ldr x12, [x26]
cmp x12, x10
b.hs #0x40
add x12, x12, #1
mov w10, #0x148
lsl x11, x2, #3
add x11, x11, x10
ldr x11, [x1, x11]
cbz x11, #0x40
str x12, [x26]
br x11"""


@pytest.mark.parametrize(("cached", "text"), [(False, ARM64_BASE), (True, ARM64_STATIC)])
def test_arm64_sequences(cached: bool, text: str) -> None:
    words = arm64.TailCalls(0x1C).words([], 3, cached=cached)
    code = b"".join(word.to_bytes(4, "little") for word in words)
    assert "\n".join(f"{mnemonic} {operands}" for _, _, mnemonic, operands in disassemble("arm64", code, 0)) == text


# --- whole programs


def graph(*texts: str, entries: int = 3, content: dict[int, int] | None = None) -> tuple[Verified, Job]:
    """Programs that share one prog array, verified."""
    slots = tuple((key.to_bytes(4, "little"), prog.to_bytes(4, "little")) for key, prog in (content or {}).items())
    maps = [Map("jmp", "prog_array", 4, 4, entries, content=slots)]
    prog = joined([assemble([Source(f"p{n}", text)], (), maps).prog for n, text in enumerate(texts)])
    verdict = Verifier().verify(prog)
    assert isinstance(verdict, Accepted), verdict
    job = Job(prog, verdict.verified, bytes(8), ())
    reference = Interpreter().run(job)
    assert isinstance(reference, Ran)
    return verdict.verified, Job(prog, verdict.verified, bytes(8), (), reference=reference)


@pytest.mark.parametrize("ibt", [True, False])
def test_landing_points_of_x86_64(ibt: bool) -> None:
    """TC-70, TC-71: 12 bytes from the entry, 16 with ENDBR64, whatever the program; there is another one at it."""
    verified, _ = graph(ENTRY, LEAF, DIRECT)
    image = X8664Jit(Options(ibt=ibt)).compile(resolved(verified), Addresses(0x4000_0000, {}))
    assert image.landing == (16 if ibt else 12)
    for symbol in image.symbols:
        start = symbol.offset
        assert image.code[start + image.landing - 4 : start + image.landing] == bytes.fromhex("554889e5")
        assert (image.code[start + image.landing :][:4] == bytes.fromhex("f30f1efa")) is ibt


@pytest.mark.parametrize("bti", [True, False])
@pytest.mark.parametrize("pac", [True, False])
@pytest.mark.parametrize("tail", Tail)
def test_every_kind_of_arm64_lands(bti: bool, pac: bool, tail: Tail) -> None:
    """TC-90: 6 to 8 insns from the entry; BS-38."""
    verified, job = graph(ENTRY, LEAF, content={0: 1})
    image = Arm64Jit(Arm64Options(bti=bti, pac=pac, tail=tail)).compile(resolved(verified), Addresses(0x4000_0000, {}))
    assert image.landing == 4 * (6 + bti + pac)
    assert image.code[image.landing - 4 : image.landing] == bytes.fromhex("fa030091")  # mov x26, sp
    outcome = NativeBackend("x", Arm64Jit(Arm64Options(bti=bti, pac=pac, tail=tail))).run(job)
    assert isinstance(outcome, Ran)
    assert (outcome.retval, outcome.violations) == (42, ())


@pytest.mark.parametrize("ibt", [True, False])
@pytest.mark.parametrize("tail", Tail)
def test_every_kind_of_x86_64_lands(ibt: bool, tail: Tail) -> None:
    _, job = graph(ENTRY, LEAF, content={0: 1})
    outcome = NativeBackend("x", X8664Jit(Options(ibt=ibt, tail=tail))).run(job)
    assert isinstance(outcome, Ran)
    assert (outcome.retval, outcome.violations) == (42, ())


def test_what_a_br_may_land_on() -> None:
    for text, by_call, by_jump in (("c", True, False), ("j", False, True), ("jc", True, True)):
        word = {"c": 0xD503_245F, "j": 0xD503_249F, "jc": 0xD503_24DF}[text]
        native = decode_code("arm64", word.to_bytes(4, "little"), 0)[0]
        assert is_landing_pad("arm64", native) is by_call
        assert is_landing_pad("arm64", native, by_jump=True) is by_jump


# --- updates


class Memory:
    """What an update writes."""

    def __init__(self) -> None:
        self.data: dict[int, int] = {}

    def write(self, address: int, data: bytes) -> None:
        self.data |= {address + at: byte for at, byte in enumerate(data)}

    patch = write

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.data[address + at] for at in range(size))

    def word(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")


CHANGES = st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 2))), max_size=12)
NOP5 = bytes.fromhex("0f1f440000")


def image_of(tail: Tail) -> Image:
    verified, _ = graph(DIRECT, LEAF, "r0 = 43\nexit")
    return X8664Jit(Options(tail=tail)).compile(resolved(verified), Addresses(0x4000_0000, {}))


IMAGES = {tail: image_of(tail) for tail in Tail}


@settings(deadline=None)
@given(CHANGES, st.sampled_from(list(Tail)))
def test_after_any_updates(changes: list[tuple[int, int | None]], tail: Tail) -> None:
    """TC-112: a cached landing point is that of the slot's program. TC-113: a bypass is open where its slot has one."""
    image, memory = IMAGES[tail], Memory()
    store = MapStore(image.source.prog.maps, memory, NativeProgs(image.source.prog.maps, image, memory))
    store.begin([Update(0, key, prog) for key, prog in changes])
    slots: dict[int, int] = {}
    wanted: list[int] = []
    for key, prog in changes:
        wanted.append(7 if key >= 3 else 2 if prog is None and key not in slots else 0)
        if key < 3 and prog is not None:
            slots[key] = prog
        elif key < 3:
            slots.pop(key, None)
    assert store.errnos == wanted
    assert memory.read(address_of(0) + MAX_ENTRIES_AT, 4) == b"\3\0\0\0"
    for key in range(3):
        prog = slots.get(key)
        assert memory.word(address_of(0) + PTRS_AT + 8 * key) == (0 if prog is None else object_of(prog))
        if tail is not Tail.BASE:
            entry = 0 if prog is None else memory.word(object_of(prog) + BPF_FUNC_AT) + 16
            assert memory.word(address_of(0) + PTRS_AT + 8 * (3 + key)) == entry
    (poke,) = image.pokes
    bypass, target = (memory.read(image.base + at, 5) for at in (poke.bypass, poke.target))
    assert (bypass == NOP5) is (1 in slots)
    if 1 in slots:
        to = image.base + poke.target + 5 + int.from_bytes(target[1:], "little", signed=True)
        assert (target[0], to) == (0xE9, memory.word(object_of(slots[1]) + BPF_FUNC_AT) + 16)
    else:
        assert target == NOP5


@given(CHANGES)
@settings(deadline=None)
def test_never_open_without_a_target(changes: list[tuple[int, int | None]]) -> None:
    """TC-47, TC-113: after no single write is the bypass open while the target is no jump."""
    image = IMAGES[Tail.BASE]
    (poke,) = image.pokes

    class Watched(Memory):
        def patch(self, address: int, code: bytes) -> None:
            self.write(address, code)
            if image.base + poke.target in self.data and image.base + poke.bypass in self.data:
                sites = [self.read(image.base + at, 5) for at in (poke.bypass, poke.target)]
                assert sites != [NOP5, NOP5]

    memory = Watched()
    progs = NativeProgs(image.source.prog.maps, image, memory)
    MapStore(image.source.prog.maps, memory, progs).begin([Update(0, key, prog) for key, prog in changes])


def test_part_of_an_update() -> None:
    """The first writes of the last update only."""
    image, memory = IMAGES[Tail.STATIC], Memory()
    progs = NativeProgs(image.source.prog.maps, image, memory)
    assert [write.what for write in progs.writes(0, 1, None, 1)] == ["slot", "cache", "target", "bypass"]
    assert [write.what for write in progs.writes(0, 1, 1, 2)] == ["slot", "cache", "target"]
    assert [write.what for write in progs.writes(0, 1, 1, None)] == ["slot", "cache", "bypass", "target"]
    assert [write.what for write in progs.writes(0, 0, None, 1)] == ["slot", "cache"]
    MapStore(image.source.prog.maps, memory, progs).begin([Update(0, 1, 1)], writes=1)
    assert memory.word(progs.slot(0, 1)) == object_of(1)
    assert memory.word(progs.cache(0, 1)) == 0


def test_show_tells_what_every_step_came_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(STEPS, encoding="utf-8")
    assert cli.main(["show", str(path), "--backend", "jit-x86_64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "step 1 (run entry): retval = 1; ran nothing else",
        "step 3 (run entry): retval = 2; ran leaf",
        "passed",
    ]


STEPS = """\
- case: x
  about: It is.
  spec: y
  progs:
    entry: {main: "r2 = jmp ll\\nr3 = 0\\ncall bpf_tail_call\\nr0 = 1\\nexit"}
    leaf: {main: "r0 = 2\\nexit"}
  maps: {jmp: {type: prog_array, entries: 1}}
  expect: {verdict: accept}
  steps: [{run: entry}, {update: jmp, slot: 0, prog: leaf}, {run: entry}]
"""


class Inlines:
    """A kernel that made insns of its own of the calls at some insns."""

    release = "7.2"

    def __init__(self, image: Image) -> None:
        self.image = image

    def announce(self, bodies: object) -> None:
        pass

    def close(self) -> None:
        pass

    def reply(self, job: Job) -> LinuxAccepted:
        return LinuxAccepted(Loaded("", 1, (0,), b"", 0, None, b""), self.image)


@pytest.mark.parametrize("number", [0, 1])
def test_an_update_in_a_call_that_is_not_made(number: int) -> None:
    """The kernel has insns in place of the first call: what comes while it runs is not seen, and the second is still the second."""
    text = "r6 = r1\ncall bpf_get_smp_processor_id\ncall bpf_ktime_get_ns\nr1 = r6\nr2 = jmp ll\nr3 = 0\ncall bpf_tail_call\nr0 = 7\nexit"
    verified, job = graph(text, LEAF)
    job = replace(job, during=((number, Update(0, 0, 1)),), reference=None)
    reference = Interpreter().run(job)
    assert isinstance(reference, Ran)
    assert reference.retval == 42
    image = native_code(X8664Jit(), verified, job)
    start, end = image.insn_offsets[1:3]
    nops = bytes.fromhex("0f1f440000").ljust(end - start, b"\x90")
    image = replace(image, code=image.code[:start] + nops + image.code[end:], inlined=frozenset({1}))
    outcome = LinuxBackend("x", "x86_64", Inlines(image), Differences()).run(replace(job, reference=reference))
    if number == 0:
        assert isinstance(outcome, Unsupported)
        assert "nobody sees it" in outcome.reason
    else:
        assert isinstance(outcome, Ran)
        assert (outcome.retval, outcome.violations) == (42, ())
