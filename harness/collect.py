"""pytest items for YAML cases: file, case, back end, nested, so that every id selects what it names."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from backends.base import Backend
from harness.case import Case, CaseError, load_file
from harness.options import marker_of
from harness.plugins import BUILT_IN, RECORDED, make_backends, referees, settings_of
from harness.report import Record, error_record, failure_lines, record_of, write_reports
from harness.suite import Suite

_ROOT: Final = Path(__file__).resolve().parent.parent
_STATE = pytest.StashKey[tuple[Suite, list[Backend]]]()
_RECORD = pytest.StashKey[Record]()


def _state(config: pytest.Config) -> tuple[Suite, list[Backend]]:
    """One suite and one engine per back end, for the whole process."""
    if _STATE not in config.stash:
        settings = settings_of(config.option)
        kernels = referees(settings)[0] if config.getoption("--linux") else []
        names = config.getoption("--backend") or [*BUILT_IN, *RECORDED, *kernels]
        config.stash[_STATE] = Suite(), make_backends(names, settings)
    return config.stash[_STATE]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Which kernels judged, and why not the others."""
    if config.getoption("--linux") and terminalreporter.getreports(""):
        for line in referees(settings_of(config.option))[1]:
            terminalreporter.write_line(f"Linux as referee: {line}")


def pytest_collection_finish(session: pytest.Session) -> None:
    """The back ends hear of all that was selected."""
    suite, backends = _state(session.config)
    suite.announce(
        list({id(item.case): item.case for item in session.items if isinstance(item, CaseItem)}.values()), backends
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "CaseFile | None":
    """Case files: YAML below a folder `cases`, or named on the command line."""
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    named = any(Path(arg.split("::")[0]).resolve() == file_path for arg in parent.config.args)
    if named or file_path.is_relative_to(_ROOT / "cases"):
        return CaseFile.from_parent(parent, path=file_path)
    return None


class CaseFile(pytest.File):
    """A YAML file: its cases, and an item that fails for each part that cannot be read."""

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        """Cases first, then errors; one bad case does not lose the others."""
        inside = self.path.is_relative_to(_ROOT)
        loaded = load_file(self.path, shown=str(self.path.relative_to(_ROOT) if inside else self.path))
        for case in loaded.cases:
            yield CaseNode.from_parent(self, name=case.name, case=case)
        for error in loaded.errors:
            yield BadItem.from_parent(self, name=f"line-{error.line}", error=error)


class CaseNode(pytest.Collector):
    """A case: one item per back end."""

    def __init__(self, *, case: Case, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case

    def collect(self) -> Iterator[pytest.Item]:
        """In the order of the back ends; what is no case of the suite's own is not on record."""
        own = self.config.getoption("--backend") or self.path.is_relative_to(_ROOT / "cases")
        for backend in _state(self.config)[1]:
            if backend.name in RECORDED and not own:
                continue
            if self.case.traced is not None and not (hasattr(backend, "tracer") or self.config.getoption("--backend")):
                continue
            yield CaseItem.from_parent(self, name=backend.name, case=self.case, backend=backend)


class _FailedError(Exception):
    """Carries a failure's lines to repr_failure."""


class CaseItem(pytest.Item):
    """A case on a back end."""

    def __init__(self, *, case: Case, backend: Backend, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case, self.backend = case, backend
        self.add_marker("case")
        self.add_marker(marker_of(backend.name))
        self.user_properties += [("backend", backend.name), ("spec", "; ".join(case.spec)), ("case_line", case.line)]

    def runtest(self) -> None:
        """Runs it; a mismatch raises, a skip says why; a stated difference is an expected failure."""
        result = _state(self.config)[0].judge(self.case, self.backend)
        record = record_of(result)
        self.stash[_RECORD] = record
        self.user_properties.append(("verdict", record["verdict"] or ""))
        if result.status == "skipped":
            pytest.skip(result.reason)
        if result.status == "differs":
            pytest.xfail(result.reason)
        if result.status != "passed":
            raise _FailedError("\n".join(failure_lines(record)))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The five lines, without a traceback of ours."""
        if isinstance(excinfo.value, _FailedError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the case stands."""
        return self.path, self.case.line - 1, f"{self.case.name} {self.name}"


class BadItem(pytest.Item):
    """A case, or a whole file, that cannot be read: always fails."""

    def __init__(self, *, error: CaseError, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.error = error

    def runtest(self) -> None:
        """Fails."""
        raise _FailedError(str(self.error))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """`file:line:column: message`."""
        return str(excinfo.value) if isinstance(excinfo.value, _FailedError) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the error stands."""
        return self.path, self.error.line - 1, f"{self.path.name} {self.name}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Hangs the record on the report, which xdist carries to the controller."""
    report = yield
    if call.when == "call":
        if _RECORD in item.stash:
            setattr(report, "callconv", item.stash[_RECORD])  # noqa: B010
        elif isinstance(item, BadItem):
            setattr(report, "callconv_error", error_record(item.error))  # noqa: B010
    return report


class Collected:
    """Gathers the records in the process that reports, and writes them at the end."""

    def __init__(self, config: pytest.Config, folder: str) -> None:
        self.config, self.folder = config, folder
        self.records: list[Record] = []
        self.errors: list[Record] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for every report, from every worker."""
        if (record := getattr(report, "callconv", None)) is not None:
            self.records.append(record)
        if (error := getattr(report, "callconv_error", None)) is not None:
            self.errors.append(error)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Writes the reports, ordered as a serial run would."""
        self.records.sort(key=lambda record: (record["file"], record["line"], record["case"]))
        interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
        command = " ".join(["pytest", *self.config.invocation_params.args])
        write_reports(Path(self.folder), self.records, self.errors, interrupted=interrupted, command=command)


def pytest_configure(config: pytest.Config) -> None:
    """Reports are written by the controller, if it was asked for them."""
    folder = config.getoption("--reports")
    if folder and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Collected(config, folder), "callconv-reports")
