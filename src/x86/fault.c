/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recording a fault and delivering it. Source: SDM vol. 3, 6.13 (error codes), 6.15 (classes), 17.3.1.1 (RF).
 * Threading: the vCPU's thread.
 */
#include "x86/internal.h"

#define BIT_OF(v) (1u << (v))
#define HAS_ERROR_CODE                                                                                                                     \
	(BIT_OF(VEC_DF) | BIT_OF(VEC_TS) | BIT_OF(VEC_NP) | BIT_OF(VEC_SS) | BIT_OF(VEC_GP) | BIT_OF(VEC_PF) | BIT_OF(VEC_AC))
/* #DB never: its handler sets RF itself. Traps and aborts never. */
#define SETS_RF                                                                                                                            \
	(BIT_OF(VEC_DE) | BIT_OF(VEC_BR) | BIT_OF(VEC_UD) | BIT_OF(VEC_NM) | BIT_OF(VEC_TS) | BIT_OF(VEC_NP) | BIT_OF(VEC_SS) |            \
	 BIT_OF(VEC_GP) | BIT_OF(VEC_PF) | BIT_OF(VEC_MF) | BIT_OF(VEC_AC) | BIT_OF(VEC_XM))

void x86_record_fault(struct x86_cpu *c, enum x86_vector v, u32 error, gva_t cr2)
{
	if (c->fault.pending)
		return;
	c->fault.vector = (u8)v;
	c->fault.has_error = (HAS_ERROR_CODE >> v & 1) != 0;
	c->fault.error = error;
	c->fault.cr2 = cr2;
	c->fault.dr6_set = 0;
	c->fault.pending = true;
}

static void enter_debug_exception(struct x86_cpu *c)
{
	c->dr[6] |= c->fault.dr6_set;
	c->dr[7] &= ~(u64)DR7_GD;
	c->msr.debugctl &= ~2ull; /* BTF */
	x86_notify_mode(c);
}

void x86_deliver_fault(struct x86_cpu *c)
{
	struct x86_fault *f = &c->fault;

	if (f->vector == VEC_PF)
		c->cr2 = f->cr2;
	if (f->vector == VEC_DB)
		enter_debug_exception(c);
	if (SETS_RF >> f->vector & 1)
		c->rflags |= FL_RF;
	if (!c->debug_shadow)
		c->dr6_pending = 0; /* traps of an instruction that did not complete */
	f->pending = false;
	x86_interrupt(c, f->vector, INT_EXCEPTION, f->has_error, f->error);
}
