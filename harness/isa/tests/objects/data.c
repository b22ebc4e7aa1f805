// A program that reads a constant table: a relocation to .rodata.
struct ctx { unsigned long long v[4]; };
static const volatile int table[4] = { 1, 2, 3, 4 };
__attribute__((section("syscall"), used)) int reads(struct ctx *c) { return table[c->v[0] & 3]; }
