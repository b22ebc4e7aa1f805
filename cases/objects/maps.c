// A program with maps, constants, variables, and two functions: one static, one global.
typedef unsigned long long u64;
typedef unsigned int u32;
#define SEC(name) __attribute__((section(name), used))
#define NUMBER(name, value) int(*name)[value]

struct ctx { u64 v[4]; };
struct pair { u64 sum; u32 count; };

struct {
	NUMBER(type, 2);
	u32 *key;
	struct pair *value;
	NUMBER(max_entries, 4);
} pairs SEC(".maps");

struct {
	NUMBER(type, 1);
	NUMBER(key_size, 8);
	NUMBER(value_size, 8);
	NUMBER(max_entries, 16);
} seen SEC(".maps");

static void *(*lookup)(void *map, const void *key) = (void *)1;
static long (*update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;

const volatile u32 weights[4] = { 3, 5, 7, 11 };
volatile u64 calls = 100;
volatile u64 zeroed;

static __attribute__((noinline)) u32 weight(u64 index)
{
	calls += 1;
	return weights[index & 3];
}

__attribute__((noinline)) int note(u64 key, u64 value)
{
	u64 k = key, v = value;
	return update(&seen, &k, &v, 1);
}

SEC("syscall") int counts(struct ctx *c)
{
	u32 key = c->v[0] & 3;
	struct pair *pair = lookup(&pairs, &key);

	if (!pair)
		return -1;
	pair->sum += weight(c->v[1]);
	pair->count++;
	zeroed = calls;
	return note(c->v[1], pair->sum) * 1000 + (int)pair->sum;
}
