// Data that holds an address.
static volatile int here = 5;
static volatile int *volatile where = &here;
__attribute__((section("syscall"), used)) int reads(void *c) { return *where; }
