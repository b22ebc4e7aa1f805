"""A running kernel as a source of replies, with kernels that answer what they are told to."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from backends.base import Died, Difference, Job, Loaded, Ran, Refused, Unsupported
from backends.calls import Body
from backends.image import Image, Symbol
from backends.linux import backend as backends
from backends.linux import here
from backends.linux.ask import Answer, KfuncIds, NativeFunc
from backends.linux.backend import Accepted, LinuxBackend, Live, Reply, needs_stack_args, reply_of
from backends.linux.differs import Differences, Entry
from backends.linux.modules import NoKfuncs, UnavailableError
from backends.linux.syscalls import Done, KernelGoneError, Syscall
from harness.isa.asm import Source, assemble
from harness.isa.insn import Prog
from harness.isa.proto import parse_proto
from harness.isa.verified import Verified

REFUSED = "0: (95) exit\nR0 !read_ok\nverification time 9 usec\nstack depth 0\nprocessed 1 insns (limit 1000000)\n"


def prog(text: str = "exit") -> Prog:
    return assemble([Source("main", text)], []).prog


def job(text: str = "exit", case: str = "") -> Job:
    return Job(prog(text), None, b"", (), case=case)


@dataclass
class Kernel:
    """Refuses every program with the log it was given; dies of one whose second insn is a call of 77."""

    arch: str = "x86_64"
    log: str = REFUSED
    asked: list[int] = field(default_factory=list)
    closed: bool = False

    def batch(self, calls: Sequence[Syscall]) -> list[Done]:
        names = [call.name for call in calls]
        if names == ["uname"]:
            return [Done(0, {0: b"\0" * 130 + b"7.2.99-test\0"})]
        if calls[0].args[0] == 0:  # BPF_MAP_CREATE: whoever looks for helpers' addresses finds none here
            return [Done(-1, {0: b""})] * len(calls)
        insns = calls[1].bufs[1].data
        self.asked.append(len(insns) // 8)
        if struct.pack("<i", 77) in insns:
            raise KernelGoneError("the guest crashed; it said nothing")
        return [Done(3, {2: b""}), Done(-13, {3: self.log.encode()}), *[Done(-9, {0: b""})] * (len(calls) - 2)]

    def close(self) -> None:
        self.closed = True


def live(kernels: list[Kernel]) -> Live:
    rest = iter(kernels)
    return Live("x86_64", lambda: next(rest), lambda kernel, release, bodies: NoKfuncs())


def test_a_refusal() -> None:
    source = live([Kernel()])
    assert source.reply(job()) == Refused("R0 !read_ok", 13, 0, REFUSED, 1)
    assert source.release == "7.2.99-test"


def test_a_kernel_that_dies_is_started_again() -> None:
    first, second = Kernel(), Kernel()
    source = live([first, second])
    assert source.reply(job("r0 = 0\ncall 77\nexit")) == Died("the guest crashed; it said nothing")
    assert first.closed
    assert isinstance(source.reply(job()), Refused)
    assert source.release == "7.2.99-test"


def test_no_kernel_is_looked_for_once() -> None:
    tries: list[int] = []

    def boot() -> Kernel:
        tries.append(1)
        raise UnavailableError("no kernel image for x86_64")

    source = Live("x86_64", boot, lambda kernel, release, bodies: NoKfuncs())
    replies = [source.reply(job()) for _ in range(3)]
    assert replies == [Unsupported("no kernel image for x86_64")] * 3
    assert tries == [1]


def test_a_kernel_that_never_comes_up() -> None:
    def boot() -> Kernel:
        raise KernelGoneError("the guest is silent; it said nothing")

    source = Live("x86_64", boot, lambda kernel, release, bodies: NoKfuncs())
    assert source.reply(job()) == Died("the kernel does not come up: the guest is silent; it said nothing")


def test_boots_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "MAX_BOOTS", 2)
    source = live([Kernel(), Kernel()])
    killer = job("r0 = 0\ncall 77\nexit")
    assert [isinstance(source.reply(killer), Died) for _ in range(2)] == [True, True]
    assert source.reply(job()) == Died("the kernel died 2 times; it is not started again")


def test_what_the_host_is_spared() -> None:
    source = Live(
        "x86_64", Kernel, lambda kernel, release, bodies: NoKfuncs(), spare=lambda case: f"not {case}" if case else None
    )
    assert source.reply(job(case="c::x")) == Unsupported("not c::x")
    assert isinstance(source.reply(job()), Refused)


def test_a_kernel_without_stack_arguments() -> None:
    source = live([Kernel(log="R11 is invalid\n")])
    assert source.reply(job("*(u64 *)(r11 - 8) = 5\nexit")) == Unsupported("Linux 7.2.99-test has no stack arguments")
    assert isinstance(source.reply(job()), Refused)


def test_who_needs_stack_arguments() -> None:
    six = parse_proto("u64 f(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)")
    typed = assemble([Source("main", "r0 = 0\nexit"), Source("f", "r0 = 0\nexit", six)], []).prog
    assert needs_stack_args(typed)
    assert needs_stack_args(prog("r0 = *(u64 *)(r11 + 8)\nexit"))
    assert not needs_stack_args(prog("r0 = 11\nexit"))


def test_native_code_that_cannot_be_moved() -> None:
    reply = reply_of("x86_64", job(), Answer(0, ""), {})
    assert isinstance(reply, Unsupported)
    assert reply.reason.startswith("its native code cannot be judged: the kernel gave no native code")


# --- how it comes up and goes down


@dataclass
class Sick(Kernel):
    """Comes up and tells its release; the program after that is the last that it is asked, or it may not ask at all."""

    errno: int = 0

    def batch(self, calls: Sequence[Syscall]) -> list[Done]:
        if calls[0].name == "uname":
            return super().batch(calls)
        if not self.errno:
            raise KernelGoneError("the guest is silent; it said nothing")
        return [Done(-self.errno, {2: b"", 3: b"", 0: b""})] * len(calls)


def test_a_kernel_that_does_not_come_up_is_tried_once() -> None:
    tries: list[int] = []

    def boot() -> Kernel:
        tries.append(1)
        return Sick()

    source = Live("x86_64", boot, lambda kernel, release, bodies: NoKfuncs())
    died = Died("the kernel does not come up: the guest is silent; it said nothing")
    assert [source.reply(job()) for _ in range(3)] == [died] * 3
    assert tries == [1]


def test_a_kernel_that_does_not_come_up_is_ended() -> None:
    kernel = Sick()
    source = live([kernel])
    assert isinstance(source.reply(job()), Died)
    source.close()
    assert kernel.closed


def test_a_kernel_without_a_compiler_is_ended() -> None:
    kernel = Kernel()

    def kfuncs(kernel: object, release: str, bodies: Iterable[Body]) -> NoKfuncs:
        raise UnavailableError("no C compiler for x86_64")

    source = Live("x86_64", lambda: kernel, kfuncs)
    assert source.reply(job()) == Unsupported("no C compiler for x86_64")
    source.close()
    assert kernel.closed


@pytest.mark.parametrize("errno", [1, 38])
def test_a_kernel_that_may_not_be_asked(errno: int) -> None:
    """As in a container without CAP_BPF (EPERM), or without CONFIG_BPF_SYSCALL (ENOSYS): missing, so skipped."""
    assert isinstance(live([Sick(errno=errno)]).reply(job()), Unsupported)


def test_a_kernel_is_closed_once() -> None:
    kernel = Kernel()
    source = live([kernel])
    source.close()
    assert not kernel.closed
    source.reply(job())
    source.close()
    assert kernel.closed


def test_a_kernel_that_cannot_be_closed() -> None:
    class Host:
        arch = "x86_64"

        def batch(self, calls: Sequence[Syscall]) -> list[Done]:
            return Kernel().batch(calls)

    source = Live("x86_64", Host, lambda kernel, release, bodies: NoKfuncs())
    assert isinstance(source.reply(job()), Refused)
    source.close()


@pytest.mark.parametrize("content", ["4d5a", "1f8b0800000000000003ffffffff"], ids=["a short PE", "a broken gzip"])
def test_an_image_that_is_cut_off(content: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes.fromhex(content))
    with pytest.raises(UnavailableError, match="image"):
        here.arch_of(path)


# --- kfuncs

KF = Body(parse_proto("u64 kf(u64 a)"), "sum")
KG = Body(parse_proto("u64 kg(u64 a)"), "sum")


@dataclass
class FakeKfuncs:
    """Knows one kfunc by another name."""

    announced: Iterable[Body]
    seen: list[list[Body]] = field(default_factory=list)

    def ids(self, bodies: Iterable[Body]) -> KfuncIds:
        self.seen.append(list(self.announced))
        if KG in bodies:
            raise UnavailableError("no module with the kfuncs can be made")
        return KfuncIds((9,), {KF.proto: (1, 77777)})

    def addresses(self, bodies: Iterable[Body]) -> Mapping[int, str]:
        return {}

    def plain(self, text: str, bodies: Iterable[Body]) -> str:
        return text.replace("cc_kf_1", "kf")


def calling(body: Body) -> Job:
    text = f"r1 = 1\ncall {body.proto.name}\nexit"
    return Job(assemble([Source("main", text)], [body.proto]).prog, None, b"", (body,))


def test_kfuncs() -> None:
    """All that are announced are known when the first is asked for; the log has the names of the case."""
    made: list[FakeKfuncs] = []

    def kfuncs(kernel: object, release: str, bodies: Iterable[Body]) -> FakeKfuncs:
        made.append(FakeKfuncs(bodies))
        return made[-1]

    kernel = Kernel(log="1: (85) call cc_kf_1#77777\nR0 !read_ok\n")
    source = Live("x86_64", lambda: kernel, kfuncs)
    source.announce([KF])
    assert isinstance(source.reply(job()), Refused)
    source.announce([KG, KF])
    reply = source.reply(calling(KF))
    assert isinstance(reply, Refused)
    assert reply.log == "1: (85) call kf#77777\nR0 !read_ok\n"
    assert made[0].seen == [[KF, KG]]
    assert source.reply(calling(KG)) == Unsupported("no module with the kfuncs can be made")
    assert isinstance(source.reply(calling(KF)), Refused)


def test_no_kfuncs_on_this_machine() -> None:
    assert live([Kernel()]).reply(calling(KF)) == Unsupported(
        "kfuncs of cases need a module, which this machine's own kernel does not get"
    )


# --- the back end

SEVEN = prog("r0 = 7\nexit")
IMAGE = Image(
    "x86_64", 0x4000_0000, bytes.fromhex("b807000000c3"), (Symbol("main", 0, 6, 0),), (0, 5), False,
    Verified(SEVEN, (), (0, 1)),
)  # fmt: skip
LOADED = Loaded("log", 2, (0,), b"xlated", 0, 8, b"")  # its own run says 8, so that neither is taken for the other


@dataclass
class Told:
    """A source that replies what it was given."""

    given: Reply
    release: str | None = "7.2.13-x"
    announced: list[Body] = field(default_factory=list)

    def announce(self, bodies: Iterable[Body]) -> None:
        self.announced += bodies

    def close(self) -> None: ...

    def reply(self, job: Job) -> Reply:
        return self.given


def linux(given: Reply, release: str | None = "7.2.13-x", *, recorded: bool = False) -> LinuxBackend:
    entry = Entry("c.yaml::x", ("x86_64",), (7, 2, 0), None, "crashed", "It does.", "suite", True)
    return LinuxBackend("linux", "x86_64", Told(given, release), Differences((entry,)), recorded=recorded)


def test_native_code_is_judged_and_the_kernels_own_run_kept() -> None:
    outcome = linux(Accepted(LOADED, IMAGE)).run(Job(SEVEN, None, b"", ()))
    assert isinstance(outcome, Ran)
    assert (outcome.retval, outcome.violations, outcome.loaded, outcome.image) == (7, (), LOADED, IMAGE)


def test_native_code_that_breaks_a_rule_is_seen() -> None:
    """mov ebx, 7; ret: RBX is the caller's."""
    wrong = replace(IMAGE, code=bytes.fromhex("bb07000000c3"))
    outcome = linux(Accepted(LOADED, wrong)).run(Job(SEVEN, None, b"", ()))
    assert isinstance(outcome, Ran)
    assert [violation.check for violation in outcome.violations] == ["ABI-SAVED"]
    assert outcome.loaded == LOADED


@pytest.mark.parametrize("reply", [Refused("why", 13, 0, "why", 1), Unsupported("no kernel"), Died("it crashed")])
def test_what_is_no_run_is_passed_on(reply: Reply) -> None:
    assert linux(reply).run(Job(SEVEN, None, b"", ())) == reply


def test_native_code_that_is_too_large() -> None:
    large = replace(IMAGE, code=bytes((16 << 20) + 1))
    reason = "the image has 16777217 bytes, more than 16777216"
    assert linux(Accepted(LOADED, large)).run(Job(SEVEN, None, b"", ())) == Unsupported(reason)


def test_which_kernel_judged() -> None:
    died = Died("it crashed")
    assert linux(died).describe() == "Linux 7.2.13-x"
    assert linux(died, recorded=True).describe() == "the record of Linux 7.2.13-x"
    assert linux(died, None).describe() == "no Linux answered"


def test_differences_are_those_of_the_kernel_that_answered() -> None:
    stated = Difference("crashed", "It does. Right: suite.", "backends/linux/differs.yaml")
    found = [linux(Died("x"), release).difference("c.yaml::x@n=1") for release in ("7.2.13-x", "7.1.9", None)]
    assert found == [stated, None, None]
    assert linux(Died("x")).difference("c.yaml::y") is None


def test_what_is_announced_reaches_the_source() -> None:
    backend = linux(Died("x"))
    backend.announce([KF, KG])
    assert isinstance(backend.source, Told)
    assert backend.source.announced == [KF, KG]


# --- replies


def test_an_accepted_answer() -> None:
    at = 0xFFFF_FFFF_C000_0100
    native = NativeFunc(at, bytes.fromhex("b807000000c3"))
    answer = Answer(0, "log", b"xlated", 2, (8,), 0, 7, b"\1", (native,), ((0, at), (1, at + 5)))
    reply = reply_of("x86_64", Job(SEVEN, None, b"\1", ()), answer, {})
    assert isinstance(reply, Accepted)
    assert reply.loaded == Loaded("log", 2, (8,), b"xlated", 0, 7, b"\1")
    assert reply.image.code[:6].hex() == "b807000000c3"
    assert reply.image.insn_offsets == (0, 5)


R11_NAMED = {
    "a load": ("r0 = *(u64 *)(r11 + 8)\nexit", True),
    "a store": ("*(u64 *)(r11 - 8) = r1\nexit", True),
    "a constant store": ("*(u64 *)(r11 - 8) = 5\nexit", True),
    "an offset of 11": ("*(u8 *)(r10 - 11) = 11\nexit", False),
    "r10": ("r0 = *(u64 *)(r10 - 8)\nexit", False),
}


@pytest.mark.parametrize("name", R11_NAMED)
def test_programs_with_stack_arguments(name: str) -> None:
    text, needs = R11_NAMED[name]
    assert needs_stack_args(prog(text)) == needs


def test_five_parameters_need_none() -> None:
    five = parse_proto("u64 f(u64 a, u64 b, u64 c, u64 d, u64 e)")
    assert not needs_stack_args(assemble([Source("main", "exit"), Source("f", "exit", five)], []).prog)
