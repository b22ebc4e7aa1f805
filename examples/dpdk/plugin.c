/* A native-image plugin for bpf-callconv around DPDK's BPF library: docs/native-image-plugin.md is the protocol.
 * It loads each program with rte_bpf_load() and gives what rte_bpf_get_jit() shows. The EAL is not initialised: loading
 * and compiling need none of it. Apache-2.0. */
#define _GNU_SOURCE
#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_bpf.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <rte_version.h>

#if defined(__x86_64__)
#define ARCH "x86_64"
#elif defined(__aarch64__)
#define ARCH "arm64"
#else
#error "DPDK's BPF library compiles for x86-64 and arm64 only"
#endif

enum { OP_CALL = BPF_JMP | EBPF_CALL, SRC_HELPER = 0, SRC_KFUNC = 2, MAX_XSYMS = 64, REG_BYTES = 8 };

static char *log_text;
static size_t log_size;
static FILE *log_stream;

static json_t *unsupported(const char *format, ...)
{
	char text[400];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return json_pack("{s:s}", "unsupported", text);
}

/* The bytes of a hex text; NULL where it is none. The caller frees them. */
static uint8_t *unhex(const char *text, size_t *size)
{
	uint8_t *bytes;
	unsigned int byte;

	*size = text ? strlen(text) / 2 : 0;
	bytes = malloc(*size + 1);
	for (size_t i = 0; bytes != NULL && i != *size; i++) {
		if (sscanf(text + 2 * i, "%2x", &byte) != 1) {
			free(bytes);
			return NULL;
		}
		bytes[i] = byte;
	}
	return bytes;
}

static json_t *hex(const uint8_t *bytes, size_t size)
{
	char *text = malloc(2 * size + 1);
	json_t *value;

	for (size_t i = 0; i != size; i++)
		sprintf(text + 2 * i, "%02x", bytes[i]);
	value = json_stringn(text, 2 * size);
	free(text);
	return value;
}

static bool is_kind(json_t *type, const char *kind)
{
	return strcmp(json_string_value(json_object_get(type, "kind")), kind) == 0;
}

/* What DPDK's functions take and give is uint64_t, five of them at most: struct rte_bpf_xsym, `val`. A narrower parameter
 * is only a part of that; a narrower result is not, since the ABI leaves the bits above it undefined. */
static json_t *describe(json_t *func, struct rte_bpf_xsym *xsym)
{
	json_t *proto = json_object_get(func, "proto"), *params = json_object_get(proto, "params");
	json_t *result = json_object_get(proto, "result"), *param;
	const char *text = json_string_value(json_object_get(proto, "text"));
	size_t i;

	if (json_array_size(params) > EBPF_FUNC_MAX_ARGS)
		return unsupported("the function `%s`: DPDK's functions take %d arguments at most", text, EBPF_FUNC_MAX_ARGS);
	memset(xsym, 0, sizeof(*xsym));
	xsym->name = json_string_value(json_object_get(func, "name"));
	xsym->type = RTE_BPF_XTYPE_FUNC;
	xsym->func.val = (void *)(uintptr_t)json_integer_value(json_object_get(func, "address"));
	xsym->func.nb_args = json_array_size(params);
	json_array_foreach(params, i, param) {
		if (!is_kind(json_object_get(param, "type"), "int"))
			return unsupported("the function `%s`: its pointers' sizes are not known here", text);
		xsym->func.args[i] = (struct rte_bpf_arg){.type = RTE_BPF_ARG_RAW, .size = REG_BYTES};
	}
	if (is_kind(result, "void"))
		return NULL; /* RTE_BPF_ARG_UNDEF */
	if (!is_kind(result, "int") || json_integer_value(json_object_get(result, "size")) != REG_BYTES)
		return unsupported("the function `%s`: DPDK's functions return uint64_t", text);
	xsym->func.ret = (struct rte_bpf_arg){.type = RTE_BPF_ARG_RAW, .size = REG_BYTES};
	return NULL;
}

/* DPDK calls a function by its place in the list of external symbols: what rte_bpf_elf_load() writes for a relocation. */
static json_t *link_calls(struct ebpf_insn *ins, size_t count, json_t *externs, struct rte_bpf_xsym *xsym, uint32_t *nb)
{
	uint32_t number;
	size_t i, j;
	json_t *func = NULL, *problem;

	for (i = 0; i != count; i++) {
		if (ins[i].code != OP_CALL || (ins[i].src_reg != SRC_HELPER && ins[i].src_reg != SRC_KFUNC))
			continue;
		json_array_foreach(externs, j, func)
			if (json_integer_value(json_object_get(func, "id")) == ins[i].imm &&
			    is_kind(func, ins[i].src_reg == SRC_KFUNC ? "kfunc" : "helper"))
				break;
		if (j == json_array_size(externs) || *nb == MAX_XSYMS)
			return unsupported("insn %zu calls function %d, which is not there or one too many", i, ins[i].imm);
		if ((problem = describe(func, &xsym[*nb])) != NULL)
			return problem;
		for (number = 0; xsym[number].func.val != xsym[*nb].func.val; number++)
			;
		*nb += number == *nb;
		ins[i].src_reg = 0;
		ins[i].imm = number;
	}
	return NULL;
}

/* The first line that the library logged, without the addresses in it. */
static const char *reason(void)
{
	static char text[300];
	const char *from, *end;
	size_t size = 0;

	fflush(log_stream);
	for (from = log_text; from < log_text + log_size && *from != '\n' && size < sizeof(text) - 1; from++) {
		if (strncmp(from, "(0x", 3) == 0 && (end = strchr(from, ')')) != NULL)
			from = end;
		else
			text[size++] = *from;
	}
	text[size] = 0;
	return text;
}

static json_t *image_of(struct rte_bpf *bpf)
{
	struct rte_bpf_jit jit = {0};

	if (rte_bpf_get_jit(bpf, &jit) != 0 || jit.func == NULL || jit.sz == 0)
		return unsupported("loaded, but the JIT has no code for it: %s", reason());
	return json_pack("{s:{s:s, s:o, s:[{s:i, s:i, s:I}]}}", "image", "arch", ARCH, "code",
			 hex((const uint8_t *)(uintptr_t)jit.func, jit.sz), "symbols", "subprog", 0, "offset", 0, "size",
			 (json_int_t)jit.sz);
}

static json_t *compile(json_t *request)
{
	struct rte_bpf_xsym xsym[MAX_XSYMS + 1];
	struct rte_bpf_prm prm = {.xsym = xsym};
	size_t size, ctx_size = json_integer_value(json_object_get(request, "ctx_size"));
	json_t *program = json_object_get(request, "program"), *answer;
	struct ebpf_insn *ins = (void *)unhex(json_string_value(json_object_get(program, "insns")), &size);
	struct rte_bpf *bpf;

	if (ins == NULL)
		return unsupported("the insns of the request are no hex");
	if (json_is_true(json_object_get(request, "length_in_r2"))) {
		free(ins);
		return unsupported("DPDK's programs take one argument");
	}
	rewind(log_stream);
	answer = link_calls(ins, size / sizeof(*ins), json_object_get(request, "externs"), xsym, &prm.nb_xsym);
	if (answer == NULL) {
		prm.ins = ins;
		prm.nb_ins = size / sizeof(*ins);
		prm.prog_arg = (struct rte_bpf_arg){.type = ctx_size ? RTE_BPF_ARG_PTR : RTE_BPF_ARG_RAW,
						    .size = ctx_size ? ctx_size : REG_BYTES};
		bpf = rte_bpf_load(&prm);
		answer = bpf ? image_of(bpf) : unsupported("rte_bpf_load: %s: %s", rte_strerror(rte_errno), reason());
		rte_bpf_destroy(bpf);
	}
	free(ins);
	return answer;
}

static json_t *answer_to(json_t *request)
{
	const char *type = json_string_value(json_object_get(request, "type"));
	json_t *answer;

	if (type != NULL && strcmp(type, "hello") == 0)
		return json_pack("{s:i, s:s, s:s}", "protocol", 1, "name", rte_version(), "arch", ARCH);
	answer = compile(request);
	json_object_set(answer, "id", json_object_get(request, "id"));
	return answer;
}

int main(void)
{
	char *line = NULL, *text;
	size_t room = 0;
	json_t *request, *answer;

	log_stream = open_memstream(&log_text, &log_size);
	rte_openlog_stream(log_stream);
	while (getline(&line, &room, stdin) > 0) {
		request = json_loads(line, 0, NULL);
		if (request == NULL)
			return 1;
		answer = answer_to(request);
		text = json_dumps(answer, JSON_COMPACT);
		puts(text);
		fflush(stdout);
		free(text);
		json_decref(answer);
		json_decref(request);
	}
	return 0;
}
