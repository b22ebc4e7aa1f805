"""Imports point one way: isa, then verifier and backends, then harness, then conftest.py."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# What each package may import of the project's own; the longest matching name decides.
MAY_IMPORT = {
    "harness.isa": ("harness.isa",),
    "verifier": ("verifier", "harness.isa"),
    "backends": ("backends", "harness.isa"),
    "harness": ("harness", "verifier", "backends"),
    "conftest": ("harness",),
}
OWN = ("harness", "verifier", "backends", "conftest", "cases", "benchmarks")


def modules() -> list[tuple[str, Path]]:
    files = [
        ROOT / "conftest.py",
        *(p for name in ("harness", "verifier", "backends") for p in (ROOT / name).rglob("*.py")),
    ]
    return [(".".join(p.relative_to(ROOT).with_suffix("").parts), p) for p in files if "packaging" not in p.parts]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def broken(name: str, imports: set[str]) -> list[str]:
    package = max((p for p in MAY_IMPORT if below(name, p)), key=len)
    own = [other for other in imports if any(below(other, package) for package in OWN)]
    return [f"{name} imports {other}" for other in own if not any(below(other, ok) for ok in MAY_IMPORT[package])]


def test_imports_point_one_way() -> None:
    found = modules()
    assert len(found) > 20
    assert [line for name, path in found for line in broken(name, imported(path))] == []


def test_the_test_can_fail() -> None:
    assert broken("verifier.walk", {"backends.base"}) == ["verifier.walk imports backends.base"]
    assert broken("harness.isa.asm", {"harness.case"}) == ["harness.isa.asm imports harness.case"]
    assert broken("backends.probe", {"harness.check"}) == ["backends.probe imports harness.check"]


def test_only_the_emulator_imports_unicorn() -> None:
    users = [
        name for name, path in modules() if any(below(i, "unicorn") for i in imported(path)) and ".tests." not in name
    ]
    assert users == ["backends.emulator"]
