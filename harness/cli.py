"""The command `callconv`. Exit status: 0 all passed, 1 a case failed, 2 the input or the command line is wrong."""

import argparse
import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from backends.base import Backend, OwnFileError, Ran, Referee, Refused
from harness import abi_command
from harness.case import Case, CaseError, find_files, load_file
from harness.check import verdict_mismatches, where_of
from harness.listing import FORMS, Form, bpf_rows, frame_lines, listing_lines, native_rows, text_form, value_text
from harness.objects import SUFFIX, load_objects
from harness.plugins import (
    BACKENDS,
    BUILT_IN,
    InputRefusedError,
    UnknownBackendError,
    make_backends,
    settings_of,
)
from harness.report import Record, counts, error_record, failure_lines, record_of, report_data, write_reports
from harness.suite import Result, Suite, pairs, unexecuted
from verifier.verdict import Accepted, Rejected
from verifier.verify import Verifier

if TYPE_CHECKING:
    from backends.oracle.compilers import Compiler

ROOT: Final = Path(__file__).resolve().parent.parent
PASSED, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
ALL_COMPILERS: Final = "all"
MAX_SHOWN: Final = 20  # failures on the terminal; the reports hold all


class InputError(Exception):
    """What the user gave cannot be used; the message says what and why."""


@dataclass(slots=True)
class Loaded:
    """The cases of some paths, and the errors of those that cannot be read."""

    cases: list[Case] = field(default_factory=list)
    errors: list[CaseError] = field(default_factory=list)


def shown(path: Path) -> str:
    """A path as reports name it: from the checkout's root, where it lies inside."""
    resolved = path.resolve()
    return str(resolved.relative_to(ROOT)) if resolved.is_relative_to(ROOT) else str(path)


def load(paths: Sequence[str], word: str | None = None, section: str | None = None) -> Loaded:
    """The cases of files, folders, and `FILE::CASE`; of objects those of a section. Raises InputError where there is none."""
    loaded = Loaded()
    for text in paths or [str(ROOT / "cases")]:
        name, _, wanted = text.partition("::")
        for path in find_files([Path(name)]):
            file = load_objects(path, shown(path)) if path.suffix == SUFFIX else load_file(path, shown=shown(path))
            loaded.errors += file.errors
            found = [
                case for case in file.cases if not wanted or case.name == wanted or case.name.split("@")[0] == wanted
            ]
            if wanted and not found and not file.errors:
                raise InputError(
                    f"{shown(path)} has no case {wanted!r}; it has: {', '.join(c.name for c in file.cases)}"
                )
            loaded.cases += found
    if section is not None:
        known = sorted({case.section for case in loaded.cases if case.section})
        loaded.cases = [case for case in loaded.cases if case.section == section]
        if not loaded.cases and not loaded.errors:
            raise InputError(
                f"no program is in a section {section!r}; sections: {', '.join(known) or 'none, these are no objects'}"
            )
    if word is not None:
        loaded.cases = [case for case in loaded.cases if word.lower() in f"{case.file}::{case.name}".lower()]
    if not loaded.cases and not loaded.errors:
        raise InputError(f"no case matches -k {word}" if word else "there is no case in " + " ".join(paths))
    return loaded


def run(options: argparse.Namespace) -> int:
    """`callconv run`: every case on every back end, the matrix, and reports/."""
    backends = make_backends(options.backend, settings_of(options))
    if options.format != "yaml":
        return _run_data_files(options, backends)
    loaded = load(options.paths, options.word, options.section)
    suite, results, records = Suite(), list[Result](), list[Record]()
    interrupted = False
    suite.announce(loaded.cases, backends)
    gc.freeze()  # what is loaded by now stays; collecting it again and again costs a tenth of the run
    try:
        judged = list(pairs(loaded.cases, backends))
        left_out = len(loaded.cases) - len({id(case) for case, _ in judged})
        if left_out:
            say(f"{left_out} trampolines are left out: {', '.join(b.name for b in backends)} makes none")
        for case, backend in judged:
            result = suite.judge(case, backend)
            results.append(result)
            records.append(record_of(result))
    except KeyboardInterrupt:
        interrupted = True
    errors = [error_record(error) for error in loaded.errors]
    _save(options, records, errors, interrupted=interrupted)
    _print_run(options, backends, records, loaded, interrupted=interrupted)
    return _status(results, loaded, interrupted=interrupted, allow_skips=options.allow_skips)


def _run_data_files(options: argparse.Namespace, backends: list[Backend]) -> int:
    """Test files of bpf_conformance instead of cases."""
    from harness.datafile import case_of, find_data_files, judge, read_data_file

    if not options.paths:
        raise InputError("--format bpf-conformance: name files or folders")
    loaded, results, records = Loaded(), list[Result](), list[Record]()
    interrupted = False
    try:
        for path in find_data_files([Path(text) for text in options.paths]):
            if options.word is not None and options.word.lower() not in str(path).lower():
                continue
            try:
                data = read_data_file(path, shown(path))
            except CaseError as error:
                loaded.errors.append(error)
                continue
            loaded.cases.append(case_of(data))
            found = judge(data, backends)
            results += found
            records += [record_of(result) for result in found]
    except KeyboardInterrupt:
        interrupted = True
    if not loaded.cases and not loaded.errors:
        raise InputError(f"no file matches -k {options.word}")
    _save(options, records, [error_record(error) for error in loaded.errors], interrupted=interrupted)
    _print_run(options, backends, records, loaded, interrupted=interrupted)
    return _status(results, loaded, interrupted=interrupted, allow_skips=options.allow_skips)


def _save(options: argparse.Namespace, records: list[Record], errors: list[Record], *, interrupted: bool) -> None:
    command = " ".join(["callconv", *sys.argv[1:]])
    try:
        if options.json:
            data = report_data(records, errors, interrupted=interrupted, command=command)
            Path(options.json).write_text(json.dumps(data, indent=1), encoding="utf-8")
        if options.reports:
            write_reports(Path(options.reports), records, errors, interrupted=interrupted, command=command)
    except OSError as error:
        raise InputError(f"the reports cannot be written: {error}") from error


def _status(results: list[Result], loaded: Loaded, *, interrupted: bool, allow_skips: bool) -> int:
    if interrupted:
        return INTERRUPTED
    if loaded.errors:
        return WRONG_INPUT
    bad = any(result.status in ("failed", "error") for result in results)
    skipped = any(result.status == "skipped" and not result.told for result in results)
    return FAILED if bad or (skipped and not allow_skips) or unexecuted(results) else PASSED


def _print_run(
    options: argparse.Namespace, backends: list[Backend], records: list[Record], loaded: Loaded, *, interrupted: bool
) -> None:
    from harness.terminal import print_matrix, print_plain

    for error in loaded.errors:
        print_plain(str(error), "red")
    bad = [record for record in records if record["status"] in ("failed", "error")]
    for record in bad[:MAX_SHOWN]:
        print_plain("\n".join(failure_lines(record)), "red")
    if len(bad) > MAX_SHOWN:
        print_plain(f"... and {len(bad) - MAX_SHOWN} more failures: see {options.reports or 'the JSON'}", "red")
    print_matrix(records, [backend.name for backend in backends], by_case=options.verbose)
    for backend in backends:
        if isinstance(backend, Referee):
            print_plain(f"{backend.name}: {backend.describe()}")
    for status in ("differs", "skipped"):
        for reason in sorted({record["reason"] for record in records if record["status"] == status}):
            number = sum(record["reason"] == reason for record in records if record["status"] == status)
            print_plain(f"{status} {number}: {reason}", "yellow")
    print_plain(_summary(records, loaded, options), "red" if bad or loaded.errors or interrupted else "green")
    if interrupted:
        done = len({(record["file"], record["case"]) for record in records})
        print_plain(f"interrupted: {done} of {len(loaded.cases)} cases had begun; what they gave is reported", "red")


def _summary(records: list[Record], loaded: Loaded, options: argparse.Namespace) -> str:
    total = counts(records)
    rejected = sum(r["status"] == "passed" and r["verdict"] == "reject" for r in records)
    text = f"{len(loaded.cases)} cases: {total['passed']} passed ({rejected} of them rightly rejected), {total['failed']} failed"
    text += f", {total['error']} errors" if total["error"] else ""
    text += f", {total['differs']} differ as stated" if total["differs"] else ""
    text += f", {total['skipped']} skipped"
    text += f", {len(loaded.errors)} unreadable" if loaded.errors else ""
    return f"{text}; reports in {shown(Path(options.reports))}/" if options.reports else text


def _one_case(text: str, section: str | None = None) -> Case:
    """A case by `FILE::CASE`, by the only program of an object's section, or by a name that only one case of the suite has."""
    found = _named(text, section)
    if len(found) > 1:
        names = ", ".join(f"{case.file}::{case.name}" for case in found)
        raise InputError(f"{text!r} names {len(found)} cases: {names}")
    return found[0]


def show(options: argparse.Namespace) -> int:
    """`callconv show`: one case on one back end: listing, frames, call trace."""
    (backend,) = make_backends([options.backend], settings_of(options))
    case = _one_case(options.case, options.section)
    suite = Suite(detail=True)
    suite.announce([case], [backend])
    result = suite.judge(case, backend)
    say(f"{case.file}:{case.line}: {case.name} ({backend.name})")
    say(f"  {case.about}")
    say(f"  spec    {'; '.join(case.spec)}")
    if case.traced is not None and (tracer := getattr(backend, "tracer", None)) is not None:
        from backends.trampoline import Mode
        from harness.traced import listing

        for line in ["", *listing(case.traced, tracer, Mode(options.mode)), ""]:
            say(line)
    else:
        _show_listing(result, text_form(options.form))
        _show_run(result)
        for line in result.steps:
            say(line)
    for line in failure_lines(record_of(result))[1:] if result.status in ("failed", "error") else []:
        say(line)
    say(f"{result.status}{': ' + result.reason if result.status == 'skipped' else ''}")
    return PASSED if result.status == "passed" else FAILED


def jit(options: argparse.Namespace) -> int:
    """`callconv jit`: the native code of one program, which is not run."""
    from harness.jit_command import compilers, show_native

    case = _one_case(options.case, options.section)
    if case.traced is not None:
        raise InputError(f"{case.id} is a trampoline: `callconv show` prints its native code")
    return PASSED if show_native(case, compilers(options), say, text_form(options.form), as_hex=options.hex) else FAILED


def btf(options: argparse.Namespace) -> int:
    """`callconv btf`: the types of an object as C."""
    from harness.isa.btfc import c_lines
    from harness.isa.btfread import BtfError
    from harness.isa.elf import MAX_BYTES, ElfError, load_types

    try:
        with Path(options.file).open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        lines = c_lines(load_types(raw))
    except OSError as error:
        raise InputError(f"{options.file}: cannot be read: {error.strerror or error}") from error
    except (ElfError, BtfError) as error:
        raise InputError(f"{options.file}: {error}") from error
    for line in lines:
        say(line)
    return PASSED


def _show_listing(result: Result, form: Form) -> None:
    outcome = result.outcome
    image = outcome.image if isinstance(outcome, Ran) else None
    lines = result.case.lines
    rows = bpf_rows(result.case.assembled.prog, lines, form) if image is None else native_rows(image, lines, form)
    for line in listing_lines(rows):
        say(line)


def _show_run(result: Result) -> None:
    verdict, outcome = result.verdict, result.outcome
    if isinstance(outcome, Refused):
        say(f"rejected: {outcome.message} (errno {outcome.errno})")
        say(f"  where   {where_of(result.case.assembled.prog, outcome.insn) or 'the whole program'}")
    elif isinstance(verdict, Rejected) and not isinstance(outcome, Ran):
        say(f"rejected ({verdict.rule}): {verdict.message}")
        say(f"  where   {where_of(result.case.assembled.prog, verdict.insn) or 'the whole program'}")
    if isinstance(outcome, Ran):
        for number, call in enumerate(outcome.calls, 1):
            say(f"call {number}: {call.callee}({', '.join(value_text(arg) for arg in call.args)})")
        for view in outcome.frames:
            for line in frame_lines(view):
                say(line)
        say(f"retval = {value_text(outcome.retval)}")
        for violation in outcome.violations:
            say(f"broken: {violation.check}: {violation.message}")


def verify(options: argparse.Namespace) -> int:
    """`callconv verify`: the verifier's log of every case of a file; 1 where a verdict is not the expected one."""
    loaded = load([options.file], section=options.section)
    for error in loaded.errors:
        print(error, file=sys.stderr)  # noqa: T201
    wrong = 0
    for case in loaded.cases:
        if case.traced is not None:
            continue
        verdict = Verifier(log_level=options.level).verify(case.assembled.prog)
        say(f"# {case.file}:{case.line}: {case.name}")
        say(verdict.log.rstrip("\n"))
        say(f"# {'accept' if isinstance(verdict, Accepted) else f'reject ({verdict.rule}, errno {verdict.errno})'}")
        for mismatch in verdict_mismatches(case, verdict):
            wrong += 1
            say(f"#   expect  {mismatch.expect}\n#   got     {mismatch.got}")
        say("")
    return WRONG_INPUT if loaded.errors else FAILED if wrong else PASSED


def kernel(options: argparse.Namespace) -> int:
    """`callconv kernel fetch` and `callconv kernel list`."""
    from harness import kernels

    if options.action == "fetch":
        kernels.fetch_kernels(options, say)
    else:
        kernels.list_kernels(say)
    return PASSED


def golden(options: argparse.Namespace) -> int:
    """`callconv golden update`: what a Linux says of every case, put on record."""
    from harness import kernels

    loaded = _readable(options.paths)
    kernels.update_golden(options, loaded.cases, say, whole=not options.paths)
    return PASSED


def compare(options: argparse.Namespace) -> int:
    """`callconv compare`: ours and Linux's side by side; 1 where something differs."""
    from harness import kernels

    cases = [case for text in options.cases for case in _named(text)]
    return PASSED if kernels.compare_cases(options, cases, say) else FAILED


def sweep(options: argparse.Namespace) -> int:
    """`callconv sweep`: the random programs of a range of seeds on every back end; 1 where something differs."""
    from harness.sweep import sweep as swept_by

    first, last = _seeds(options.seeds)
    backends = make_backends(options.backend, settings_of(options))
    swept = swept_by(first, last, backends)
    for result in swept.wrong:
        say("\n".join(failure_lines(record_of(result))))
        say(f"  again   callconv sweep {result.case.name.removeprefix('seed-')} --backend {result.backend}")
    rate = swept.programs / swept.seconds
    say(
        f"{swept.programs} programs, {swept.accepted} accepted, {len(swept.wrong)} differences; {swept.seconds:.1f} s, {rate:.0f} programs/s"
    )
    return FAILED if swept.wrong else PASSED


def abi_sweep(options: argparse.Namespace) -> int:
    """`callconv abi-sweep`: random prototypes through C compilers; 1 where one differs from the layouts without a reason on record."""
    from backends.oracle.compilers import CompilerError
    from harness.abi_sweep import abi_sweep as swept_by

    try:
        return PASSED if swept_by(*_seeds(options.seeds), options.compiler or (), options.jobs, say) else FAILED
    except CompilerError as error:
        raise InputError(str(error)) from error


def trampoline_sweep(options: argparse.Namespace) -> int:
    """`callconv trampoline-sweep`: prototypes through trampolines, ours and a Linux's; 1 where one is wrong."""
    from backends.trampoline import Target
    from harness.trampoline_sweep import sweep as swept_by

    backends = make_backends(options.backend, settings_of(options)) if options.backend else []
    if idle := [backend.name for backend in backends if not backend.name.startswith("linux-")]:
        raise InputError(f"--backend {idle[0]}: only linux-x86_64 and linux-arm64 make trampolines besides ours")
    first, last = _seeds(options.seeds)
    if not first:
        raise InputError("SEEDS of trampolines count from 1")
    compilers = _compilers(options.compiler) if options.compiler else []
    if compilers and options.target != Target.KERNEL.value:
        raise InputError("--compiler goes with --target kernel: nothing else is called by C")
    return PASSED if swept_by(first, last, backends, say, Target(options.target), compilers) else FAILED


def _compilers(commands: Sequence[str]) -> "list[Compiler]":
    """Those named; `all` is those that are here."""
    from backends.oracle.compilers import CompilerError, find_compilers

    try:
        named = [command for command in commands if command != ALL_COMPILERS]
        found = [*(find_compilers() if named != commands else []), *(find_compilers(named) if named else [])]
    except CompilerError as error:
        raise InputError(str(error)) from error
    if not found:
        what = "is no gcc or clang for arm64 or x86-64" if named else "no gcc or clang for arm64 or x86-64 is here"
        raise InputError(f"--compiler {commands[0]}: {what}")
    return list({str(one): one for one in found}.values())


def tail_sweep(options: argparse.Namespace) -> int:
    """`callconv tail-sweep`: random graphs of programs that tail call each other; 1 where something differs."""
    from harness.tail_sweep import ENGINES
    from harness.tail_sweep import tail_sweep as swept_by

    first, last = _seeds(options.seeds)
    if options.cases:
        from harness.tail_cases import case_file

        try:
            Path(options.cases).write_text(case_file(range(first, last + 1)), encoding="utf-8")
        except OSError as error:
            raise InputError(f"--cases {options.cases}: {error.strerror or error}") from error
        return PASSED
    backends = make_backends(options.backend or ENGINES, settings_of(options))
    return PASSED if swept_by(first, last, backends, options.jobs, say) else FAILED


def stats(options: argparse.Namespace) -> int:
    """`callconv stats`: what a tail call reads, counted in every lowering and form."""
    from backends.linux.backend import LinuxBackend
    from harness.tail_stats import LEGEND, RefusedError, as_json, rows, table
    from harness.terminal import print_table

    backends = make_backends(options.backend, settings_of(options)) if options.backend else []
    kernels = [backend for backend in backends if isinstance(backend, LinuxBackend)]
    if idle := [backend.name for backend in backends if backend not in kernels]:
        raise InputError(f"--backend {idle[0]}: it is no kernel; ours are counted anyway")
    try:
        found = list(rows(kernels))
    except RefusedError as error:
        raise InputError(str(error)) from error
    if options.json:
        say(as_json(found))
        return PASSED
    print_table(*table(found))
    say(LEGEND)
    return PASSED


def _seeds(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not (first.isdigit() and (last.isdigit() if dash else True)) or int(last or first) < int(first):
        raise InputError(f"SEEDS is N, or FIRST-LAST, found {text!r}")
    return int(first), int(last or first)


def coverage(options: argparse.Namespace) -> int:
    """`callconv coverage`: which insns the cases have, and on which engines they pass; 1 where one has none."""
    from harness.coverage import covered, report_lines

    rows = covered(_readable(options.paths).cases, make_backends(None))
    for line in report_lines(rows, every=options.verbose):
        say(line)
    return PASSED if all(row.is_covered for row in rows) else FAILED


def _readable(paths: Sequence[str], section: str | None = None) -> Loaded:
    loaded = load(paths, section=section)
    if loaded.errors:
        raise InputError("\n".join(str(error) for error in loaded.errors))
    return loaded


def _named(text: str, section: str | None = None) -> list[Case]:
    """The cases of a path, or the variants of a case that is named without its file."""
    if "::" in text or Path(text).exists():
        return _readable([text], section).cases
    found = [case for case in _readable([]).cases if text in (case.name, case.name.split("@")[0])]
    if not found:
        raise InputError(f"there is no case {text!r}; `callconv run -k WORD -v` lists cases by name")
    return found


def say(text: str) -> None:
    """One line of output."""
    print(text)  # noqa: T201


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_INPUT, f"callconv: {message}\n{self.format_usage()}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(
        prog="callconv", description="The conformance suite for the BPF calling convention.", allow_abbrev=False
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = ", ".join(BACKENDS)

    runs = commands.add_parser("run", help="run cases on back ends and write reports/", allow_abbrev=False)
    runs.add_argument("paths", nargs="*", metavar="PATH", help="case files, folders, FILE::CASE (default: cases/)")
    _backend_option(runs, f"a back end, may be repeated (default: {', '.join(BUILT_IN)}; all: {names})")
    runs.add_argument(
        "--format", choices=("yaml", "bpf-conformance"), default="yaml", help="what PATH holds (default: yaml cases)"
    )
    _section_option(runs)
    runs.add_argument("-k", dest="word", metavar="WORD", help="only cases whose FILE::NAME contains WORD")
    runs.add_argument("--json", metavar="FILE", help="write the results to FILE as well")
    runs.add_argument(
        "--reports", metavar="DIR", default=str(ROOT / "reports"), help="where reports go (default: reports/)"
    )
    runs.add_argument("--no-reports", dest="reports", action="store_const", const=None, help="write no reports")
    runs.add_argument("--allow-skips", action="store_true", help="a skipped case does not fail the run")
    runs.add_argument("-v", "--verbose", action="store_true", help="a line per case, not per file")
    _kernel_options(runs)
    runs.set_defaults(do=run)

    shows = commands.add_parser("show", help="one case: listing, frame, call trace", allow_abbrev=False)
    shows.add_argument("case", metavar="CASE", help="a case's name, or FILE::CASE")
    _section_option(shows)
    _form_option(shows)
    shows.add_argument("--backend", required=True, metavar="NAME", help=names)
    shows.add_argument(
        "--mode",
        choices=("full", "linux"),
        default="full",
        help="the trampoline as the ABI asks, or as Linux 7.2 makes it",
    )
    _kernel_options(shows)
    shows.set_defaults(do=show)

    jits = commands.add_parser("jit", help="one program's native code, not run", allow_abbrev=False)
    jits.add_argument("case", metavar="CASE", help="a case's name, FILE::CASE, or OBJ.o::FUNCTION")
    _section_option(jits)
    _form_option(jits)
    _jit_arguments(jits)
    jits.set_defaults(do=jit)

    verifies = commands.add_parser("verify", help="the verifier's log of every case of a file", allow_abbrev=False)
    verifies.add_argument("file", metavar="FILE", help="a case file, or FILE::CASE")
    _section_option(verifies)
    verifies.add_argument("--level", type=int, choices=(0, 1, 2), default=2, help="how much the log tells (default: 2)")
    verifies.set_defaults(do=verify)
    btfs = commands.add_parser("btf", help="the types of an object as C", allow_abbrev=False)
    btfs.add_argument("file", metavar="FILE", help="an ELF object with a section .BTF, or BTF by itself")
    btfs.set_defaults(do=btf)
    abis = commands.add_parser("abi", help=abi_command.ABOUT, allow_abbrev=False)
    abi_command.add_arguments(abis)
    abis.set_defaults(do=abi_command.run)
    _linux_commands(commands)
    return top


def _section_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--section", metavar="NAME", help="only programs of this section of an object")


def _form_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--form", choices=FORMS, default="log", help="insns as the verifier's log has them, or as llvm-objdump"
    )


def _jit_arguments(command: argparse.ArgumentParser) -> None:
    _arch_option(command)
    command.add_argument(
        "--hex", action="store_true", help="the bytes in hex, a line for each architecture, and nothing else"
    )
    command.add_argument("--no-bmi2", action="store_true", help="x86-64 without BMI2's shifts")
    command.add_argument("--no-ibt", action="store_true", help="x86-64 without ENDBR64 landing pads")
    command.add_argument("--no-lse", action="store_true", help="arm64 with LL/SC in place of LSE atomics")
    command.add_argument("--no-bti", action="store_true", help="arm64 without BTI landing pads")
    command.add_argument("--no-pac", action="store_true", help="arm64 without signed return addresses")


def _kernel_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--kernel", action="append", type=Path, metavar="IMAGE", help="a bzImage or Image for linux-x86_64, linux-arm64"
    )
    command.add_argument("--qemu", metavar="PROGRAM", help="the qemu-system-ARCH to run it in")


def _linux_commands(commands: "argparse._SubParsersAction[_Parser]") -> None:
    kernels = commands.add_parser("kernel", help="fetch or list Linux images to judge with", allow_abbrev=False)
    actions = kernels.add_subparsers(dest="action", required=True, metavar="ACTION")
    fetches = actions.add_parser("fetch", help="Linux 7.2 or newer, QEMU and what else is missing, into .cache/linux")
    fetches.add_argument("suite", nargs="?", default="sid", help="a Debian suite (default: sid)")
    _arch_option(fetches)
    actions.add_parser("list", help="what has been fetched")
    kernels.set_defaults(do=kernel)

    goldens = commands.add_parser("golden", help="put on record what a Linux answers", allow_abbrev=False)
    actions = goldens.add_subparsers(dest="action", required=True, metavar="ACTION")
    updates = actions.add_parser("update", help="ask about every case, or some, and write backends/linux/golden/")
    updates.add_argument("paths", nargs="*", metavar="PATH", help="case files, folders, FILE::CASE (default: cases/)")
    _arch_option(updates)
    _kernel_options(updates)
    goldens.set_defaults(do=golden)

    sweeps = commands.add_parser("sweep", help="random programs on every back end", allow_abbrev=False)
    _seeds_argument(sweeps, "a seed, or FIRST-LAST: one program each")
    _backend_option(sweeps, f"may be repeated (default: {', '.join(BUILT_IN)})")
    _kernel_options(sweeps)
    sweeps.set_defaults(do=sweep)

    prototypes = commands.add_parser("abi-sweep", help="random C prototypes through gcc and clang", allow_abbrev=False)
    _seeds_argument(prototypes, "a seed, or FIRST-LAST: one prototype each")
    prototypes.add_argument(
        "--compiler",
        action="append",
        metavar="COMMAND",
        help="a gcc or clang, may be repeated (default: those that are here)",
    )
    _jobs_option(prototypes, "one for each CPU")
    prototypes.set_defaults(do=abi_sweep)

    trampolines = commands.add_parser(
        "trampoline-sweep", help="prototypes through trampolines, ours and Linux's", allow_abbrev=False
    )
    _seeds_argument(trampolines, "a seed from 1, or FIRST-LAST: one call each")
    _backend_option(trampolines, "linux-x86_64, linux-arm64; may be repeated (default: none)")
    trampolines.add_argument(
        "--compiler",
        action="append",
        metavar="COMMAND",
        help=f"also between a caller and a function that this gcc or clang compiled; may be repeated; {ALL_COMPILERS}: those that are here",
    )
    trampolines.add_argument(
        "--target",
        choices=("kernel", "bpf", "struct_ops"),
        default="kernel",
        help="what is traced (default: functions of the kernel)",
    )
    _kernel_options(trampolines)
    trampolines.set_defaults(do=trampoline_sweep)

    graphs = commands.add_parser(
        "tail-sweep", help="random programs that tail call each other, in every lowering", allow_abbrev=False
    )
    _seeds_argument(graphs, "a seed, or FIRST-LAST: one graph of programs each")
    _backend_option(graphs, "may be repeated (default: interp and both JITs, each lowering)")
    graphs.add_argument("--cases", metavar="FILE", help="run nothing: write the graphs to FILE as cases")
    _jobs_option(graphs, "one for each CPU; 1 with a kernel")
    _kernel_options(graphs)
    graphs.set_defaults(do=tail_sweep)

    reads = commands.add_parser("stats", help="how often a tail call reads memory, by lowering", allow_abbrev=False)
    reads.add_argument("--json", action="store_true", help="as data, every part of a prog array by itself")
    _backend_option(reads, "a kernel's code as well: linux-x86_64, linux-arm64, linux-host")
    _kernel_options(reads)
    reads.set_defaults(do=stats)

    covers = commands.add_parser("coverage", help="which insns the cases have, and where they pass", allow_abbrev=False)
    covers.add_argument("paths", nargs="*", metavar="PATH", help="case files, folders, FILE::CASE (default: cases/)")
    covers.add_argument("-v", "--verbose", action="store_true", help="every insn, not only those that lack a case")
    covers.set_defaults(do=coverage)

    compares = commands.add_parser("compare", help="ours and Linux's side by side", allow_abbrev=False)
    compares.add_argument("cases", nargs="+", metavar="CASE", help="a case's name, FILE::CASE, a file or a folder")
    compares.add_argument("--golden", action="store_true", help="with the Linux on record, not a running one")
    compares.add_argument("-q", "--quiet", action="store_true", help="only what differs")
    _arch_option(compares)
    _kernel_options(compares)
    compares.set_defaults(do=compare)


def _seeds_argument(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("seeds", metavar="SEEDS", help=what)


def _backend_option(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--backend", action="append", metavar="NAME", help=what)


def _jobs_option(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument("--jobs", type=int, metavar="N", help=f"processes (default: {default})")


def _arch_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--arch", action="append", choices=("x86_64", "arm64"), help="one architecture (default: both)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; gives the exit status."""
    options = parser().parse_args(arguments)
    try:
        return int(options.do(options))
    except (InputError, InputRefusedError, UnknownBackendError, CaseError, OwnFileError) as error:
        print(f"callconv: {error}", file=sys.stderr)  # noqa: T201
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("callconv: interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; Python would complain at exit
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
