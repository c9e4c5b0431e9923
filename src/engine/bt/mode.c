/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mode of translated code: what of the CPU's state it depends on. Blocks are keyed by it, and the jump caches serve one each for user and supervisor
 * code.
 *
 * Light code. Threading: the vCPU's thread.
 */
#include "engine/bt/events.h"

static u32 vector_mode(const struct x86_cpu *c)
{
	if (c->cr0 & (CR0_EM | CR0_TS))
		return 0;
	u32 mode = MODE_X87;
	if (!(c->cr4 & CR4_OSFXSR))
		return mode;
	mode |= MODE_SSE;
	if (!(c->cr4 & CR4_OSXSAVE) || (c->xcr0 & 6) != 6)
		return mode;
	mode |= MODE_AVX;
	return (c->xcr0 & 0xe6) == 0xe6 ? mode | MODE_AVX512 : mode;
}

static u32 mode_of(const struct x86_cpu *c)
{
	bool user = x86_cpl(c) == 3;
	bool middle = x86_cpl(c) == 1 || x86_cpl(c) == 2; /* system instructions in line know rings 0 and 3 */
	if (!x86_code64(c) && user && x86_long_mode(c) && !(c->rflags & (FL_TF | FL_VM)) && !(c->dr[7] & 0xff))
		return MODE_INTERP | MODE_COMPAT | vector_mode(c);
	if (!x86_code64(c) || middle || (c->rflags & FL_TF) || (c->dr[7] & 0xff) || (user && (c->rflags & FL_AC) && (c->cr0 & CR0_AM)))
		return MODE_INTERP;
	return vector_mode(c) | (user ? MODE_USER : 0) | (c->rflags & FL_DF ? MODE_DF : 0);
}

/* The jump caches serve one mode each for user and supervisor code. When another one stays, they change over, and their code with them. */
void bt_adopt_mode(struct bt_vcpu *v, u32 mode)
{
	u32 u = mode & MODE_USER;
	if (v->jc_mode[u] == mode || (mode & (MODE_DF | MODE_INTERP))) {
		return;
	}
	if (v->jc_mode[u] != ~0u && ++v->mode_misses < 2000)
		return;
	v->mode_misses = 0;
	bt_blocks_change_mode(v, v->jc_mode[u], mode);
	bt_jc_clear(v);
	bt_ras_empty(v);
	v->jc_mode[u] = mode;
}

static void choose_return_stack(struct bt_vcpu *v)
{
	u32 user = v->mode & MODE_USER;
	if (user == v->ras_user)
		return;
	if (user) {
		v->crossings++;
		v->ras = v->ras_saved;
	} else {
		v->ras_saved = v->ras;
		v->ras = v->ras_top[0];
	}
	v->ras_user = user;
}

void bt_update_mode(struct bt_vcpu *v)
{
	v->mode = v->vm->translate && !bt_debug_steps(v) ? mode_of(&v->cpu) : (u32)MODE_INTERP;
	choose_return_stack(v);
	bt_shadow_views(v);
}
