"""Which differences are stated, for which cases and kernels; test_record.py has the first entries that cannot be used."""

from pathlib import Path

import pytest

from backends.base import Difference
from backends.linux.differs import Differences, DiffersError, Entry, load_differences

ROW = """
- case: c.yaml::x
  since: "7.2"
  got: the guest crashed
  why: It follows a NULL pointer.
  right: suite
"""


def load(tmp_path: Path, text: str) -> Differences:
    path = tmp_path / "differs.yaml"
    path.write_text(text, encoding="utf-8")
    return load_differences(path)


def test_an_entry(tmp_path: Path) -> None:
    assert load(tmp_path, ROW).entries == (
        Entry(
            "c.yaml::x", ("x86_64", "arm64"), (7, 2, 0), None, "the guest crashed", "It follows a NULL pointer.",
            "suite", False,
        ),
    )  # fmt: skip
    assert load(tmp_path, "# nothing differs\n") == Differences()


UNUSABLE = {
    "no list": ("case: c.yaml::x\n", r"expected a list of entries, found dict"),
    "no mapping": ("- c.yaml::x\n", r"entry 1: expected the keys case, got, right, since, why"),
    "the second one": (ROW + "- {case: y}\n", r"entry 2: expected the keys"),
    "an architecture as a word": (ROW + "  arches: arm64\n", r"entry 1: arches: expected a list .*, found 'arm64'"),
    "since is no version": (ROW.replace('"7.2"', "seven"), r"since: expected a kernel version .*, found 'seven'"),
    "before is a number": (ROW + "  before: 7.3\n", r"before: expected a kernel version .*, found 7\.3"),
    "got is a number": (ROW.replace("the guest crashed", "5"), r"got: not a regular expression"),
    "right is nobody": (ROW.replace("right: suite", "right: nobody"), r"right: .*, found 'nobody'"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_entry_that_cannot_be_used(name: str, tmp_path: Path) -> None:
    text, message = UNUSABLE[name]
    with pytest.raises(DiffersError, match=rf"^differs\.yaml: .*{message}"):
        load(tmp_path, text)


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(DiffersError, match=r"differs\.yaml"):
        load(tmp_path, "- {case: [\n")


def test_what_a_report_says_of_it(tmp_path: Path) -> None:
    assert load(tmp_path, ROW).find("c.yaml::x", "arm64", "7.2.13") == Difference(
        "the guest crashed", "It follows a NULL pointer. Right: suite.", "backends/linux/differs.yaml"
    )


def test_an_entry_of_one_variant(tmp_path: Path) -> None:
    found = load(tmp_path, ROW.replace("c.yaml::x", "c.yaml::x@n=3"))
    asked = ("c.yaml::x@n=3", "c.yaml::x@n=4", "c.yaml::x", "c.yaml::x@n=33")
    assert [found.find(case, "arm64", "7.2") is not None for case in asked] == [True, False, False, False]


def test_an_entry_of_all_variants(tmp_path: Path) -> None:
    found = load(tmp_path, ROW)
    asked = ("c.yaml::x", "c.yaml::x@n=3", "c.yaml::xy", "d.yaml::x")
    assert [found.find(case, "arm64", "7.2") is not None for case in asked] == [True, True, False, False]


@pytest.mark.parametrize(
    ("release", "there"),
    [("7.1.99", False), ("7.2", True), ("7.2.0-rc1", True), ("7.10.3", False), ("8.0", False), ("Linux", False)],
)
def test_kernels_from_one_until_before_another(release: str, there: bool, tmp_path: Path) -> None:
    found = load(tmp_path, ROW + '  before: "7.10"\n')
    assert (found.find("c.yaml::x", "x86_64", release) is not None) == there


def test_the_first_entry_that_fits_counts(tmp_path: Path) -> None:
    older = ROW.replace('"7.2"', '"6.1"').replace("the guest crashed", "refused") + '  before: "7.2"\n'
    found = load(tmp_path, older + ROW)
    got = [found.find("c.yaml::x", "arm64", release) for release in ("6.18.44", "7.2.1")]
    assert [one and one.got for one in got] == ["refused", "the guest crashed"]


def test_what_kills_kernels(tmp_path: Path) -> None:
    """Whatever the kernel's release and the variant: a wrong guess costs a machine."""
    found = load(tmp_path, ROW.replace("c.yaml::x", "c.yaml::x@n=3") + "  crashes: true\n  arches: [arm64]\n")
    asked = [
        ("c.yaml::x@n=3", "arm64"),
        ("c.yaml::x@n=4", "arm64"),
        ("c.yaml::x@n=3", "x86_64"),
        ("c.yaml::y", "arm64"),
    ]
    assert [found.crashes(*one) for one in asked] == [True, True, False, False]
    assert not load(tmp_path, ROW).crashes("c.yaml::x", "arm64")


def test_the_host_is_spared_what_is_known_to_kill() -> None:
    known = load_differences()
    for arch in ("x86_64", "arm64"):
        assert known.crashes("cases/stack_args/unreliable.yaml::caller_that_never_stores", arch)
