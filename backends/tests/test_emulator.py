"""The CPU by itself."""

from backends.emulator import TRANSLATED_BYTES, Emulator


def test_an_engine_keeps_no_more_than_it_may() -> None:
    for arch in ("x86_64", "arm64"):
        assert Emulator(arch)._uc.ctl_get_tcg_buffer_size() == TRANSLATED_BYTES
