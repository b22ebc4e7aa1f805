"""Runtimes behind the plugin protocol: one that is right, and all that lie, hang and die."""

import sys
import time
from pathlib import Path

import pytest

from backends.base import Answered, Died, Job, Outcome, Unsupported
from backends.runtime import RuntimeBackend
from harness.isa.asm import Source, assemble
from harness.isa.proto import parse_proto

JOB = Job(assemble([Source("main", "r0 = 42\nexit")], []).prog, None, b"\1\2", ())
PROGRAM = "b70000002a0000009500000000000000"


def run(tmp_path: Path, body: str, seconds: float = 5.0, job: Job = JOB) -> Outcome:
    path = tmp_path / "plugin.py"
    path.write_text(f"import os, sys, time\n{body}\n", encoding="utf-8")
    return RuntimeBackend("plugin:x", [sys.executable, "-S", str(path), "--option"], seconds).run(job)


def test_what_a_plugin_is_given(tmp_path: Path) -> None:
    body = f"assert sys.argv[1:] == ['--option', '0102'], sys.argv\nassert sys.stdin.read() == '{PROGRAM}'\nprint('2a')"
    assert run(tmp_path, body) == Answered(42)


def test_no_memory_is_an_empty_argument(tmp_path: Path) -> None:
    job = Job(JOB.prog, None, b"", ())
    assert run(tmp_path, "print(len(sys.argv[2]) + 7 if sys.argv[2:] else 'none')", job=job) == Answered(7)


@pytest.mark.parametrize(("said", "r0"), [("2a", 42), ("0x2A\n", 42), ("  ffffffffffffffff  ", 2**64 - 1), ("0", 0)])
def test_answers(said: str, r0: int, tmp_path: Path) -> None:
    assert run(tmp_path, f"sys.stdout.write({said!r})") == Answered(r0)


LIES = {
    "garbage after the number": ("print('2a and more')", "the plugin's answer is more than a number: '2a and more'"),
    "two numbers": ("print('2a'); print('2b')", "the plugin's answer is more than a number: '2a\\n2b'"),
    "no number": ("print('forty-two')", "the plugin's answer is no number of 64 bits in hex digits: 'forty-two'"),
    "more than 64 bits": (
        "print('1' + '0' * 16)",
        "the plugin's answer is no number of 64 bits in hex digits: '10000000000000000'",
    ),
    "nothing": ("", "the plugin ends with status 0 and says nothing"),
    "a crash": ("os.kill(os.getpid(), 11)", "the plugin was ended by signal 11 (SIGSEGV)"),
    "too much": ("while True: sys.stdout.write('0' * 100000)", "the plugin says more than 65536 bytes"),
    "too much of errors": ("while True: sys.stderr.write('0' * 100000)", "the plugin says more than 65536 bytes"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies(name: str, tmp_path: Path) -> None:
    body, reason = LIES[name]
    assert run(tmp_path, body) == Died(reason)


def test_an_error_is_told(tmp_path: Path) -> None:
    outcome = run(tmp_path, "print('division of the world', file=sys.stderr); sys.exit(1)")
    assert outcome == Died("the plugin ends with status 1: 'division of the world'", told=True)


def test_a_plugin_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    body = f"if os.fork() == 0:\n    time.sleep(1.5)\n    open({str(mark)!r}, 'w')\ntime.sleep(60)"
    started = time.monotonic()
    assert run(tmp_path, body, 0.4) == Died("the plugin has not ended after 0.4 s")
    assert time.monotonic() - started < 1.5
    time.sleep(1.6)
    assert not mark.exists()


def test_a_plugin_that_closes_its_output_and_stays(tmp_path: Path) -> None:
    body = "print('2a', flush=True)\nos.close(1)\nos.close(2)\ntime.sleep(60)"
    assert run(tmp_path, body, 0.5) == Died("the plugin has not ended after 0.5 s")


def test_a_plugin_that_does_not_read(tmp_path: Path) -> None:
    long = Job(assemble([Source("main", "r0 = 42\n" * 20_000 + "exit")], []).prog, None, b"", ())
    assert run(tmp_path, "print('2a')", job=long) == Answered(42)


def test_no_such_plugin() -> None:
    outcome = RuntimeBackend("plugin:x", ["/no/such/plugin"]).run(JOB)
    assert outcome == Died("the plugin /no/such/plugin cannot be started: No such file or directory")


def test_what_the_protocol_does_not_know(tmp_path: Path) -> None:
    kf = parse_proto("u64 kf(void)")
    kfunc = Job(assemble([Source("main", "call kf\nexit")], [kf]).prog, None, b"", ())
    slots = Job(assemble([Source("main", "*(u64 *)(r11 - 8) = 1\nr0 = 0\nexit")], []).prog, None, b"", ())
    assert run(tmp_path, "", job=kfunc) == Unsupported("the plugin protocol has no kfuncs")
    assert run(tmp_path, "", job=slots) == Unsupported("the plugin protocol has no stack arguments")
