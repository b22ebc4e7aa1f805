// A hash without its elements made before (BPF_F_NO_PREALLOC).
struct { int (*type)[1]; int *key; int *value; int (*max_entries)[4]; int (*map_flags)[1]; } m
	__attribute__((section(".maps"), used));
static void *(*lookup)(void *map, const void *key) = (void *)1;
__attribute__((section("syscall"), used)) int looks(void *c) { int key = 0; return lookup(&m, &key) != 0; }
