"""Cases as pytest items, in a pytest of their own."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from harness.options import parse_shard
from harness.tests.test_cli import GOOD, MALFORMED, REJECTED, WRONG

ROOT = Path(__file__).resolve().parent.parent.parent


def run(*arguments: str) -> tuple[int, str]:
    # The files lie outside the checkout, where its conftest.py is not found: its two plugins are named instead.
    plugins = ("-p", "harness.options", "-p", "harness.collect")
    config = ("-c", str(ROOT / "tox.ini"), "--rootdir", str(ROOT), "-q")
    command = [sys.executable, "-m", "pytest", *config, *plugins, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(GOOD + REJECTED, encoding="utf-8")
    return path


def cache(tmp_path: Path) -> tuple[str, str]:
    return "-o", f"cache_dir={tmp_path / 'cache'}"


def test_ids_select_what_they_name(cases: Path, tmp_path: Path) -> None:
    options = cache(tmp_path)
    assert "6 passed" in run(str(cases), *options)[1]
    assert "3 passed" in run(f"{cases}::six", *options)[1]
    assert "1 passed" in run(f"{cases}::six::jit-arm64", *options)[1]
    assert "1 passed, 5 deselected" in run(str(cases), "-k", "unread and interp", *options)[1]
    assert "2 passed, 4 deselected" in run(str(cases), "-m", "jit_x86_64", *options)[1]
    assert "2 passed" in run(str(cases), "--backend", "jit-x86_64", *options)[1]


def test_last_failed_runs_what_failed(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(GOOD + WRONG, encoding="utf-8")
    status, text = run(str(path), *cache(tmp_path))
    assert (status, "3 failed, 3 passed" in text) == (1, True)
    assert "expect  retval = 230" in text
    assert "Traceback" not in text
    assert "3 failed, 3 deselected" in run(str(path), "--lf", *cache(tmp_path))[1]


def test_a_malformed_case_fails_and_the_others_run(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(GOOD + MALFORMED, encoding="utf-8")
    status, text = run(str(path), *cache(tmp_path))
    assert (status, "1 failed, 3 passed" in text) == (1, True)
    assert "c.yaml:32:12: unknown key 'verdit' (did you mean 'verdict'?)" in text


def test_shards_lose_nothing_and_share_nothing(cases: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    for number in range(1, 5):
        _, text = run(str(cases), "--shard", f"{number}/4", "--collect-only", *cache(tmp_path))
        seen += [line for line in text.splitlines() if "::" in line]
    assert len(seen) == len(set(seen)) == 6


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4"])
def test_shards_that_mean_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="--shard is I/N"):
        parse_shard(text)


def test_an_unknown_back_end_is_a_usage_error(cases: Path) -> None:
    status, text = run(str(cases), "--backend", "jit-arm")
    assert (status, "did you mean 'jit-arm64'?" in text) == (4, True)


def test_workers_report_everything(cases: Path, tmp_path: Path) -> None:
    xml, folder = tmp_path / "j.xml", tmp_path / "r"
    status, _ = run(str(cases), "-n", "2", "--reports", str(folder), f"--junitxml={xml}", *cache(tmp_path))
    assert status == 0
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["counts"] == {"passed": 6, "differs": 0, "failed": 0, "error": 0, "skipped": 0}
    names = {(r["case"], r["backend"]) for r in report["results"]}
    assert names == {(c, b) for c in ("six", "unread") for b in ("interp", "jit-x86_64", "jit-arm64")}
    found = {p.get("name"): p.get("value") for p in ET.parse(xml).iter("property")}
    assert found["spec"] in ("SA-V-02", "SA-V-24")
    assert set(found) == {"backend", "spec", "case_line", "verdict"}
