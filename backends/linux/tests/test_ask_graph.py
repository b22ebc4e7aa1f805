"""What is put to a kernel of programs that tail call each other."""

from collections.abc import Sequence

from backends.base import Job
from backends.linux.ask import Wish
from backends.linux.ask_graph import ask_graph
from backends.linux.syscalls import Done, ResultOf, Syscall
from harness.isa.asm import Source, assemble
from harness.isa.insn import joined
from harness.isa.maps import Map

MAP_CREATE, PROG_LOAD, BTF_LOAD = 0, 5, 18  # Linux include/uapi/linux/bpf.h, enum bpf_cmd
ARRAY = Map("jmp", "prog_array", 4, 4, 2, content=((b"\0\0\0\0", b"\1\0\0\0"),))


class Kernel:
    """Refuses everything."""

    arch = "x86_64"

    def batch(self, calls: Sequence[Syscall]) -> list[Done]:
        self.calls = list(calls)
        return [Done(-1, {}) for _ in calls]


def test_only_what_was_opened_is_closed() -> None:
    """A map, and of each of two programs its BTF and itself; 0, which other calls give, is a file of somebody else's."""
    parts = [assemble([Source(name, "r0 = 0\nexit")], (), [ARRAY]).prog for name in ("a", "b")]
    kernel = Kernel()
    assert ask_graph(kernel, Job(joined(parts), None, b"", ()), None, Wish()).errno == 1
    closed = [call.args[0] for call in kernel.calls if call.name == "close"]
    commands = [kernel.calls[result.call].args[0] for result in closed if isinstance(result, ResultOf)]
    assert commands == [MAP_CREATE, BTF_LOAD, PROG_LOAD, BTF_LOAD, PROG_LOAD]
