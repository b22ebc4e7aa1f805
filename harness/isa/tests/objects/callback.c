// The address of a function, as an argument.
static long (*loop)(unsigned count, void *callback, void *data, unsigned long long flags) = (void *)181;
static __attribute__((noinline)) long body(unsigned index, void *data) { return index > 3; }
__attribute__((section("syscall"), used)) int passes(void *c) { return loop(5, body, 0, 0); }
