// Every kind of type that BTF has, for its rendering as C.
typedef unsigned long long u64;
typedef unsigned char u8;
enum small { LOW, HIGH = 7 };
enum negative { MINUS = -5, PLUS };
enum big { HUGE_VALUE = 0x1122334455667788ull };
enum tiny { T0, T1 } __attribute__((packed));
struct list { struct list *next; void (*call)(struct list *l, int n); };
union both { u64 whole; struct { u8 low, high; } part; u8 bytes[8]; };
struct bits { unsigned a : 3; unsigned b : 5; unsigned : 4; unsigned c : 20; u64 d : 40; int e; };
struct packed_one { u8 a; u64 b; short c; } __attribute__((packed));
struct holes { u8 a; u64 b __attribute__((aligned(16))); u8 c; };
struct tail { int n; char text[]; };
struct outer { struct { int x; union { int y; float z; }; } inner; const volatile int *restrict p; int grid[2][3]; enum tiny t; double f; };
typedef int (*compare)(const void *, const void *);
typedef struct { int x, y; } point;
struct uses { compare c; point p; struct unknown *u; union also_unknown *v; _Bool yes; __int128 wide; int (*rows)[4]; char *(*names)[2]; };
struct wrapped { struct packed_one a; struct bits b; };

static volatile u64 counter = 5;
const volatile enum big large = HUGE_VALUE;
struct list head;
struct bits bits; struct holes holes; union both both; struct tail *tail; struct outer outer; struct uses uses; struct wrapped wrapped;
enum small small; enum negative negative;

__attribute__((section("syscall"), used)) int main_prog(struct uses *u) { return counter + u->yes; }
__attribute__((section("syscall"), used)) int other(struct uses *u) { point p = {u->yes, 1}; return p.x; }
