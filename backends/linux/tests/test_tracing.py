"""A kernel's own trampolines: those on record beside ours, moved to the bench, and every way in which they cannot be."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from backends.base import Died, Unsupported
from backends.linux import golden
from backends.linux.ask import AttachTo, refused
from backends.linux.attach import Made, NoTrampolines, Request, parts
from backends.linux.backend import Live
from backends.linux.golden import Golden, GoldenError, from_made, key_of, to_made, trampolines_of
from backends.linux.modules import NoKfuncs, UnavailableError
from backends.linux.natives import ENTRY_BYTES, MoveError, Native, moved, whole_image
from backends.linux.syscalls import KernelGoneError
from backends.linux.tests.test_backend import Kernel
from backends.linux.tracing import LinuxTracer, Theirs, difference, request_of
from backends.tracing import MAKERS, PLANS
from backends.trampoline import HOOKS, TRACING, Attached, Kind, Mode, Places, Program, RefusedError, Target
from backends.trampoline_bench import Scenario, Step, places
from backends.trampoline_grid import scenario
from harness.isa.proto import Proto, parse_proto

ARCHES = ("arm64", "x86_64")
ROWS = [
    (arch, name)
    for arch in ARCHES
    for name in json.loads(trampolines_of(golden.path_of(arch)).read_text(encoding="utf-8"))["trampolines"]
]


def call_of(name: str) -> Scenario:
    """The call that a trampoline is on record for."""
    kind = r"[fs][a-z_]+(?: 0x[0-9a-f]+)?"
    form = rf"(.*); ((?:{kind}, )*{kind})(; bpf_get_func_ip)?(; bpf_tail_call)?"
    head, kinds, ip, tail = re.fullmatch(form, name).groups()  # type: ignore[union-attr]
    target, proto = re.fullmatch(r"(?:(\w+): )?(.*)", head).groups()  # type: ignore[union-attr]
    steps = [
        Step(Kind(kind), cookie=int(cookie or "0", 16))
        for kind, _, cookie in (s.partition(" ") for s in kinds.split(", "))
    ]
    call = scenario(parse_proto(proto), steps, func_ip=bool(ip), target=Target(target or "kernel"))
    return replace(call, tail_call=bool(tail))


@pytest.mark.parametrize(("arch", "name"), ROWS)
def test_ours_are_byte_for_byte_what_linux_made(arch: str, name: str) -> None:
    """Every call target, constant and NOP; the record is of 7.2.13."""
    call, source = call_of(name), Golden(arch, golden.path_of(arch))
    assert key_of(request_of(call)) == name
    assert difference(arch, source.trampoline(request_of(call)), call) == ""


def test_the_record_has_every_kind() -> None:
    for arch in ARCHES:
        names = [name for one, name in ROWS if one == arch]
        assert len(names) > 50
        for kind in TRACING:
            assert any(kind.value in name.rsplit("; ", 2)[-1] for name in names)
        assert any(name.endswith("bpf_get_func_ip") for name in names)


# --- trampolines of ours at a kernel's addresses

BASES = {"x86_64": 0xFFFF_FFFF_C040_0000, "arm64": 0xFFFF_8000_7A5C_0000}
OBJECTS = {"x86_64": 0xFFA0_0000_0012_3000, "arm64": 0xFFFF_8000_8269_5000}
CALL = scenario("u64 f(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h, u64 i)",
                [Step(Kind.FENTRY), Step(Kind.FSESSION), Step(Kind.FMOD_RET), Step(Kind.FEXIT)], func_ip=True)  # fmt: skip


def native(arch: str, call: Scenario = CALL) -> Native:
    """A trampoline of ours as a kernel would have it."""
    base = BASES[arch]
    programs = [
        Program(step.kind, base + 0x8000 + 64 * n, OBJECTS[arch] + 0x2000 * n) for n, step in enumerate(call.steps)
    ]
    hooks = {name: base + 0x9000 + 64 * n for n, name in enumerate(HOOKS)}
    function = base + 0x4000
    where = Places(base, function, function + ENTRY_BYTES[arch], 0xFFFF_1234_5678_9A00, hooks)
    plan = PLANS[arch](call.proto, [step.kind for step in call.steps], Mode.LINUX)
    code = MAKERS[arch]().make(plan, Attached(tuple(programs), call.func_ip), where)
    by_address = {address: name for name, address in hooks.items()}
    return Native(base, code, function, where.body, tuple(program.address for program in programs), by_address)


@dataclass
class Answers:
    """Gives one answer to everything."""

    made: Made | Unsupported | Died
    asked: int = 0

    def announce_trampolines(self, requests: Iterable[Request]) -> None:
        self.asked += len(list(requests))

    def trampoline(self, request: Request) -> Made | Unsupported | Died:
        return self.made


@pytest.mark.parametrize("arch", ARCHES)
def test_a_moved_trampoline_runs(arch: str) -> None:
    tracer = LinuxTracer(arch, Answers(native(arch)))
    tracer.announce([CALL])
    assert isinstance(tracer.asked, Answers)
    assert tracer.asked.asked == 1
    found = tracer.theirs(CALL)
    assert isinstance(found, Theirs)
    assert found.outcome.violations == []
    assert "fmod_ret 2; exit 2; original" in "; ".join(found.outcome.events)
    assert tracer.difference(CALL) == ""


@pytest.mark.parametrize("arch", ARCHES)
def test_a_difference_names_the_insn(arch: str) -> None:
    made = native(arch)
    code = bytearray(made.code)
    at = {"x86_64": 7, "arm64": 16}[arch]  # the size of the frame
    code[at + (0 if arch == "x86_64" else 1)] ^= 0x40
    text = difference(arch, replace(made, code=bytes(code)), CALL)
    assert text.splitlines()[0] == f"insn {2 if arch == 'x86_64' else 4} differs first"
    assert "sub" in text.splitlines()[1]
    assert (
        difference(arch, replace(made, code=made.code[: -2 if arch == "x86_64" else -4]), CALL).splitlines()[2]
        == "Linux  no more"
    )


@pytest.mark.parametrize("arch", ARCHES)
def test_refusals_are_compared(arch: str) -> None:
    float_call = scenario("u64 f(float a)", [Step(Kind.FENTRY)])
    refusal = RefusedError("load", 22, "The function f arg0 type FLOAT is unsupported.")
    assert difference(arch, refusal, float_call) == ""
    assert difference(arch, replace(refusal, errno=95), float_call).startswith("ours   load: errno 22")
    assert difference(arch, native(arch), float_call).endswith("Linux  it is accepted")
    assert difference(arch, refusal, CALL).splitlines()[0] == "ours   it is accepted"
    assert difference(arch, Unsupported("no kernel"), CALL).endswith("Linux  no kernel")


@pytest.mark.parametrize("arch", ARCHES)
def test_what_cannot_be_moved(arch: str) -> None:
    made = native(arch)
    foreign = replace(made, programs=tuple(address + 8 for address in made.programs))
    with pytest.raises(MoveError, match="neither hook, program nor function"):
        moved(arch, foreign, places(arch))
    found = LinuxTracer(arch, Answers(foreign)).theirs(CALL)
    assert isinstance(found, Unsupported)
    assert "cannot be judged" in found.reason
    assert "neither hook" in difference(arch, foreign, CALL)


@pytest.mark.parametrize("arch", ARCHES)
def test_an_image_ends_with_its_return(arch: str) -> None:
    code = native(arch).code
    assert whole_image(arch, code + b"\xcc" * 64) == code
    fentry = native(arch, scenario("u64 f(u64 a)", [Step(Kind.FENTRY)])).code
    assert whole_image(arch, fentry + code) == fentry
    with pytest.raises(MoveError, match="no return"):
        whole_image(arch, code[:64])


def test_an_address_that_does_not_fit() -> None:
    """X86-64's short form of MOV has room for 31 bits; the kernel's image object comes in the long one."""
    made = native("x86_64", scenario("u64 f(u64 a)", [Step(Kind.FEXIT)]))
    short = made.code.replace(
        bytes.fromhex("48bf") + (0xFFFF_1234_5678_9A00).to_bytes(8, "little"), bytes.fromhex("48c7c700aa00ff909090")
    )
    with pytest.raises(MoveError, match="expected room"):
        moved("x86_64", replace(made, code=short), places("x86_64"))


# --- on record


@pytest.mark.parametrize("made", [native("x86_64"), RefusedError("attach", 524, "")])
def test_what_is_on_record_comes_back(made: Made) -> None:
    assert to_made(json.loads(json.dumps(from_made(made)))) == made


def test_records_that_are_not_there(tmp_path: Path) -> None:
    source = Golden("x86_64", tmp_path / "x86_64.json")
    found = source.trampoline(request_of(CALL))
    assert isinstance(found, Unsupported)
    assert "golden update" in found.reason
    golden.write(
        tmp_path / "trampolines-x86_64.json",
        {"release": "7.2"},
        {key_of(request_of(CALL)): {"at": "load"}},
        "trampolines",
    )
    assert "has no such one" in str(source.trampoline(Request(CALL.proto, (Kind.FENTRY,))))
    with pytest.raises(GoldenError, match="the record is damaged"):
        source.trampoline(request_of(CALL))


# --- a kernel that is asked


@dataclass
class Makes:
    """Makes trampolines until it dies."""

    requests: list[Request]
    dies_of: int

    def made(self, request: Request) -> Made:
        if len(self.requests) >= self.dies_of:
            raise KernelGoneError("the guest crashed")
        return native("x86_64")

    def target(self, proto: Proto) -> AttachTo:
        return AttachTo(0, 0, proto.name)


def live(dies_of: int) -> tuple[Live, list[int]]:
    """A kernel that dies where it is asked for that many at once; and how many times it was asked for how many."""
    boots: list[int] = []

    def make(kernel: object, requests: Iterable[Request]) -> Makes:
        boots.append(len(list(requests)))
        return Makes(list(requests), dies_of)

    return Live("x86_64", Kernel, lambda *_: NoKfuncs(), trampolines=make), boots


def test_a_kernel_that_dies_of_one_does_not_lose_the_others() -> None:
    source, boots = live(2)
    source.announce_trampolines([request_of(CALL), Request(CALL.proto, (Kind.FENTRY,))])
    assert isinstance(source.trampoline(request_of(CALL)), Native)
    assert boots == [2, 0]


def test_a_kernel_that_dies_of_one_alone() -> None:
    source, _ = live(0)
    assert source.trampoline(request_of(CALL)) == Died("the guest crashed")


def test_so_many_are_attached_at_a_time() -> None:
    """No more than a process has descriptors for, and one at least."""
    single = Request(CALL.proto, (Kind.FENTRY,))
    many = Request(CALL.proto, (Kind.FENTRY,) * 300)
    assert [len(part) for part in parts([single] * 400)] == [192, 192, 16]
    assert [len(part) for part in parts([many, single, many, many])] == [2, 1, 1]
    assert [len(part) for part in parts([Request(CALL.proto, (Kind.FENTRY,) * 600)])] == [1]
    assert list(parts([])) == []


@pytest.mark.parametrize("errno", [12, 23, 24], ids=["ENOMEM", "ENFILE", "EMFILE"])
def test_a_kernel_that_ran_short_of_something_refused_nothing(errno: int) -> None:
    assert refused("attach", -7) == RefusedError("attach", 7, "")
    with pytest.raises(OSError, match=r"\[Errno"):
        refused("attach", -errno)


def test_a_kernel_that_gets_no_module() -> None:
    with pytest.raises(UnavailableError, match="does not get"):
        NoTrampolines().made(request_of(CALL))
    source = Live("x86_64", Kernel, lambda *_: NoKfuncs())
    assert isinstance(source.trampoline(request_of(CALL)), Unsupported)
