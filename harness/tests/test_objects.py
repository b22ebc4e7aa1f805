"""Compilers' objects on the command line."""

from pathlib import Path

import pytest

from harness import cli

OBJECTS = Path(__file__).resolve().parents[1] / "isa" / "tests" / "objects"
CALLS = str(OBJECTS / "calls.o")


def test_an_object_runs_on_every_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", CALLS, "--no-reports"]) == 0
    assert "2 cases: 6 passed" in capsys.readouterr().out


def test_a_listing_shows_the_sources_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", f"{CALLS}::main_prog", "--backend", "jit-arm64"]) == 0
    out = capsys.readouterr().out
    assert out.count("; ./calls.c:28: c->v[0] = inner(c, GREEN, 1) + leaf(c->v[2], -5, 'x');") == 1
    assert "; ./calls.c:13: return a * 3 + b - c;" in out
    assert "call 1: inner(" in out


def test_an_object_with_maps_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(OBJECTS / "maps.o"), str(OBJECTS / "data.o"), "--no-reports"]) == 0
    assert "2 cases: 6 passed" in capsys.readouterr().out
    assert cli.main(["show", f"{OBJECTS / 'maps.o'}::counts", "--backend", "jit-x86_64"]) == 0
    out = capsys.readouterr().out
    assert "; ./maps.c:46: struct pair *pair = lookup(&pairs, &key);" in out
    assert "(18) r1 = pairs " in out
    assert "(18) r1 = map_val(.data) + 0 " in out


def test_the_verifiers_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", f"{CALLS}::with_kfunc"]) == 0
    assert "(85) call kf#1" in capsys.readouterr().out


def test_what_cannot_be_loaded_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(OBJECTS / "kconfig.o"), "--no-reports"]) == 2
    assert "CONFIG_HZ is a variable of .kconfig, which is not supported" in capsys.readouterr().out
    bad = tmp_path / "bad.o"
    bad.write_bytes(b"\x7fELF no more")
    assert cli.main(["run", str(bad), "--no-reports"]) == 2
    assert cli.main(["run", str(tmp_path / "none.o"), "--no-reports"]) == 2
    assert cli.main(["run", f"{CALLS}::nothing", "--no-reports"]) == 2
