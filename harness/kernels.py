"""The commands about a real Linux: `callconv kernel`, `callconv golden`, `callconv compare`."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from backends.base import Died, Job, Unsupported
from backends.image import Compiler
from backends.linux import golden, here
from backends.linux.apt import FetchError
from backends.linux.attach import Made
from backends.linux.backend import LinuxBackend, Live, Source
from backends.linux.fetch import fetch, kernels, verify
from backends.linux.guest import COMMAND_LINE, MACHINES
from backends.linux.settings import Settings
from backends.linux.tracing import Asked, LinuxTracer, difference, request_of
from backends.trampoline import RefusedError
from backends.trampoline_bench import Scenario
from harness.case import Case
from harness.compare import Part, compare
from harness.plugins import InputRefusedError, make_backends, settings_of
from verifier.verdict import Accepted
from verifier.verify import Verifier

ARCHES: Final = ("x86_64", "arm64")
DEFAULT_SUITE: Final = "sid"  # the first Debian suite that had Linux 7.2

Say = Callable[[str], None]


def fetch_kernels(options: argparse.Namespace, say: Say) -> None:
    """`callconv kernel fetch`. Raises InputRefusedError."""
    try:
        found = fetch(Settings().cache, options.suite, options.arch or ARCHES, say)
    except FetchError as error:
        raise InputRefusedError(str(error)) from error
    for image in found:
        say(f"{image.arch}: {image.package} {image.version} from {image.suite}, sha256 {image.sha256}")


def list_kernels(say: Say) -> None:
    """`callconv kernel list`."""
    found = kernels(Settings().cache)
    for image in found:
        state = "" if verify(image) else " (damaged: fetch it again)"
        say(f"{image.arch}: {image.package} {image.version} from {image.suite}{state}")
    if not found:
        say("no kernel is in the cache; `callconv kernel fetch` gets some")


def update_golden(options: argparse.Namespace, cases: Sequence[Case], say: Say, *, whole: bool) -> None:
    """`callconv golden update`: asks each kernel about every case. Raises InputRefusedError."""
    programs = [case for case in cases if case.traced is None]
    calls = [case.traced.call for case in cases if case.traced is not None]
    for arch in options.arch or ARCHES:
        source = here.guest(arch, settings_of(options))
        try:
            if programs:
                _update(arch, source, programs, say, whole=whole)
            if calls:
                _update_trampolines(arch, source, calls, say, whole=whole)
        finally:
            source.close()


def _head(arch: str, source: Source) -> dict[str, Any]:
    return {"arch": arch, "release": source.release, "command_line": COMMAND_LINE, "cpu": MACHINES[arch].cpu}


def _update_trampolines(arch: str, source: Live, calls: Sequence[Scenario], say: Say, *, whole: bool) -> None:
    path = golden.trampolines_of(golden.path_of(arch))
    before = golden.read(path, "trampolines")["trampolines"] if path.exists() else {}
    rows = {} if whole else dict(before)
    requests = {request_of(call): call for call in calls}
    source.announce_trampolines(requests)
    changed = 0
    for request, call in requests.items():
        made, name = source.trampoline(request), golden.key_of(request)
        if isinstance(made, Unsupported | Died):
            raise InputRefusedError(f"{name}: Linux for {arch} gives no answer: {made.reason}")
        old = golden.to_made(before[name]) if name in before else None
        same = old is not None and _same_made(arch, old, made, call)
        changed += old is not None and not same
        rows[name] = before[name] if same else golden.from_made(made)
    golden.write(path, _head(arch, source), rows, "trampolines")
    new, gone = len(rows.keys() - before.keys()), len(before.keys() - rows.keys())
    say(
        f"{arch}: Linux {source.release} made {len(requests)} trampolines: {new} new, {changed} changed, {gone} gone; {path.name} is written"
    )


def _same_made(arch: str, old: Made, new: Made, call: Scenario) -> bool:
    """Whether they differ in nothing but addresses, which each boot has elsewhere; ours are the same for the same addresses."""
    if isinstance(old, RefusedError) or isinstance(new, RefusedError):
        return old == new
    return difference(arch, old, call) == difference(arch, new, call) == ""


def _update(arch: str, source: Source, cases: Sequence[Case], say: Say, *, whole: bool) -> None:
    source.announce([body for case in cases for body in case.kfuncs])
    path = golden.path_of(arch)
    data = golden.read(path) if path.exists() else {"cases": {}, "release": None}
    before: dict[str, Any] = data["cases"]
    rows = {} if whole else dict(before)
    for job in (job for case in cases for job in _jobs(case)):
        reply = source.reply(job)
        if isinstance(reply, Unsupported) and reply.told:
            rows.pop(job.case, None)
            continue
        row = golden.to_record(job, reply)
        if row is None:
            reason = reply.reason if isinstance(reply, Unsupported) else "no reply"
            raise InputRefusedError(f"{job.case}: Linux for {arch} gives no answer: {reason}")
        old = before.get(job.case)
        rows[job.case] = old if old and data["release"] == source.release and _moved_maps(job, old, row) else row
    head = _head(arch, source)
    golden.write(path, head, rows)
    changed = sum(name in before and before[name] != row for name, row in rows.items())
    new, gone = len(rows.keys() - before.keys()), len(before.keys() - rows.keys())
    say(
        f"{arch}: Linux {source.release} on {len(cases)} cases: {new} new, {changed} changed, {gone} gone; {path.name} is written"
    )


def _jobs(case: Case) -> Iterator[Job]:
    """What a case puts to a kernel: one program, or each run of its steps."""
    verdict = Verifier().verify(case.assembled.prog) if case.scenes else None
    verified = verdict.verified if isinstance(verdict, Accepted) else None
    job = Job(case.assembled.prog, verified, case.ctx, case.kfuncs, case=case.id, since=case.since)
    if case.scenes:
        yield from (scene.job(job) for scene in case.scenes)
    else:
        yield job


def _moved_maps(job: Job, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether only native code differs, of a program with maps: each boot has them elsewhere, with more or fewer MOVs on arm64."""
    code = ("funcs", "insns")
    rest = [{key: value for key, value in row.items() if key not in code} for row in (old, new)]
    return bool(job.prog.maps) and rest[0] == rest[1]


def compare_cases(options: argparse.Namespace, cases: Sequence[Case], say: Say) -> bool:
    """`callconv compare`: whether ours and Linux's are the same in every part of every case."""
    same = True
    for arch in options.arch or ARCHES:
        source = _source(arch, options)
        try:
            source.announce([body for case in cases for body in case.kfuncs])
            calls = [case.traced.call for case in cases if case.traced is not None]
            tracer = LinuxTracer(arch, source) if calls and isinstance(source, Asked) else None
            if tracer is not None:
                tracer.announce(calls)
            compiler = _compiler(arch)
            for case in cases:
                parts = [_trampoline(case, tracer)] if case.traced is not None else compare(case, source, compiler)
                say(f"{case.id} ({arch}, Linux {source.release or 'not there'})")
                _print_parts(parts, say, quiet=options.quiet)
                same = same and all(part.same for part in parts)
        finally:
            source.close()
    return same


def _trampoline(case: Case, tracer: LinuxTracer | None) -> Part:
    """A trampoline, ours as Linux makes it and a kernel's; it is the same byte by byte, or the first insn that is not is shown."""
    assert case.traced is not None
    found = "Linux  makes no trampolines here" if tracer is None else tracer.difference(case.traced.call)
    return Part("trampoline", not found, tuple(found.split("\n")) if found else ("made or refused alike",))


def _source(arch: str, options: argparse.Namespace) -> Source:
    if not options.golden:
        return here.guest(arch, settings_of(options))
    (backend,) = make_backends([f"golden-{arch}"])
    assert isinstance(backend, LinuxBackend)
    return backend.source


def _compiler(arch: str) -> Compiler:
    """As Debian configures its kernels: landing pads on x86-64, signed return addresses and none on arm64."""
    from backends.arm64.jit import Arm64Jit
    from backends.arm64.jit import Options as Arm64Options
    from backends.x86_64.jit import X8664Jit

    return Arm64Jit(Arm64Options(bti=False)) if arch == "arm64" else X8664Jit()


def _print_parts(parts: Sequence[Part], say: Say, *, quiet: bool) -> None:
    for part in parts:
        if part.same and quiet:
            continue
        say(f"  {part.name}: {'same' if part.same else 'DIFFERS'}{f' ({part.lines[0]})' if part.same else ''}")
        for line in () if part.same else part.lines:
            say(f"    {line}")
