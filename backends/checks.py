"""The checks that are always on: id, what must hold, and the document that says so."""

from typing import Final, NamedTuple


class Check(NamedTuple):
    """One rule that every native run is judged on, whatever its case expects."""

    id: str
    sentence: str
    source: str


CHECKS: Final = {
    row.id: row
    for row in (
        Check(
            "ABI-ARG",
            "At each call, every argument is where the ABI document puts it.",
            "AAPCS64, Parameter passing rules, stage C; psABI, 3.2.3 Parameter Passing",
        ),
        Check(
            "ABI-SP",
            "SP is 16-byte aligned at every SP-based access and at every call on arm64; 8-byte aligned at calls on x86-64.",
            "AAPCS64, The Stack; Arm ARM, SCTLR_EL1.SA; psABI, Linux Kernel Conventions: Stack Layout",
        ),
        Check(
            "ABI-SAVED",
            "Callee-saved registers, SP, the frame pointer and the return address are back at each return.",
            "AAPCS64, General-purpose Registers; psABI, 3.2.1 Registers",
        ),
        Check(
            "ABI-SCRATCH",
            "Nothing a callee may destroy is relied on after a call: registers, its argument area, bits above a narrow result.",
            "AAPCS64, General-purpose Registers and Result return; psABI, 3.2.1 Registers",
        ),
        Check(
            "ABI-STACK",
            "No access outside the frame that owns it, and none below SP.",
            "AAPCS64, The Stack; psABI, Linux Kernel Conventions: no red zone",
        ),
        Check(
            "ABI-LAND",
            "Indirect calls land on a landing pad where the image was built for them.",
            "Arm ARM, Branch Target Identification; Intel SDM, Control-flow Enforcement Technology",
        ),
        Check(
            "TAIL-JUMP",
            "A tail call goes to where the program in the slot is landed at, and only where it is due.",
            "Linux kernel/bpf/core.c, the interpreter's JMP_TAIL_CALL; include/uapi/linux/bpf.h, bpf_tail_call()",
        ),
        Check(
            "TAIL-FRAME",
            "Where a tail call lands, the frame is gone: SP, the frame pointer and callee-saved registers are as after a call.",
            "Linux arch/x86/net/bpf_jit_comp.c, emit_bpf_tail_call_indirect(); arch/arm64/net/bpf_jit_comp.c, emit_bpf_tail_call()",
        ),
        Check(
            "TAIL-COUNT",
            "What a tail call hands on is the number of tail calls made since the program was run, or a pointer to it.",
            "Linux include/linux/bpf.h, MAX_TAIL_CALL_CNT; kernel/bpf/core.c, the interpreter's JMP_TAIL_CALL",
        ),
        Check(
            "TRAMP-CTX",
            "A traced function's program finds every argument in ctx, packed in their order, and the result behind them.",
            "Linux include/linux/bpf.h, arch_prepare_bpf_trampoline(); kernel/trace/bpf_trace.c, bpf_get_func_arg()",
        ),
        Check(
            "TRAMP-ARG",
            "A traced function finds its arguments where the ABI document puts them, as its caller passed them.",
            "AAPCS64, Parameter passing rules, stage C; psABI, 3.2.3 Parameter Passing",
        ),
        Check(
            "TRAMP-RESULT",
            "The caller of a traced function gets its result, or what an fmod_ret program put in its place.",
            "Linux kernel/bpf/trampoline.c; Documentation/bpf/prog_lsm.rst",
        ),
        Check(
            "TRAMP-ORDER",
            "fentry, fmod_ret, the traced function and fexit run in this order, the latest attached of a kind first.",
            "Linux kernel/bpf/trampoline.c",
        ),
        Check("MEM", "No access outside the memory that a program was given.", "RFC 9669; Linux kernel/bpf/verifier.c"),
        Check(
            "END", "The program comes to its end within the suite's limit of insns.", "Linux: a verified program ends"
        ),
    )
}
