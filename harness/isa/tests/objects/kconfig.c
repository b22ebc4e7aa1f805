// A variable that the kernel's configuration gives.
extern int CONFIG_HZ __attribute__((section(".kconfig")));
__attribute__((section("syscall"), used)) int reads(void *c) { return CONFIG_HZ; }
