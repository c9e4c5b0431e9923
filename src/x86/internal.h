/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of src/x86 share and nobody else needs: descriptors, stacks of any width, calls to the environment, libc-free copying.
 * Threading: the vCPU's thread.
 */
#pragma once

#include "base/guest_memory.h"
#include "x86/rules.h"

/* Before each load or store of guest RAM through a host address. */
static inline void x86_touch(const struct x86_cpu *c, const u8 *host, u32 len, bool write)
{
	if (GM_BOUNDS_CHECKS && c->env->ram_touched)
		c->env->ram_touched(c->env->opaque, host, len, write);
}

/* ---- copying without libc ---- */

typedef struct {
	u16 v;
} __attribute__((packed, may_alias)) u16_any;
typedef struct {
	u32 v;
} __attribute__((packed, may_alias)) u32_any;
typedef struct {
	u64 v;
} __attribute__((packed, may_alias)) u64_any;

/* The empty asm keeps compilers from recognising memcpy and memset in these loops. */
static inline void x86_copy(void *dst, const void *src, u64 len)
{
	u8 *d = dst;
	const u8 *s = src;

	if (len >= 128) {
		__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(len) : : "memory");
		return;
	}
	for (; len >= 8; len -= 8, d += 8, s += 8) {
		((u64_any *)d)->v = ((const u64_any *)s)->v;
		__asm__ volatile("" : : : "memory");
	}
	for (; len; len--) {
		*d++ = *s++;
		__asm__ volatile("" : : : "memory");
	}
}

static inline void x86_zero(void *dst, u64 len)
{
	__asm__ volatile("rep stosb" : "+D"(dst), "+c"(len) : "a"(0) : "memory");
}

/* One load or store of 1, 2, 4 or 8 bytes, so that aligned values never tear. */
static inline u64 x86_load_host(const u8 *p, u32 size)
{
	switch (size) {
	case 1:
		return *(const volatile u8 *)p;
	case 2:
		return ((const volatile u16_any *)p)->v;
	case 4:
		return ((const volatile u32_any *)p)->v;
	default:
		return ((const volatile u64_any *)p)->v;
	}
}

static inline void x86_store_host(u8 *p, u32 size, u64 v)
{
	switch (size) {
	case 1:
		*(volatile u8 *)p = (u8)v;
		break;
	case 2:
		((volatile u16_any *)p)->v = (u16)v;
		break;
	case 4:
		((volatile u32_any *)p)->v = (u32)v;
		break;
	default:
		((volatile u64_any *)p)->v = v;
		break;
	}
}

static inline u64 x86_size_mask(u32 size)
{
	return size >= 8 ? ~0ull : (1ull << (size * 8)) - 1;
}

/* ---- the environment ---- */

static inline void x86_notify_mode(struct x86_cpu *c)
{
	if (c->env && c->env->mode_changed)
		c->env->mode_changed(c->env->opaque);
}

static inline void x86_flush_all(struct x86_cpu *c)
{
	if (c->env && c->env->tlb_flush_all)
		c->env->tlb_flush_all(c->env->opaque);
}

static inline void x86_flush_pcid(struct x86_cpu *c, u16 pcid)
{
	if (c->env->tlb_flush_pcid)
		c->env->tlb_flush_pcid(c->env->opaque, pcid);
}

/* ---- vendor and features ---- */

#define X86_VENDOR_AMD 0x68747541u   /* "Auth"enticAMD */
#define X86_VENDOR_HYGON 0x6f677948u /* "Hygo"nGenuine */

static inline bool x86_is_amd(const struct x86_cpu *c)
{
	u32 ebx = c->cpuid->leaf[0].ebx; /* leaf 0 comes first in every policy */

	return ebx == X86_VENDOR_AMD || ebx == X86_VENDOR_HYGON;
}

/* ---- descriptors (SDM vol. 3, 3.4.5, 3.5, 5.8.3, 6.11, 6.14.1) ---- */

enum {
	SYS_TSS16 = 1,
	SYS_LDT = 2,
	SYS_TSS16_BUSY = 3,
	SYS_CALL16 = 4,
	SYS_TASK_GATE = 5,
	SYS_INT16 = 6,
	SYS_TRAP16 = 7,
	SYS_TSS = 9,
	SYS_TSS_BUSY = 11,
	SYS_CALL = 12,
	SYS_INT = 14,
	SYS_TRAP = 15,
};
#define TYPE_ACCESSED 1u
#define TYPE_RW 2u /* data: writable; code: readable */
#define TYPE_DC 4u /* data: expand down; code: conforming */
#define TYPE_CODE 8u

#define SEL_RPL 3u
#define SEL_TI 4u
#define SEL_ERR(sel) ((u32)(sel)&0xfffcu)

static inline bool sel_null(u16 sel)
{
	return (sel & 0xfffc) == 0;
}
static inline u32 desc_attr(u64 d)
{
	return (u32)(d >> 40) & 0xf0ff;
}
static inline u32 desc_type(u64 d)
{
	return (u32)(d >> 40) & 0xf;
}
static inline u32 desc_dpl(u64 d)
{
	return (u32)(d >> 45) & 3;
}
static inline bool desc_present(u64 d)
{
	return d >> 47 & 1;
}
static inline u64 desc_base(u64 d)
{
	return (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000);
}
static inline u32 desc_limit(u64 d)
{
	u32 raw = (u32)(d & 0xffff) | ((u32)(d >> 32) & 0xf0000);

	return d >> 55 & 1 ? raw << 12 | 0xfff : raw;
}
/* Code or data descriptor of the kind asked for. */
static inline bool desc_is_code(u64 d)
{
	return (d >> 40 & (SEGA_S | TYPE_CODE)) == (SEGA_S | TYPE_CODE);
}
static inline bool desc_is_data(u64 d)
{
	return (d >> 40 & (SEGA_S | TYPE_CODE)) == SEGA_S;
}
static inline bool desc_conforming(u64 d)
{
	return (d >> 40 & TYPE_DC) != 0;
} /* of code */
static inline bool desc_is_stack(u64 d)
{
	return desc_is_data(d) && (d >> 40 & TYPE_RW);
}
static inline bool desc_is_code64(u64 d)
{
	return d >> 53 & 1;
}
static inline bool desc_l_and_d(u64 d)
{
	return (d >> 53 & 3) == 3;
}

static inline u32 gate_sel(u64 g)
{
	return (u32)(g >> 16) & 0xffff;
}
static inline u64 gate_off32(u64 g)
{
	return (g & 0xffff) | (g >> 32 & 0xffff0000);
}

static inline void x86_seg_from_desc(struct x86_seg *s, u16 sel, u64 d)
{
	s->sel = sel;
	s->attr = desc_attr(d);
	s->limit = desc_limit(d);
	s->base = desc_base(d);
}

static inline void x86_seg_null(struct x86_seg *s, u16 sel, u32 dpl)
{
	s->sel = sel;
	s->attr = SEGA_UNUSABLE | dpl << SEGA_DPL_SHIFT;
	s->limit = 0;
	s->base = 0;
}

static inline void x86_seg_v86(struct x86_seg *s, u16 sel)
{
	s->sel = sel;
	s->attr = SEGA_P | SEGA_S | 3u << SEGA_DPL_SHIFT | TYPE_RW | TYPE_ACCESSED;
	s->limit = 0xffff;
	s->base = (u64)sel << 4;
}

/* The fixed segments of SYSCALL, SYSENTER and their returns: flat, present, accessed. */
static inline void x86_seg_flat(struct x86_seg *s, u32 sel, u32 type, u32 dpl, u32 extra)
{
	s->sel = (u16)sel;
	s->attr = type | SEGA_S | dpl << SEGA_DPL_SHIFT | SEGA_P | SEGA_G | extra;
	s->limit = 0xffffffff;
	s->base = 0;
}

static inline bool x86_v86(const struct x86_cpu *c)
{
	return (c->rflags & FL_VM) && (c->cr0 & CR0_PE);
}

/* Does [off, off+len) respect the segment's limit? */
static inline bool x86_in_limit(const struct x86_seg *s, u64 off, u32 len)
{
	u64 last = off + len - 1;

	if ((s->attr & (SEGA_S | TYPE_CODE | TYPE_DC)) == (SEGA_S | TYPE_DC)) /* expand down */
		return off > s->limit && last <= (s->attr & SEGA_DB ? 0xffffffffu : 0xffffu);
	return last <= s->limit;
}

/* An 8-byte descriptor out of GDT or LDT; outside the table: fault `v` with the selector (| ext). `sel` is not null. */
bool x86_desc_read(struct x86_cpu *c, u16 sel, u64 *d, enum x86_vector v, u32 ext);
/* The upper half of a 16-byte system descriptor in long mode; 0 otherwise. Type bits set in it: fault. */
bool x86_desc_read_high(struct x86_cpu *c, u16 sel, u64 *high, enum x86_vector v, u32 ext);
/* Give the descriptor another type, in memory if it is still what *d says (*done), and in *d. False: fault recorded. */
bool x86_desc_change_type(struct x86_cpu *c, u16 sel, u64 *d, u32 type, bool *done);
/* Set the accessed (or with `bit` 2 the busy) bit of the descriptor's type in memory and in *d. */
bool x86_desc_set_type_bit(struct x86_cpu *c, u16 sel, u64 *d, u32 bit);

/* The CPL changes to that of c->seg[SS]; on return to an outer level, data segments that it may not use become null. */
void x86_drop_data_segs(struct x86_cpu *c);

/* Checks shared by RET far and IRET for the CS and SS they return to. */
bool x86_check_return_cs(struct x86_cpu *c, u16 sel, u64 rip, u64 *d);
bool x86_check_return_ss(struct x86_cpu *c, u16 sel, u32 new_cpl, bool to64, u64 *d);

/* ---- a stack of any width ---- */

struct x86_stack {
	struct x86_cpu *c;
	struct x86_seg ss;
	u64 sp;	  /* as it will be written back */
	u64 mask; /* how much of it wraps and counts */
	u32 size; /* of a slot */
	u32 acc;  /* ACC_USER or 0 */
	u32 ext;  /* for #SS error codes */
	bool flat;
};

void x86_stack_current(struct x86_stack *s, struct x86_cpu *c, u32 size);
void x86_stack_other(struct x86_stack *s, struct x86_cpu *c, const struct x86_seg *ss, u64 sp, u32 size, u32 ext);
bool x86_push(struct x86_stack *s, u64 val);
bool x86_pop(struct x86_stack *s, u64 *val);
void x86_stack_skip(struct x86_stack *s, u64 bytes);
/* `n` slots from the top into to[0..n-1]; *s moves behind them. The order, which shows when one of them faults, is the vendor's: AMD's CPUs read
 * a frame of a far return from the higher slot down. */
bool x86_pop_frame(struct x86_stack *s, u64 *to, u32 n);
/* Does a far return to `cs` look at the outer stack pointer? AMD's CPUs do that before they check the selector, on any other level. */
bool x86_pops_stack(const struct x86_cpu *c, u64 cs);
/* RSP after a return that popped `sp`, in the width of the new code and stack segments. */
void x86_set_return_sp(struct x86_cpu *c, u64 sp);

/* SS:SP for privilege level `dpl` from the TSS of the legacy modes, checked (#TS, #SS); in long mode RSPn. */
bool x86_tss_stack(struct x86_cpu *c, u32 dpl, struct x86_seg *ss, u64 *sp, u32 ext);
bool x86_tss_rsp(struct x86_cpu *c, u32 offset, u64 *rsp, u32 ext);
/* A field of the current TSS; beyond its limit: #TS. */
bool x86_tss_read(struct x86_cpu *c, u32 offset, u32 size, u64 *val, u32 ext);

/* ---- task switches ----
 * False: a fault is recorded. Without c->task_switched nothing has changed and the fault is the old task's; with it all of the switch is done,
 * c->rip is the new task's and the fault is raised there. */
enum x86_task_way {
	TASK_JUMP,   /* the old task ends: JMP */
	TASK_CALL,   /* the old task waits, the new one is nested: CALL, interrupts, exceptions */
	TASK_RETURN, /* the nested task ends, the one that waits goes on: IRET */
};
/* Is the descriptor one that JMP and CALL switch tasks by? */
bool x86_is_task(const struct x86_cpu *c, u64 d);
/* JMP or CALL far to such a descriptor. */
bool x86_task_transfer(struct x86_cpu *c, u16 sel, u64 d, enum x86_task_way way, u64 next_rip);
/* A task gate of the IDT names the TSS `sel`. error: what to push on the new task's stack, or NULL. c->rip is what is saved. */
bool x86_task_interrupt(struct x86_cpu *c, u16 sel, u32 ext, const u32 *error);
/* IRET with NT set. */
bool x86_task_return(struct x86_cpu *c, u64 next_rip);

/* ---- msr.c's helpers ---- */
bool x86_mtrr_read(struct x86_cpu *c, u32 msr, u64 *val);
bool x86_mtrr_write(struct x86_cpu *c, u32 msr, u64 val);
bool x86_pat_valid(u64 val);

/* ---- mmu.c ---- */
bool x86_pdptes_valid(struct x86_cpu *c, u64 cr3);
