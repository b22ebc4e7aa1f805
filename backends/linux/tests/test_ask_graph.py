"""Programs that tail call each other, put to a kernel that counts what is open."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from backends.base import Job
from backends.linux.ask import ask
from backends.linux.syscalls import Done, ResultOf, Syscall
from harness.isa.asm import Source as Text
from harness.isa.asm import assemble
from harness.isa.insn import joined
from harness.isa.maps import Map

MAP_CREATE, PROG_LOAD, BTF_LOAD = 0, 5, 18  # Linux include/uapi/linux/bpf.h, enum bpf_cmd


@dataclass
class Kernel:
    """Refuses everything."""

    arch: str = "x86_64"
    asked: list[Syscall] = field(default_factory=list)

    def batch(self, calls: Sequence[Syscall]) -> list[Done]:
        self.asked = list(calls)
        return [Done(-22, dict.fromkeys(range(8), b"")) for _ in calls]


def test_what_was_opened_is_closed_and_nothing_else() -> None:
    jmp = Map("jmp", "prog_array", 4, 4, 2, content=((bytes(4), b"\1\0\0\0"),))
    text = "r2 = jmp ll\nr3 = 0\ncall bpf_tail_call\nr0 = 0\nexit"
    programs = [assemble([Text("main", text)], [], [jmp]).prog for _ in range(3)]
    kernel = Kernel()
    ask(kernel, Job(joined(programs), None, b"", ()), None)
    opening = [at for at, call in enumerate(kernel.asked) if call.args[0] in (MAP_CREATE, PROG_LOAD, BTF_LOAD)]
    closed = [call.args[0] for call in kernel.asked if call.name == "close"]
    assert len(opening) == 1 + 2 * 3
    assert closed == [ResultOf(call) for call in opening]
