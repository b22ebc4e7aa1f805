/* The only process of a guest: makes the system calls that the host sends, and gives back what they gave.
 *
 * Channel: the virtio port /dev/vport0p1. A frame is a 32-bit length and that many bytes, little endian.
 * The first frame is the guest's: the word "ready". Then the host asks and the guest answers:
 *   ask:    u32 calls; per call: u32 nr; u32 nargs; nargs x {u32 kind; u64 value}; u32 nbufs; nbufs x {u32 size; u32 give;
 *           u32 given; given bytes}; u32 nlinks; nlinks x {u32 kind; u32 holder; u32 offset; u32 target}
 *   answer: per call: s64 result (-errno where it failed); per buf with give != NOTHING: u32 length; bytes
 * An argument is a value, the address of a buf, or the result of an earlier call; a link stores into the buf `holder`,
 * at `offset`, the 64-bit address of the buf `target` or the 32-bit result of the call `target`.
 *
 * Freestanding: no libc, so that any compiler for the guest's architecture builds it.
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

enum { VALUE, ADDRESS, RESULT };            /* of an argument */
enum { POINTER, NUMBER };                   /* of a link */
enum { NOTHING, TRIMMED, TEXT };            /* how much of a buf goes back: to its last byte that is not 0; to its first that is */
enum { MAX_CALLS = 4096, MAX_BUFS = 16, MAX_ARGS = 6, EINVAL = 22, ENOMEM = 12 };

#if defined(__x86_64__)
enum { SYS_read = 0, SYS_write = 1, SYS_mount = 165, SYS_openat = 257, SYS_mkdirat = 258, SYS_nanosleep = 35, SYS_reboot = 169 };
static long call6(long nr, const u64 *a)
{
	register long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tand $-16, %rsp\n\tcall serve\n");
#elif defined(__aarch64__)
enum { SYS_read = 63, SYS_write = 64, SYS_mount = 40, SYS_openat = 56, SYS_mkdirat = 34, SYS_nanosleep = 101, SYS_reboot = 142 };
static long call6(long nr, const u64 *a)
{
	register long x8 __asm__("x8") = nr, x0 __asm__("x0") = a[0], x1 __asm__("x1") = a[1], x2 __asm__("x2") = a[2];
	register long x3 __asm__("x3") = a[3], x4 __asm__("x4") = a[4], x5 __asm__("x5") = a[5];

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tbl serve\n");
#else
#error "an architecture without system calls here"
#endif

static long sys(long nr, u64 a, u64 b, u64 c, u64 d, u64 e)
{
	u64 args[MAX_ARGS] = { a, b, c, d, e, 0 };

	return call6(nr, args);
}

/* The empty asm keeps the compiler from making a loop into a call of the very function it is in. */
void *memcpy(void *to, const void *from, u64 n)
{
	u64 i = 0;

	for (; i + 8 <= n; i += 8) {
		u64 word;

		__builtin_memcpy(&word, (const u8 *)from + i, 8);
		__builtin_memcpy((u8 *)to + i, &word, 8);
		__asm__ volatile("" : : : "memory");
	}
	for (; i < n; i++) {
		((u8 *)to)[i] = ((const u8 *)from)[i];
		__asm__ volatile("" : : : "memory");
	}
	return to;
}

void *memset(void *to, int byte, u64 n)
{
	u64 i = 0, word = (u8)byte * 0x0101010101010101ul;

	for (; i + 8 <= n; i += 8) {
		__builtin_memcpy((u8 *)to + i, &word, 8);
		__asm__ volatile("" : : : "memory");
	}
	for (; i < n; i++) {
		((u8 *)to)[i] = byte;
		__asm__ volatile("" : : : "memory");
	}
	return to;
}

static u8 ask[48 << 20], answer[48 << 20], bufs[96 << 20] __attribute__((aligned(4096)));
static u64 ask_at, ask_end, answer_end, bufs_end;
static long results[MAX_CALLS];

static u32 get32(void)
{
	u32 v = 0;

	if (ask_at + 4 <= ask_end)
		memcpy(&v, ask + ask_at, 4);
	ask_at += 4;
	return v;
}

static u64 get64(void)
{
	u64 low = get32();

	return low | (u64)get32() << 32;
}

static void put(const void *from, u64 n)
{
	if (answer_end + n > sizeof(answer))
		n = 0;
	memcpy(answer + answer_end, from, n);
	answer_end += n;
}

static u32 length_of(const u8 *buf, u32 size, u32 give)
{
	u32 n = 0;

	if (give == TEXT) {
		while (n < size && buf[n])
			n++;
		return n;
	}
	for (n = size; n >= 8 && !*(const u64 *)(buf + n - 8) && n % 8 == 0; n -= 8)
		;
	while (n && !buf[n - 1])
		n--;
	return n;
}

static void make_call(u32 index)
{
	u64 args[MAX_ARGS] = { 0 }, values[MAX_ARGS];
	u32 kinds[MAX_ARGS], sizes[MAX_BUFS], gives[MAX_BUFS], nr = get32(), nargs = get32(), nbufs, nlinks, bad = 0;
	u8 *at[MAX_BUFS];

	for (u32 i = 0; i < nargs; i++) {
		u32 kind = get32();
		u64 value = get64();

		if (i < MAX_ARGS)
			kinds[i] = kind, values[i] = value;
	}
	nbufs = get32();
	bad = nargs > MAX_ARGS || nbufs > MAX_BUFS;
	for (u32 i = 0; i < nbufs && !bad; i++) {
		u32 given;

		sizes[i] = get32();
		gives[i] = get32();
		given = get32();
		at[i] = bufs + bufs_end;
		bufs_end += ((u64)sizes[i] + 79) & ~63ul;
		if (bufs_end > sizeof(bufs) || given > sizes[i] || ask_at + given > ask_end) {
			bad = 1;
			break;
		}
		memcpy(at[i], ask + ask_at, given);
		if (gives[i] == TEXT)
			at[i][given] = 0;
		else
			memset(at[i] + given, 0, sizes[i] - given);
		ask_at += given;
	}
	nlinks = bad ? 0 : get32();
	for (u32 i = 0; i < nlinks; i++) {
		u32 kind = get32(), holder = get32(), offset = get32(), target = get32();
		u64 value = kind == POINTER && target < nbufs ? (u64)at[target] : target < index ? (u64)results[target] : 0;

		if (holder < nbufs && offset + 8 <= sizes[holder] + 8u)
			memcpy(at[holder] + offset, &value, kind == POINTER ? 8 : 4);
	}
	for (u32 i = 0; i < nargs && !bad; i++)
		args[i] = kinds[i] == ADDRESS && values[i] < nbufs ? (u64)at[values[i]]
			: kinds[i] == RESULT && values[i] < index ? (u64)results[values[i]] : values[i];
	results[index] = bad ? -EINVAL : call6(nr, args);
	put(&results[index], 8);
	for (u32 i = 0; i < nbufs && !bad; i++) {
		u32 n;

		if (gives[i] == NOTHING)
			continue;
		n = length_of(at[i], sizes[i], gives[i]);
		put(&n, 4);
		put(at[i], n);
	}
}

static int move(int fd, u8 *at, u64 n, long nr)
{
	while (n) {
		long done = sys(nr, fd, (u64)at, n, 0, 0);

		if (done <= 0) /* the host has gone */
			return -1;
		at += done;
		n -= done;
	}
	return 0;
}

static int send(int fd, u8 *at, u64 n)
{
	u32 size = n;

	return move(fd, (u8 *)&size, 4, SYS_write) || move(fd, at, n, SYS_write);
}

static void mount_on(const char *type, const char *where)
{
	sys(SYS_mkdirat, -100, (u64)where, 0755, 0, 0);
	sys(SYS_mount, (u64)type, (u64)where, (u64)type, 0, 0);
}

void serve(void)
{
	u64 pause[2] = { 0, 2000000 };
	u32 size;
	int fd = -1;

	mount_on("proc", "/proc");
	mount_on("sysfs", "/sys");
	mount_on("devtmpfs", "/dev");
	while ((fd = sys(SYS_openat, -100, (u64)"/dev/vport0p1", 2, 0, 0)) < 0)
		sys(SYS_nanosleep, (u64)pause, 0, 0, 0, 0);
	send(fd, (u8 *)"ready", 5);
	while (!move(fd, (u8 *)&size, 4, SYS_read)) {
		u32 calls;

		if (size > sizeof(ask) || move(fd, ask, size, SYS_read))
			break;
		ask_at = 0, ask_end = size, answer_end = 0, bufs_end = 0;
		calls = get32();
		for (u32 i = 0; i < calls && i < MAX_CALLS; i++)
			make_call(i);
		if (send(fd, answer, answer_end))
			break;
	}
	for (;;) /* with -no-reboot, the emulator ends: a guest does not outlive its host */
		sys(SYS_reboot, 0xfee1dead, 672274793, 0x1234567, 0, 0);
}
