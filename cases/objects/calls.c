// Two static functions, a global one, a kfunc, a second program, and every kind of parameter that BTF can say here.
typedef unsigned long long u64;
typedef int s32;
enum color { RED, GREEN };
struct pair { u64 a, b; };
struct ctx { u64 v[4]; };
#define SEC(name) __attribute__((section(name), used))

extern u64 kf(u64 a, const struct pair *p) SEC(".ksyms");

static __attribute__((noinline)) u64 leaf(u64 a, s32 b, char c)
{
	return a * 3 + b - c;
}

static __attribute__((noinline)) u64 inner(struct ctx *c, enum color color, _Bool yes)
{
	return leaf(c->v[1], color, yes) + 1;
}

__attribute__((noinline)) int shared(unsigned short n)
{
	return n + 7;
}

SEC("syscall") int main_prog(struct ctx *c)
{
	c->v[0] = inner(c, GREEN, 1) + leaf(c->v[2], -5, 'x');
	return shared(c->v[3]);
}

SEC("syscall") int with_kfunc(struct ctx *c)
{
	struct pair p = { c->v[0], c->v[1] };

	return kf(c->v[2], &p);
}

char _license[] SEC("license") = "GPL";
