"""Random programs run alike in the interpreter and both JITs."""

from backends.base import Job, Outcome, Ran
from harness.plugins import make_backends
from harness.sweep import case_of, sweep

SEED = 20261120
PROGRAMS = 400


def test_accepted_programs_run_alike() -> None:
    swept = sweep(SEED, SEED + PROGRAMS - 1, make_backends(["interp", "jit-x86_64", "jit-arm64"]))
    assert [(result.case.name, result.backend, result.mismatches, result.reason) for result in swept.wrong] == []
    assert (swept.programs, swept.accepted > PROGRAMS // 5) == (PROGRAMS, True)


def test_a_seed_is_a_program() -> None:
    assert case_of(7).assembled == case_of(7).assembled
    assert case_of(7).assembled != case_of(8).assembled


class Off:
    """Gives another result than anybody else."""

    name, features = "off", frozenset[str]()

    def run(self, job: Job) -> Outcome:
        return Ran(0x0FF, job.ctx, job.reference.calls if job.reference else ())


def test_a_difference_is_seen_and_ends_the_sweep() -> None:
    swept = sweep(SEED, SEED + 1000, [Off()], stop_after=2)
    assert (len(swept.wrong), swept.programs < 1000) == (2, True)
    assert swept.wrong[0].mismatches[0].got == "retval = 255"
