/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The library of the bare-metal test guests: 64-bit mode with 4 GiB identity-mapped, own descriptor tables, all exceptions recorded, ring
 * 3, page-table helpers, local APIC. A guest is one file with a guest_main(); it ends with PASS, FAIL or SKIP on the serial line and on the
 * exit port.
 *
 * Compiled for general registers only; vector instructions are written in assembly where they are the subject.
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

#define PAGE 4096ul
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define UTEXT __attribute__((section(".utext"), noinline, used))
#define UDATA __attribute__((section(".udata"), aligned(16)))
#define PAGE_ALIGNED __attribute__((aligned(4096)))

/* ---- ending and reporting (lib.c) ---- */

#define EXIT_PORT 0xf4
#define EXIT_PASS 0x10 /* process status 33 */
#define EXIT_FAIL 0x11 /* 35 */
#define EXIT_SKIP 0x12 /* 37 */

void guest_main(void);
_Noreturn void guest_exit(u32 value);
_Noreturn void guest_skip(const char *why);
void print(const char *s);
void print_hex(u64 v);
_Noreturn void check_failed(const char *file, int line, const char *what, u64 got, u64 want);
extern u64 loop_count; /* the iteration under way, for failure messages */
extern const char *loop_name;

#define CHECK(cond)                                                                                                                        \
	do {                                                                                                                               \
		if (!(cond))                                                                                                               \
			check_failed(__FILE__, __LINE__, #cond, 0, 1);                                                                     \
	} while (0)
#define CHECK_EQ(got, want)                                                                                                                \
	do {                                                                                                                               \
		u64 got_ = (u64)(got), want_ = (u64)(want);                                                                                \
		if (got_ != want_)                                                                                                         \
			check_failed(__FILE__, __LINE__, #got " == " #want, got_, want_);                                                  \
	} while (0)

/* Run a check often enough to pass every threshold a translator may have: first a few times, then many. */
void loop_check(const char *name, void (*fn)(void), u32 times);
#define LOOP(fn) loop_check(#fn, fn, 2000)
#define FEW(fn) loop_check(#fn, fn, 3)

/* ---- instructions ---- */

static inline void outb(u16 port, u8 v)
{
	__asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outw(u16 port, u16 v)
{
	__asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outl(u16 port, u32 v)
{
	__asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}
static inline u8 inb(u16 port)
{
	u8 v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline u16 inw(u16 port)
{
	u16 v;
	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline u32 inl(u16 port)
{
	u32 v;
	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline u64 rdmsr(u32 msr)
{
	u32 lo, hi;
	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (u64)hi << 32 | lo;
}
static inline void wrmsr(u32 msr, u64 v)
{
	__asm__ volatile("wrmsr" ::"c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
#define CR_ACCESSORS(n)                                                                                                                    \
	static inline u64 read_cr##n(void)                                                                                                 \
	{                                                                                                                                  \
		u64 v;                                                                                                                     \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(v));                                                                          \
		return v;                                                                                                                  \
	}                                                                                                                                  \
	static inline void write_cr##n(u64 v)                                                                                              \
	{                                                                                                                                  \
		__asm__ volatile("mov %0, %%cr" #n ::"r"(v) : "memory");                                                                   \
	}
CR_ACCESSORS(0)
CR_ACCESSORS(2)
CR_ACCESSORS(3)
CR_ACCESSORS(4)
CR_ACCESSORS(8)
#define DR_ACCESSORS(n)                                                                                                                    \
	static inline u64 read_dr##n(void)                                                                                                 \
	{                                                                                                                                  \
		u64 v;                                                                                                                     \
		__asm__ volatile("mov %%db" #n ", %0" : "=r"(v));                                                                          \
		return v;                                                                                                                  \
	}                                                                                                                                  \
	static inline void write_dr##n(u64 v)                                                                                              \
	{                                                                                                                                  \
		__asm__ volatile("mov %0, %%db" #n ::"r"(v));                                                                              \
	}
DR_ACCESSORS(0)
DR_ACCESSORS(1)
DR_ACCESSORS(6)
DR_ACCESSORS(7)
static inline void invlpg(const volatile void *p)
{
	__asm__ volatile("invlpg (%0)" ::"r"(p) : "memory");
}
static inline u64 rdtsc(void)
{
	u32 lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}
static inline u64 flags_get(void)
{
	u64 v;
	__asm__ volatile("pushfq; pop %0" : "=r"(v));
	return v;
}
static inline void flags_set(u64 v)
{
	__asm__ volatile("push %0; popfq" ::"r"(v) : "memory", "cc");
}
static inline void cpuid(u32 leaf, u32 sub, u32 *r)
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}
/* Known deviations are left out, each with its reason: those of QEMU's CPU, of its machine, of its CPU beneath KVM, and KVM's own. */
bool on_qemu_tcg(void);
bool in_qemu(void);
bool on_qemu_svm(void);
bool on_kvm(void);
void halt_until_interrupt(void);		     /* with interrupts on meanwhile */
bool cpuid_bit(u32 leaf, u32 sub, u32 reg, u32 bit); /* reg: 0 eax ... 3 edx; false when the leaf is beyond the maximum */
static inline void sti(void)
{
	__asm__ volatile("sti" ::: "memory");
}
static inline void cli(void)
{
	__asm__ volatile("cli" ::: "memory");
}

void *memset(void *d, int c, u64 n);
void *memcpy(void *d, const void *s, u64 n);
int memcmp(const void *a, const void *b, u64 n);

/* ---- traps (trap.c) ---- */

enum {
	DE = 0,
	DB = 1,
	NMI = 2,
	BP = 3,
	OF = 4,
	BR = 5,
	UD = 6,
	NM = 7,
	DF = 8,
	TS = 10,
	NP = 11,
	SS = 12,
	GP = 13,
	PF = 14,
	MF = 16,
	AC = 17,
	XM = 19
};
#define NO_TRAP 0x1ff
#define USER_EXIT 0x80

struct trap_frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	u64 vector, error, rip, cs, rflags, rsp, ss;
};

/* The last trap that was not handled by a handler. */
struct trap_record {
	u64 vector, error, cr2, dr6, count;
	struct trap_frame frame;
};
extern struct trap_record trap;
void trap_clear(void);

/* Assembly around one instruction (or several: the first that faults ends it) that may fault: execution goes on behind it, and `trap` says
 * what happened. The record's rip is the instruction's (faults) or its successor's (traps), otherwise the guest fails. */
#define TRY(insn) "771:\n\t" insn "\n772:\n\t.pushsection .extable, \"a\"\n\t.quad 771b, 772b\n\t.popsection\n\t"
#define TRIED(vec, err)                                                                                                                    \
	do {                                                                                                                               \
		CHECK_EQ(trap.vector, vec);                                                                                                \
		if ((vec) != NO_TRAP)                                                                                                      \
			CHECK_EQ(trap.error, err);                                                                                         \
	} while (0)

typedef bool (*trap_handler)(struct trap_frame *f); /* true: handled, return to where the frame says */
void trap_set_handler(u32 vector, trap_handler fn);

/* fn(arg), ended by the first unhandled trap; trap.vector is NO_TRAP when there was none. */
u64 trap_guarded(u64 (*fn)(u64), u64 arg);
u64 call_address(u64 at); /* for trap_guarded */

/* ---- descriptors (desc.c) ---- */

#define SEL_CODE64 0x08
#define SEL_DATA 0x10
#define SEL_CODE32 0x18
#define SEL_UCODE32 0x23 /* ring 3 as Linux has it: user code may then run directly */
#define SEL_UDATA 0x2b
#define SEL_UCODE64 0x33
#define SEL_CODE16 0x38
#define SEL_TSS 0x40
#define SEL_SPARE 0x50 /* and up, to the end of the table */
#define GDT_ENTRIES 32

struct tss {
	u32 reserved0;
	u64 rsp[3];
	u64 reserved1;
	u64 ist[7];
	u64 reserved2;
	u16 reserved3, iomap;
	u8 bitmap[8193];
} __attribute__((packed));

struct idt_gate {
	u16 off0, sel;
	u8 ist, type;
	u16 off1;
	u32 off2, zero;
};

struct __attribute__((packed)) dtr {
	u16 limit;
	u64 base;
};

extern u64 gdt[GDT_ENTRIES];
extern struct idt_gate idt[256];
extern struct tss tss;
void idt_set(u32 vector, const void *handler, u32 type_dpl, u32 ist); /* type_dpl: 0x8e interrupt gate, 0x8f trap gate, 0xee for ring 3 */
void desc_load(void);
u64 gate_error(u32 vector); /* the error code of a fault that names an IDT entry (by INT n) */

/* ---- paging (paging.c) ---- */

#define P 1ul
#define W 2ul
#define U 4ul
#define PWT 8ul
#define PCD 16ul
#define A 32ul
#define D 64ul
#define PS 128ul
#define G 256ul
#define NX (1ul << 63)
#define ADDR_MASK 0x000ffffffffff000ul

#define PFE_P 1
#define PFE_W 2
#define PFE_U 4
#define PFE_RSVD 8
#define PFE_I 16

#define CR4_UMIP (1ul << 11)
#define CR4_FSGSBASE (1ul << 16)
#define CR4_PCIDE (1ul << 17)
#define CR4_OSXSAVE (1ul << 18)
#define CR4_SMEP (1ul << 20)
#define CR4_SMAP (1ul << 21)
#define CR4_PGE (1ul << 7)
#define CR4_DE (1ul << 3)
#define CR4_TSD (1ul << 2)

void *page_alloc(void); /* zeroed; never freed */
/* The entry that maps va at level 1 (4 KiB), 2 (2 MiB) or 3 (1 GiB) in the address space of root, making tables (and splitting large pages)
 * on the way down. Intermediate entries allow everything. */
u64 *paging_entry(u64 root, u64 va, u32 level);
void paging_map(u64 va, u64 pa, u64 flags); /* 4 KiB in the current address space, with invlpg */
u64 paging_clone(void);			    /* a new root with the same entries at the top */
static inline u64 paging_root(void)
{
	return read_cr3() & ADDR_MASK;
}

#define TEST_VA 0x8000000000ul /* 512 GiB, a top-level entry of its own: nothing is there, for mappings of the tests */

/* ---- ring 3 (user.c) ---- */

struct user_context {
	u64 rip, cs, rflags, rsp, ss, arg;
};
u64 user_enter(const struct user_context *u); /* until int $0x80 (returns rax) or an unhandled trap */
u64 user_call(u64 (*fn)(u64), u64 arg);	      /* fn in .utext, 64-bit, IF set; trap.vector is NO_TRAP when it returned */
u64 user_call_flags(u64 (*fn)(u64), u64 arg, u64 rflags);
u64 user_read(u64 at); /* for user_call: 0 when it trapped */
u64 user_fetch(u64 at);
extern u8 user_stack[8192];

/* ---- local APIC (apic.c) ---- */

#define APIC_ID 0x20
#define APIC_EOI 0xb0
#define APIC_SPIV 0xf0
#define APIC_ICR 0x300
#define APIC_ICR2 0x310
#define APIC_LVTT 0x320
#define APIC_TMICT 0x380
#define APIC_TMCCT 0x390
#define APIC_TDCR 0x3e0
extern volatile u32 irq_count[256];
void apic_enable(void); /* xAPIC, spurious vector 0xff */
u32 apic_read(u32 reg);
void apic_write(u32 reg, u32 v);
void irq_catch(u32 vector);					     /* count it and send EOI */
bool wait_until(volatile u32 *counter, u32 at_least, u64 tsc_limit); /* with interrupts on */
