"""What the pages say is there, is there."""

import json
import re
import subprocess
from pathlib import Path

from backends.checks import CHECKS
from backends.oracle.quirks import QUIRKS
from harness import __main__ as bootstrap
from harness.plugins import BACKENDS

ROOT = Path(__file__).resolve().parent.parent.parent


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_readme_names_every_check_and_back_end() -> None:
    assert re.findall(r"^\| ([A-Z]+(?:-[A-Z]+)?) \|", page("README.md"), re.MULTILINE) == list(CHECKS)
    assert re.findall(r"^\| `((?:interp|jit|golden|linux)[\w-]*)` \|", page("README.md"), re.MULTILINE) == list(
        BACKENDS
    )


def test_every_key_of_the_format_has_an_example() -> None:
    schema = json.loads(page("harness/case.schema.json"))
    keys = (
        schema["items"]["properties"]
        if "properties" in schema["items"]
        else schema["definitions"]["case"]["properties"]
    )
    assert [
        key for key in keys if f"`{key}`" not in page("cases/README.md") and f"{key}:" not in page("cases/README.md")
    ] == []


def test_files_that_pages_name_exist() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "cases/README.md", "docs/linux.md", "docs/abi.md"):
        named = re.findall(r"`((?:harness|verifier|backends|cases|docs|reports|benchmarks)/[\w./]+)`", page(name))
        named += [str(Path(name).parent / link) for link in re.findall(r"\]\(([\w./]+)\)", page(name))]
        assert [path for path in named if "NAME" not in path and not (ROOT / path).exists()] == []


def test_rules_that_pages_name_are_those_of_the_verifier() -> None:
    files = [*(ROOT / "verifier").glob("*.py"), ROOT / "harness" / "traced.py"]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    listed = re.findall(r"^\| `([\w-]+)` \|", page("docs/rules.md"), re.MULTILINE)
    assert [rule for rule in listed if f'"{rule}"' not in source] == []
    cases = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cases").rglob("*.yaml"))
    assert sorted(set(re.findall(r"rule: ([\w-]+)", cases)) - set(listed)) == []


def test_differences_of_compilers_that_the_page_names_are_those_on_record() -> None:
    listed = re.findall(r"^\| (D-\w+) \|", page("docs/abi.md"), re.MULTILINE)
    assert listed == list(dict.fromkeys(quirk.id for quirk in QUIRKS))


def test_no_file_names_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    bad = re.compile(r"/(?:work|root|home)/[a-z]|\bshared/")
    files = [name for name in tracked if name != "LICENSE" and not name.endswith("test_docs.py")]
    texts = {name: (ROOT / name).read_bytes().decode("utf-8", "replace") for name in files if (ROOT / name).is_file()}
    assert [name for name, text in texts.items() if bad.search(text)] == []


def test_set_up_is_redone_when_requirements_change() -> None:
    assert bootstrap.ROOT == ROOT
    before = bootstrap.fingerprint()
    assert before == bootstrap.fingerprint()
    inside = {key: value for key, value in bootstrap.environment().items() if key in ("PIP_CACHE_DIR", "TMPDIR")}
    assert all(Path(value).is_relative_to(ROOT) for value in inside.values())
