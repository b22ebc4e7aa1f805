"""A plugin as a process: one line out, one line back, in bounded time and memory, whatever it does."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Final

MAX_LINE_BYTES: Final = 8 << 20  # of an answer, so that a lie costs bounded memory
_WORDS_BYTES: Final = 2000  # of stderr that are kept
_WORDS_CHUNKS: Final = 16  # of stderr that are read for a message; it may go on for ever
_REASON_CHARS: Final = 500
_CHUNK: Final = 1 << 16
_LOOK_SECONDS: Final = (
    0.1  # how often a silent plugin is looked at: a child of it may hold its pipes open after its end
)
_END_SECONDS: Final = 0.5  # between the end of its output and its own


class PluginError(Exception):
    """The plugin failed at its work: the text says what was expected and what it gave."""


class SilentError(PluginError):
    """It gave no whole answer in time."""


class Process:
    """A plugin that runs, in a process group of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise PluginError(f"the plugin cannot start: {error.strerror}: {command[0]}") from error
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        self._in, self._out, self._err = (
            f.fileno() for f in (self._child.stdin, self._child.stdout, self._child.stderr)
        )
        for pipe in (self._in, self._out, self._err):
            os.set_blocking(pipe, False)
        self._words = b""
        self.close = weakref.finalize(self, _end, self._child, os.getpid())  # at the latest when Python ends

    def ask(self, request: Mapping[str, object], seconds: float) -> Mapping[str, object]:
        """The answer, an object on one line. Raises PluginError."""
        line = self._exchange(json.dumps(request, separators=(",", ":")).encode() + b"\n", time.monotonic() + seconds)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PluginError(f"the answer is no JSON ({brief(str(error))}): {quote(line)}") from error
        if not isinstance(answer, dict):
            raise PluginError(f"the answer is no JSON object: {quote(line)}")
        return answer

    def idle(self) -> bool:
        """Whether it runs and has said nothing unasked."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._out, 1)  # a byte too many, or the end
            return False
        return not self._ended()

    def _exchange(self, request: bytes, until: float) -> bytes:
        """Writes and reads at once, since a plugin may answer before it has read everything."""
        rest, got = memoryview(request), bytearray()
        sources = [self._out, self._err]
        while True:
            left = until - time.monotonic()
            if left <= 0:
                said = f"{len(got)} bytes without a line end" if got else "nothing"
                raise SilentError(f"the plugin gave {said} in time{self._last_words()}")
            readable, writable, _ = select.select(sources, [self._in] if rest else [], [], min(left, _LOOK_SECONDS))
            if writable:
                rest = self._write(rest)
            if self._err in readable and not self._listen():
                sources.remove(self._err)
            if self._out in readable:
                chunk = self._read(self._out)
                got += chunk
                if b"\n" in chunk:
                    return self._line(bytes(got))
                if len(got) > MAX_LINE_BYTES:
                    raise PluginError(f"the answer has no line end within {MAX_LINE_BYTES} bytes: {quote(bytes(got))}")
                if not chunk:
                    raise PluginError(self._epitaph(until))
            elif not readable and self._ended():
                raise PluginError(self._epitaph(until))

    @staticmethod
    def _line(got: bytes) -> bytes:
        line, _, more = got.partition(b"\n")
        if len(line) > MAX_LINE_BYTES:
            raise PluginError(f"the answer has {len(line)} bytes, more than {MAX_LINE_BYTES}")
        if more:
            raise PluginError(f"the plugin goes on after its answer: {quote(more)}")
        return line

    def _write(self, rest: memoryview) -> memoryview:
        try:
            return rest[os.write(self._in, rest[:_CHUNK]) :]
        except BlockingIOError:
            return rest
        except OSError:  # it reads no more; what it says or how it ended tells more
            return rest[len(rest) :]

    @staticmethod
    def _read(pipe: int) -> bytes:
        try:
            return os.read(pipe, _CHUNK)
        except BlockingIOError:
            return b""

    def _listen(self) -> bool:
        chunk = self._read(self._err)
        self._words = (self._words + chunk)[-_WORDS_BYTES:]
        return bool(chunk)

    def _ended(self) -> bool:
        # It stays unreaped until its group is killed: until then nobody else can get the group's number.
        return os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _epitaph(self, until: float) -> str:
        until = min(until, time.monotonic() + _END_SECONDS)
        while not self._ended():
            if time.monotonic() > until:
                return f"the plugin closed its output{self._last_words()}"
            time.sleep(0.002)
        said = self._last_words()
        self.close()
        status = self._child.returncode
        return (
            f"the plugin {f'was killed by {_signal(-status)}' if status < 0 else f'ended with status {status}'}{said}"
        )

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            for _ in range(_WORDS_CHUNKS):
                if not self._listen():
                    break
        words = [line for line in self._words.decode(errors="replace").splitlines() if line.strip()]
        return f"; its last words: {brief(words[-1])}" if words else ""


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def _end(child: "subprocess.Popen[bytes]", owner: int) -> None:
    """Kills the whole group, then reaps."""
    if os.getpid() != owner:
        return  # a fork of the suite that ends; the plugin is its parent's
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def quote(raw: bytes) -> str:
    """The beginning of what a plugin wrote."""
    return repr(raw[:60].decode(errors="replace")) + ("..." if len(raw) > 60 else "")


def brief(text: str) -> str:
    """What a plugin said, as one printable line."""
    plain = "".join(c if c.isprintable() else " " for c in text[: _REASON_CHARS + 1])
    return plain if len(plain) <= _REASON_CHARS else plain[:_REASON_CHARS] + "..."
