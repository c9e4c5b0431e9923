/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Debug registers and breakpoints. Source: SDM vol. 3, 17.2 and 17.3; vol. 2, MOV DR.
 * Threading: the vCPU's thread.
 */
#include "x86/internal.h"

#define DR6_WRITABLE (0xfu | DR6_BD | DR6_BS | DR6_BT)
#define DR7_WRITABLE 0xffff23ffull

enum bp_kind { BP_EXECUTE, BP_WRITE, BP_IO, BP_ACCESS };

static bool bp_enabled(const struct x86_cpu *c, u32 i)
{
	return c->dr[7] >> (i * 2) & 3;
}
static enum bp_kind bp_kind(const struct x86_cpu *c, u32 i)
{
	return c->dr[7] >> (16 + i * 4) & 3;
}
static u32 bp_len(const struct x86_cpu *c, u32 i)
{
	static const u8 len[4] = {1, 2, 8, 4};

	return len[c->dr[7] >> (18 + i * 4) & 3];
}

/* Do [a, a+len) and the breakpoint's naturally aligned range share a byte? */
static bool bp_overlaps(const struct x86_cpu *c, u32 i, u64 a, u32 len)
{
	u64 first = c->dr[i] & ~(u64)(bp_len(c, i) - 1);

	return a - first < bp_len(c, i) || first - a < len;
}

static void watch_access(struct x86_watch *w, gva_t gva, u32 len, bool write)
{
	for (u32 i = 0; i < w->n && !w->met; i++) {
		const struct x86_watchpoint *p = &w->point[i];

		if ((write ? p->writes : p->reads) && (gva - p->gva < p->len || p->gva - gva < len)) {
			w->hit = *p;
			w->met = true;
		}
	}
}

void x86_data_breakpoint(struct x86_cpu *c, gva_t gva, u32 len, bool write)
{
	if (c->watch)
		watch_access(c->watch, gva, len, write);
	for (u32 i = 0; i < 4; i++) {
		enum bp_kind kind = bp_kind(c, i);
		bool watches = kind == BP_ACCESS || (kind == BP_WRITE && write);

		if (bp_enabled(c, i) && watches && bp_overlaps(c, i, gva, len))
			c->dr6_pending |= DR6_B(i);
	}
}

void x86_io_breakpoint(struct x86_cpu *c, u16 port, u32 size)
{
	if (!(c->cr4 & CR4_DE))
		return;
	for (u32 i = 0; i < 4; i++)
		if (bp_enabled(c, i) && bp_kind(c, i) == BP_IO && bp_overlaps(c, i, port, size))
			c->dr6_pending |= DR6_B(i);
}

static void raise_db(struct x86_cpu *c, u64 dr6)
{
	if (c->fault.pending)
		return;
	x86_raise(c, VEC_DB);
	c->fault.dr6_set = dr6;
}

bool x86_take_debug_trap(struct x86_cpu *c)
{
	if (likely(!c->dr6_pending) || c->debug_shadow || c->fault.pending)
		return false;
	raise_db(c, c->dr6_pending);
	c->dr6_pending = 0;
	return true;
}

bool x86_code_breakpoint(struct x86_cpu *c, gva_t rip_linear)
{
	u64 hit = 0;

	if (likely(!(c->dr[7] & DR7_ENABLED)) || c->rflags & FL_RF || c->debug_shadow)
		return false;
	for (u32 i = 0; i < 4; i++)
		if (bp_enabled(c, i) && bp_kind(c, i) == BP_EXECUTE && c->dr[i] == rip_linear)
			hit |= DR6_B(i);
	if (hit)
		raise_db(c, hit);
	return hit != 0;
}

/* Common conditions of MOV to and from DRn; resolves the aliases of 4 and 5. */
static bool dr_accessible(struct x86_cpu *c, u32 *n)
{
	if (*n > 7)
		return x86_raise(c, VEC_UD);
	if (*n == 4 || *n == 5) {
		if (c->cr4 & CR4_DE)
			return x86_raise(c, VEC_UD);
		*n += 2;
	}
	if (x86_cpl(c) != 0)
		return x86_raise_err(c, VEC_GP, 0);
	if (c->dr[7] & DR7_GD) {
		raise_db(c, DR6_BD);
		return false;
	}
	return true;
}

bool x86_read_dr(struct x86_cpu *c, u32 n, u64 *val)
{
	if (!dr_accessible(c, &n))
		return false;
	*val = c->dr[n];
	return true;
}

bool x86_write_dr(struct x86_cpu *c, u32 n, u64 val)
{
	if (!dr_accessible(c, &n))
		return false;
	x86_serialise();
	if (n >= 6 && val >> 32)
		return x86_raise_err(c, VEC_GP, 0);
	if (n == 6)
		val = (val & DR6_WRITABLE) | DR6_FIXED;
	if (n == 7)
		val = (val & DR7_WRITABLE) | DR7_FIXED;
	c->dr[n] = val;
	x86_notify_mode(c);
	return true;
}
