"""The compilers of this machine; what is missing is skipped, and told."""

import pytest

from backends.oracle.compilers import Compiler, find_compilers

COMPILERS = {(compiler.family, compiler.arch): compiler for compiler in find_compilers()}


@pytest.fixture(params=[("gcc", "arm64"), ("gcc", "x86_64"), ("clang", "arm64"), ("clang", "x86_64")], ids="-".join)
def compiler(request: pytest.FixtureRequest) -> Compiler:
    """Each of gcc and clang for both architectures."""
    if request.param not in COMPILERS:
        pytest.skip(f"no {' for '.join(request.param)} is here")
    return COMPILERS[request.param]
