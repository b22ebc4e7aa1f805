// A type of map that is not known here.
struct { int (*type)[27]; int (*max_entries)[4096]; } ring __attribute__((section(".maps"), used));
static void *(*reserve)(void *ring, unsigned long long size, unsigned long long flags) = (void *)131;
__attribute__((section("syscall"), used)) int takes(void *c) { return reserve(&ring, 8, 0) != 0; }
