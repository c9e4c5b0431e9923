/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions that need nothing of vector state, carried out without saving it.
 *
 * Light code. Threading: the vCPU's thread.
 */
#include "engine/bt/events.h"
#include "engine/bt/table.h"

static bool tsc_allowed(struct x86_cpu *c)
{
	if ((c->cr4 & CR4_TSD) && x86_cpl(c) != 0)
		return x86_raise_err(c, VEC_GP, 0);
	return true;
}

static bool light_tsc(struct bt_vcpu *v, bool aux)
{
	struct x86_cpu *c = &v->cpu;
	if (!tsc_allowed(c))
		return false;
	if (aux) /* RDTSCP waits for the loads before it, lest a CPU see a time before one that another wrote down. SDM vol. 2B */
		__asm__ volatile("lfence" : : : "memory");
	u64 t = bt_host_tsc() + v->tsc_offset + c->tsc_offset;
	c->gpr[R_RAX] = (u32)t;
	c->gpr[R_RDX] = t >> 32;
	if (aux)
		c->gpr[R_RCX] = (u32)c->msr.tsc_aux;
	return true;
}

static bool light_cpuid(struct bt_vcpu *v)
{
	struct x86_cpu *c = &v->cpu;
	u32 out[4];
	x86_cpuid(c, v->id, (u32)c->gpr[R_RAX], (u32)c->gpr[R_RCX], out);
	c->gpr[R_RAX] = out[0];
	c->gpr[R_RBX] = out[1];
	c->gpr[R_RCX] = out[2];
	c->gpr[R_RDX] = out[3];
	return true;
}

static bool light_rdmsr(struct x86_cpu *c)
{
	u64 val;
	if (!x86_rdmsr(c, (u32)c->gpr[R_RCX], &val))
		return false;
	c->gpr[R_RAX] = (u32)val;
	c->gpr[R_RDX] = val >> 32;
	return true;
}

static bool light_fsgsbase(struct x86_cpu *c, u32 op, u32 arg)
{
	if (!(c->cr4 & CR4_FSGSBASE))
		return x86_raise(c, VEC_UD);
	u64 *reg = &c->gpr[arg & 15];
	bool wide = arg & 16;
	u64 *base = &c->seg[op == LIGHT_RDFSBASE || op == LIGHT_WRFSBASE ? SEG_FS : SEG_GS].base;
	if (op == LIGHT_RDFSBASE || op == LIGHT_RDGSBASE) {
		*reg = wide ? *base : (u32)*base;
		return true;
	}
	u64 val = wide ? *reg : (u32)*reg;
	if (!x86_canonical(val))
		return x86_raise_err(c, VEC_GP, 0);
	*base = val;
	return true;
}

bool bt_light_op(struct bt_vcpu *v, u32 op, u32 arg, gva_t next, bool *jumped)
{
	struct x86_cpu *c = &v->cpu;
	*jumped = false;
	switch ((enum bt_light_op)op) {
	case LIGHT_SYSCALL:
		*jumped = true;
		return x86_syscall(c, next);
	case LIGHT_SYSRET:
		*jumped = true;
		return x86_sysret(c, arg);
	case LIGHT_IRET:
		*jumped = true;
		return x86_iret(c, arg, next);
	case LIGHT_SWAPGS:
		return true;
	case LIGHT_RDMSR:
		return light_rdmsr(c);
	case LIGHT_WRMSR:
		return x86_wrmsr(c, (u32)c->gpr[R_RCX], (u64)(u32)c->gpr[R_RDX] << 32 | (u32)c->gpr[R_RAX]);
	case LIGHT_CPUID:
		return light_cpuid(v);
	case LIGHT_RDTSC:
		return light_tsc(v, false);
	case LIGHT_RDTSCP:
		return light_tsc(v, true);
	case LIGHT_RDPID:
		c->gpr[arg & 15] = (u32)c->msr.tsc_aux;
		return true;
	case LIGHT_CLTS:
		return x86_write_cr(c, 0, c->cr0 & ~(u64)CR0_TS);
	case LIGHT_INVLPG:
		x86_serialise();
		if (x86_canonical(v->target))
			bt_shadow_flush_page(v, v->target, -1);
		return true;
	case LIGHT_CLD:
		c->rflags &= ~(u64)FL_DF;
		return true;
	case LIGHT_STD:
		c->rflags |= FL_DF;
		return true;
	case LIGHT_RDFSBASE:
	case LIGHT_RDGSBASE:
	case LIGHT_WRFSBASE:
	case LIGHT_WRGSBASE:
		return light_fsgsbase(c, op, arg);
	case LIGHT_MOV_FROM_SEG:
		c->gpr[arg >> 4] = (arg & 8 ? c->gpr[arg >> 4] & ~(u64)0xffff : 0) | c->seg[arg & 7].sel;
		return true;
	case LIGHT_MOV_TO_SEG:
		return x86_load_seg(c, arg & 7, (u16)c->gpr[arg >> 4]);
	case LIGHT_MOV_FROM_CR:
		return x86_read_cr(c, arg & 15, &c->gpr[arg >> 4]);
	case LIGHT_MOV_TO_CR:
		return x86_write_cr(c, arg & 15, c->gpr[arg >> 4]);
	case LIGHT_PAUSE:
		bt_pause(v);
		return true;
	case LIGHT_STRING:
	case LIGHT_COUNT:
		break;
	}
	return true;
}
