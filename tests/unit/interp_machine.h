/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake machine of x86_machine.h with an interpreter: code from hex text, steps, ports that remember. Threading: none.
 */
#pragma once

#include "x86_machine.h"

#include <signal.h>
#include <stdio.h>

#include "engine/bt/interp.h"

#define CODE 0x5000u
#define DATA 0x6000u
#define USER_PAGE 0x40000u

struct im {
	struct machine m;
	struct interp *in;
	u32 pio_value, pio_writes, pio_reads;
	u16 pio_port;
	u64 hypercalls;
};

/* A signal handler has no argument for it. */
static struct interp *im_running;

static inline void im_signal(int sig, siginfo_t *si, void *uc)
{
	if (!im_running || !interp_host_signal(im_running, sig, uc))
		signal(sig, SIG_DFL);
}

static inline u32 im_pio_read(void *opaque, u16 port, u32 size)
{
	struct im *t = container_of(opaque, struct im, m);

	t->pio_reads++;
	t->pio_port = port;
	return t->pio_value;
}

static inline void im_pio_write(void *opaque, u16 port, u32 size, u32 value)
{
	struct im *t = container_of(opaque, struct im, m);

	t->pio_writes++;
	t->pio_port = port;
	t->pio_value = value;
}

static inline u64 im_hypercall(void *opaque, struct x86_cpu *c)
{
	container_of(opaque, struct im, m)->hypercalls++;
	return 77;
}

static inline void im_open(struct im *t)
{
	struct sigaction sa = {.sa_sigaction = im_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
	struct err e;

	assert_int_equal(interp_new(&t->in, &e), 0);
	t->m.env.pio_read = im_pio_read;
	t->m.env.pio_write = im_pio_write;
	t->m.env.hypercall = im_hypercall;
	im_running = t->in;
	sigaction(SIGFPE, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGILL, &sa, NULL);
}

/* Long mode at CPL 0 with the vector units enabled; DATA and USER_PAGE.. are there, the page after DATA's is not. */
static inline struct im *im_long(void)
{
	struct im *t = aligned_alloc(64, (sizeof(*t) + 63) & ~63ul);

	memset(t, 0, sizeof(*t));
	m_long(&t->m);
	im_open(t);
	t->m.c.cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	t->m.c.xcr0 = t->m.cpuid.xcr0_supported;
	m_poke(&t->m, M_PT + (DATA / PAGE_SIZE + 1) * 8, 0);
	m_poke(&t->m, M_PT + USER_PAGE / PAGE_SIZE * 8, USER_PAGE | P | W | U);
	return t;
}

static inline struct im *im_prot32(void)
{
	struct im *t = aligned_alloc(64, (sizeof(*t) + 63) & ~63ul);

	memset(t, 0, sizeof(*t));
	m_prot32(&t->m);
	im_open(t);
	t->m.c.cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	t->m.c.xcr0 = t->m.cpuid.xcr0_supported;
	return t;
}

/* Real mode at 0000:5000. */
static inline struct im *im_real(void)
{
	struct im *t = aligned_alloc(64, (sizeof(*t) + 63) & ~63ul);

	memset(t, 0, sizeof(*t));
	m_new(&t->m);
	im_open(t);
	t->m.c.seg[SEG_CS].sel = 0;
	t->m.c.seg[SEG_CS].base = 0;
	t->m.c.rip = CODE;
	t->m.c.idt = (struct x86_dtr){.base = 0, .limit = 0x3ff};
	t->m.c.gpr[R_RSP] = 0x7000;
	return t;
}

static inline void im_close(struct im *t)
{
	im_running = NULL;
	interp_free(t->in);
	m_free(&t->m);
	free(t);
}

static inline u32 im_hex(u8 *out, const char *hex)
{
	u32 n = 0, v;
	int used;

	for (; sscanf(hex, " %2x%n", &v, &used) == 1; hex += used)
		out[n++] = (u8)v;
	return n;
}

/* Put code at rip (identity-mapped) and run one instruction of it. */
static inline enum interp_result im_run(struct im *t, const char *hex)
{
	t->m.c.fault.pending = false;
	im_hex(t->m.ram + t->m.c.seg[SEG_CS].base + t->m.c.rip, hex);
	return interp_step(t->in, &t->m.c);
}

#define RUN(t, hex) assert_int_equal(im_run(t, hex), INTERP_OK)
#define FAULTS(t, hex, vec, err)                                                                                                           \
	do {                                                                                                                               \
		u64 rip_ = (t)->m.c.rip;                                                                                                   \
		assert_int_equal(im_run(t, hex), INTERP_FAULT);                                                                            \
		assert_fault(&(t)->m, vec, err);                                                                                           \
		assert_int_equal((t)->m.c.rip, rip_);                                                                                      \
	} while (0)
#define REG(t, r) ((t)->m.c.gpr[R_##r])
#define FLAGS(t) ((t)->m.c.rflags & FL_ARITH)
