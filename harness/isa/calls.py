"""What a program may call besides its own subprogs: helpers by id. kfuncs come with the case that calls them."""

from dataclasses import dataclass
from typing import Final

from harness.isa.proto import Proto, parse_bpf_proto


@dataclass(frozen=True, slots=True)
class Helper:
    """A helper function. Linux include/uapi/linux/bpf.h, ___BPF_FUNC_MAPPER."""

    id: int
    proto: Proto

    @property
    def name(self) -> str:
        """The name that assembly may use for the id."""
        return self.proto.name


HELPERS: Final = {
    number: Helper(number, parse_bpf_proto(text))
    for number, text in (
        (1, "void *bpf_map_lookup_elem(struct bpf_map *map, void *key)"),
        (2, "long bpf_map_update_elem(struct bpf_map *map, void *key, void *value, u64 flags)"),
        (3, "long bpf_map_delete_elem(struct bpf_map *map, void *key)"),
        (5, "u64 bpf_ktime_get_ns(void)"),
        (7, "u32 bpf_get_prandom_u32(void)"),
        (8, "u32 bpf_get_smp_processor_id(void)"),
        (12, "void bpf_tail_call(void *ctx, struct bpf_map *map, u32 index)"),
    )
}
TAIL_CALL: Final = 12
HELPERS_BY_NAME: Final = {helper.name: helper for helper in HELPERS.values()}
