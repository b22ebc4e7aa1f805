"""`python -m benchmarks.speed`: the figures of the suite's bars. Best of several rounds; prints a table, asserts nothing."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from backends.base import Backend
from harness.case import Case, find_files, load_file
from harness.plugins import BUILT_IN, make_backends
from harness.suite import Suite
from verifier.verify import Verifier

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5


def best(function: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds of the fastest of some rounds."""
    times: list[float] = []
    for _ in range(rounds):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def run_all(cases: list[Case], backend: Backend) -> None:
    """Every case on one back end, verified anew."""
    suite = Suite()
    for case in cases:
        suite.judge(case, backend)


def cold_start(arguments: list[str]) -> float:
    """Seconds of a fresh process that finds what Python and jinja2 compiled before, as a user's does from the second on."""
    command = [sys.executable, "-m", "harness.cli", *arguments]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return best(lambda: subprocess.run(command, cwd=ROOT, env=env, check=False, stdout=subprocess.DEVNULL))


def growth(copies: int) -> float:
    """Milliseconds per case and back end of `callconv run` on `copies` times the suite, start-up included."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(copies):
            shutil.copytree(ROOT / "cases", Path(folder) / str(number))
        loaded = sum(len(load_file(path).cases) for path in find_files([Path(folder)]))
        seconds = cold_start(["run", folder, "--reports", str(Path(folder) / "reports")])
    return seconds / loaded / len(BUILT_IN) * 1e3


def main() -> None:
    """Prints the figures."""
    files = find_files([ROOT / "cases"])
    cases = [case for path in files for case in load_file(path).cases if case.traced is None]
    accepted = [case for case in cases if case.expect.verdict == "accept"]
    load = best(lambda: [load_file(path) for path in files])
    print(f"cases                     {len(cases)} ({len(accepted)} accepted)")
    print(f"load, ms per case         {load / len(cases) * 1e3:.3f}   (bar of the format: none)")
    verify = best(lambda: [Verifier().verify(case.assembled.prog) for case in cases])
    print(f"verify, ms per case       {verify / len(cases) * 1e3:.3f}")
    for backend in make_backends(None):
        run_all(cases[:1], backend)
        seconds = best(lambda backend=backend: run_all(accepted, backend))  # type: ignore[misc]
        print(f"{backend.name:<12} ms per case  {seconds / len(accepted) * 1e3:.3f}   (verify, run, all checks; bar 2)")
    one = f"{cases[0].file}::{cases[0].name}"
    print(f"cold start, one case, s   {cold_start(['run', one]):.3f}   (three back ends, reports written; bar 0.3)")
    print(f"cold start, one back end  {cold_start(['run', one, '--backend', 'jit-arm64']):.3f}")
    for copies in (1, 2, 4, 8):
        print(f"whole run, {copies} x the suite  {growth(copies):.3f} ms per case and back end")


if __name__ == "__main__":
    main()
