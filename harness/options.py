"""pytest's command-line options and markers for cases."""

from pathlib import Path

import pytest

from harness.plugins import BACKENDS, UnknownBackendError, make_backends, settings_of


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--backend`, `--shard`, `--reports`."""
    group = parser.getgroup("callconv", "BPF calling convention cases")
    group.addoption(
        "--backend",
        action="append",
        metavar="NAME",
        help=f"run cases on this back end ({', '.join(BACKENDS)}); may be repeated",
    )
    group.addoption("--linux", action="store_true", help="run cases on every Linux that can be booted here, too")
    group.addoption(
        "--kernel", action="append", type=Path, metavar="IMAGE", help="a Linux image for linux-x86_64, linux-arm64"
    )
    group.addoption("--qemu", metavar="PROGRAM", help="the qemu-system-ARCH to run it in")
    group.addoption("--shard", metavar="I/N", help="run every N-th item only, beginning with the I-th (1/4 ... 4/4)")
    group.addoption("--reports", metavar="DIR", help="write report.json, junit.xml and report.html there")


def pytest_configure(config: pytest.Config) -> None:
    """Declares the markers and refuses options that mean nothing."""
    config.addinivalue_line("markers", "case: a YAML case")
    for name in BACKENDS:
        config.addinivalue_line("markers", f"{marker_of(name)}: runs on the back end {name}")
    try:
        make_backends(config.getoption("--backend"), settings_of(config.option))
        parse_shard(config.getoption("--shard"))
    except (UnknownBackendError, ValueError) as error:
        raise pytest.UsageError(str(error)) from error


def marker_of(backend: str) -> str:
    """A back end's name as a marker: `jit_arm64`."""
    return backend.replace("-", "_")


def parse_shard(text: str | None) -> tuple[int, int]:
    """`2/4` as (1, 4): the 0-based shard and how many there are. Raises ValueError."""
    if text is None:
        return 0, 1
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise ValueError(f"--shard is I/N with 1 <= I <= N, found {text!r}")
    return int(index) - 1, int(count)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps this shard's items, after every other selection."""
    index, count = parse_shard(config.getoption("--shard"))
    if count > 1:
        mine = items[index::count]
        config.hook.pytest_deselected(items=[item for at, item in enumerate(items) if at % count != index])
        items[:] = mine
