"""Maps that no engine has room for."""

import pytest

from harness.isa.maps import Map, MapError, check


def test_room_of_a_prog_array() -> None:
    """Of the room of one map a slot takes 16 bytes, with what a JIT may keep beside it: 65280 of them fit, 65281 do not."""
    assert check(Map("jmp", "prog_array", 4, 4, 65280)).has_progs
    with pytest.raises(MapError, match="found 1044496"):
        check(Map("jmp", "prog_array", 4, 4, 65281))
    assert check(Map("m", "array", 4, 4, 65281)).slots == 65281
