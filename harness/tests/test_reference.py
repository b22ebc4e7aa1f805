import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import reference
from harness.schema import load_schema
from harness.yamldoc import parse

README = Path(__file__).resolve().parent.parent.parent / "cases" / "README.md"


def keys() -> list[str]:
    definitions = load_schema()["definitions"]
    return [*definitions["case"]["properties"], *definitions["expect"]["properties"]]


def test_the_committed_page_is_up_to_date() -> None:
    assert reference.main(["--check"]) == 0


def test_a_stale_page_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "PAGE", tmp_path / "docs" / "case-format.md")
    assert reference.main(["--check"]) == 1
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    reference.PAGE.write_text("old", encoding="utf-8")
    assert reference.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("case-format.md is not what the schema gives")


def test_the_page_has_every_key() -> None:
    text = reference.page(load_schema())
    assert [key for key in keys() if f"### `{key}`\n" not in text] == []
    assert "`msg`\nPart of the verifier's log" in text
    assert "- integer; optional\n- for example: `6`, `-1`, `${retval}`" in text
    assert '- for example: `"0102030405060708"`' in text


def test_every_example_of_the_page_can_be_read() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", reference.page(load_schema()), re.DOTALL)
    assert len(blocks) > 10
    for block in blocks:
        document = parse(block, "page")
        assert document.errors == ()
        assert document.data == yaml.safe_load(block)


def rows() -> list[tuple[str, Any]]:
    """The keys of the README's tables with their examples; those of a case come first."""
    found = re.findall(r"^\| `(\w+)` \| .* \| `([^`]*)` \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    examples: list[tuple[str, Any]] = []
    for key, text in found:
        document = parse(text, "README")
        assert document.errors == ()
        assert isinstance(document.data, dict)
        examples.append((key, document.data[key]))
    return examples


def test_the_readme_has_an_example_of_every_key_and_all_are_valid() -> None:
    jsonschema: Any = pytest.importorskip("jsonschema")
    examples = rows()
    case, expect = (load_schema()["definitions"][name]["properties"] for name in ("case", "expect"))
    wanted = [*case, "retval", "memory", "maps", "calls", "place", "linux", "at", "rule", "msg"]
    assert [key for key, _ in examples] == wanted
    definitions = load_schema()["definitions"]
    for number, (key, example) in enumerate(examples):
        properties = case if number < len(case) else expect
        jsonschema.Draft7Validator({**properties[key], "definitions": definitions}).validate(example)
