"""How fast a real Linux judges: `python -m benchmarks.linux [x86_64|arm64 ...]`; needs `callconv kernel fetch`."""

import sys
import time
from pathlib import Path

from backends.linux import here
from backends.linux.differs import load_differences
from backends.linux.settings import Settings
from harness.case import find_files, load_file
from harness.plugins import make_backends
from harness.suite import Suite

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 3


def main(arches: list[str]) -> None:
    """Prints the seconds of a boot and cases per second: the kernel's part alone, and judged in full."""
    files = find_files([ROOT / "cases"])
    cases = [case for path in files for case in load_file(path, shown=str(path.relative_to(ROOT))).cases]
    cases = [case for case in cases if case.traced is None]
    for arch in arches:
        boots = []
        for _ in range(ROUNDS):
            guest = here.boot_guest(arch, Settings())
            boots.append(guest.boot_seconds)
            guest.close()
        usable = [case for case in cases if not load_differences().crashes(case.id, arch)]
        (backend,) = make_backends([f"linux-{arch}"])
        suite = Suite()
        suite.announce(usable, [backend])
        suite.judge(usable[0], backend)  # boots it
        rates = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            statuses = [suite.judge(case, backend).status for case in usable]
            rates.append(len(usable) / (time.perf_counter() - started))
            assert set(statuses) == {"passed"}, set(statuses)
        (recorded,) = make_backends([f"golden-{arch}"])
        started = time.perf_counter()
        for case in usable:
            suite.judge(case, recorded)
        golden = len(usable) / (time.perf_counter() - started)
        print(
            f"{arch}: boot {min(boots):.2f} to {max(boots):.2f} s; {len(usable)} cases, judged in full: "
            f"{min(rates):.0f} to {max(rates):.0f} cases/s; from the record {golden:.0f} cases/s"
        )


if __name__ == "__main__":
    main(sys.argv[1:] or ["x86_64", "arm64"])
