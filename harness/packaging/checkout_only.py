"""The build back end: setuptools for an editable install of a checkout, and a clear refusal of everything else.

A wheel would put `harness`, `verifier` and `backends` into site-packages as top-level names, beside other people's.
"""

from typing import Any, NoReturn

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  (PEP 660 hooks, found here by name)
    build_editable,
    get_requires_for_build_editable,
    prepare_metadata_for_build_editable,
)

__all__ = ["build_editable", "build_meta", "build_sdist", "build_wheel"]
_REFUSAL = (
    "bpf-callconv runs from a checkout only: use `python3 -m harness`, or `pip install -e .` in a virtual environment"
)


def build_wheel(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Refuses."""
    raise SystemExit(_REFUSAL)


def build_sdist(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Refuses."""
    raise SystemExit(_REFUSAL)
