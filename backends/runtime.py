"""Another runtime behind bpf_conformance's plugin protocol: program and memory in, R0 out, a process per program.

The memory is the last argument, as hex digits, empty where there is none; the program is hex digits on standard input. A
runtime answers with R0 as hex digits on standard output and status 0, or with an error's text and status 1.
"""

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backends.base import Answered, Died, Job, Outcome, Unsupported
from harness.isa.insn import CallKfunc, Prog

SECONDS: Final = 5.0  # for one program
MAX_OUTPUT: Final = 1 << 16
_R0: Final = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,16})\Z")
_SHOWN: Final = 200  # characters of an output that a message quotes


@dataclass(frozen=True, slots=True)
class _Ended:
    """A process that came to its end by itself."""

    status: int
    out: bytes
    err: bytes


class RuntimeBackend:
    """One command; every program is a new process of it."""

    features = frozenset({"subprogs"})

    def __init__(self, name: str, command: Sequence[str], seconds: float = SECONDS) -> None:
        self.name, self._command, self._seconds = name, tuple(command), seconds

    def run(self, job: Job) -> Outcome:
        """What the runtime makes of a program as loaded."""
        lacking = lacks(job.prog)
        if lacking:
            return Unsupported(f"the plugin protocol has no {lacking}")
        program = b"".join(insn.to_bytes() for insn in job.prog.insns).hex()
        ended = converse([*self._command, job.ctx.hex()], program.encode(), self._seconds)
        return ended if isinstance(ended, Died) else answer_of(ended)


def lacks(prog: Prog) -> str:
    """What a program needs and the protocol does not know; empty where it is nothing."""
    if any(isinstance(insn, CallKfunc) for insn in prog.ops):
        return "kfuncs"
    if prog.maps:
        return "maps"
    return "stack arguments" if any(11 in (insn.dst, insn.src) for insn in prog.insns) else ""


def answer_of(ended: _Ended) -> Answered | Died:
    """The number, and nothing but the number; or why there is none."""
    out, err = (text.decode(errors="replace").strip() for text in (ended.out, ended.err))
    if ended.status < 0:
        return Died(f"the plugin was ended by signal {-ended.status} ({_signal(-ended.status)})")
    if ended.status:
        return Died(f"the plugin ends with status {ended.status}: {_short(err or out)}", told=True)
    if not out:
        return Died("the plugin ends with status 0 and says nothing")
    match = _R0.match(out)
    if match is None:
        number = re.match(r"(?:0[xX])?[0-9a-fA-F]{1,16}(?=\s)", out)
        what = "more than a number" if number else "no number of 64 bits in hex digits"
        return Died(f"the plugin's answer is {what}: {_short(out)}")
    return Answered(int(match.group(1), 16))


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return "unknown"


def _short(text: str) -> str:
    return repr(text[:_SHOWN]) + (" ..." if len(text) > _SHOWN else "")


def converse(command: Sequence[str], given: bytes, seconds: float) -> "_Ended | Died":
    """Runs a command to its end. It and all it started are killed after `seconds`, or if it says too much."""
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        return Died(f"the plugin {command[0]} cannot be started: {error.strerror}")
    try:
        return _talk(child, given, time.monotonic() + seconds, seconds)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _talk(child: "subprocess.Popen[bytes]", given: bytes, until: float, seconds: float) -> "_Ended | Died":
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    said: dict[int, bytearray] = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    stdin = child.stdin.fileno()
    for descriptor in (stdin, *said):
        os.set_blocking(descriptor, False)
    with selectors.DefaultSelector() as selector:
        selector.register(stdin, selectors.EVENT_WRITE)
        for descriptor in said:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            left = until - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            if not ready:
                return Died(f"the plugin has not ended after {seconds:g} s")
            for key, _ in ready:
                if key.fd == stdin:
                    given = _give(child, selector, given)
                elif more := os.read(key.fd, 1 << 16):
                    said[key.fd] += more
                    if len(said[key.fd]) > MAX_OUTPUT:
                        return Died(f"the plugin says more than {MAX_OUTPUT} bytes")
                else:
                    selector.unregister(key.fd)
    try:
        status = child.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return Died(f"the plugin has not ended after {seconds:g} s")
    return _Ended(status, bytes(said[child.stdout.fileno()]), bytes(said[child.stderr.fileno()]))


def _give(child: "subprocess.Popen[bytes]", selector: selectors.BaseSelector, given: bytes) -> bytes:
    """Writes what the pipe takes; closes it at the end, or where nobody reads."""
    assert child.stdin is not None
    descriptor = child.stdin.fileno()
    try:
        given = given[os.write(descriptor, given) :] if given else given
    except BlockingIOError:
        return given
    except BrokenPipeError:
        given = b""
    if not given:
        selector.unregister(descriptor)
        child.stdin.close()
    return given
