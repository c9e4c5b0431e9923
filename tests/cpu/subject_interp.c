/* SPDX-License-Identifier: Apache-2.0 */
/* The C interpreter as a subject: steps until an exception stub is reached. */
#include "engine/bt/interp.h"
#include "guest.h"
#include "subject.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS_ALLOWED 100000000u /* more than the real CPU does in the time that it is given */

struct interp_subject {
	struct guest guest;
	struct x86_cpu cpu;
	struct x86_env env;
	struct interp *interp;
	u64 epoch;
};

/* Signal handlers have no argument for it; the interpreter that runs now. */
static struct interp *running;

static u8 *env_ram(void *opaque, gpa_t gpa, bool write)
{
	return gm_ptr(&((struct interp_subject *)opaque)->guest.gm, PAGE_BASE(gpa), PAGE_SIZE);
}
static u64 env_mmio_read(void *opaque, gpa_t gpa, u32 size)
{
	return ~0ull;
}
static void env_mmio_write(void *opaque, gpa_t gpa, u32 size, u64 value)
{
}
static u32 env_pio_read(void *opaque, u16 port, u32 size)
{
	return ~0u;
}

static void env_pio_write(void *opaque, u16 port, u32 size, u32 value)
{
	if (port == GUEST_DONE_PORT)
		((struct interp_subject *)opaque)->guest.done = true;
}

static bool env_msr_read(void *opaque, u32 msr, u64 *value)
{
	return false;
}
static bool env_msr_write(void *opaque, u32 msr, u64 value)
{
	return false;
}
static u64 env_cr8_read(void *opaque)
{
	return 0;
}
static void env_cr8_write(void *opaque, u64 value)
{
}
static u64 env_tsc(void *opaque)
{
	return 0;
}
static u64 env_hypercall(void *opaque, struct x86_cpu *c)
{
	return ~0ull;
}
static void env_flush_all(void *opaque)
{
	((struct interp_subject *)opaque)->epoch++;
}
static void env_flush_page(void *opaque, gva_t gva)
{
	env_flush_all(opaque);
}
static void env_flush_page_pcid(void *opaque, gva_t gva, u16 pcid)
{
	env_flush_all(opaque);
}
static void env_flush_pcid(void *opaque, u16 pcid)
{
	env_flush_all(opaque);
}
static void env_mode_changed(void *opaque)
{
}

static const struct x86_env env_template = {
	.ram = env_ram,
	.mmio_read = env_mmio_read,
	.mmio_write = env_mmio_write,
	.pio_read = env_pio_read,
	.pio_write = env_pio_write,
	.msr_read = env_msr_read,
	.msr_write = env_msr_write,
	.cr8_read = env_cr8_read,
	.cr8_write = env_cr8_write,
	.tsc = env_tsc,
	.hypercall = env_hypercall,
	.tlb_flush_page = env_flush_page,
	.tlb_flush_page_pcid = env_flush_page_pcid,
	.tlb_flush_pcid = env_flush_pcid,
	.tlb_flush_nonglobal = env_flush_all,
	.tlb_flush_all = env_flush_all,
	.mode_changed = env_mode_changed,
};

static void on_signal(int sig, siginfo_t *si, void *uc)
{
	if (running && interp_host_signal(running, sig, uc))
		return;
	signal(sig, SIG_DFL); /* ours: die of it when the instruction is run again */
}

static void install_handlers(void)
{
	struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	static const int signals[] = {SIGFPE, SIGSEGV, SIGBUS, SIGILL};

	for (u32 i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, NULL);
}

static void interp_close(void *s)
{
	struct interp_subject *is = s;

	if (is->interp)
		interp_free(is->interp);
	if (is->guest.gm.map)
		guest_destroy(&is->guest);
	free(is);
}

static int interp_open(void **out, struct err *e)
{
	struct interp_subject *is = aligned_alloc(64, (sizeof(*is) + 63) & ~63ul);
	int r;

	if (!is)
		return err_set(e, ENOMEM, "no memory for the interpreter's guest");
	memset(is, 0, sizeof(*is));
	r = guest_create(&is->guest, e);
	if (!r)
		r = interp_new(&is->interp, e);
	if (r) {
		interp_close(is);
		return r;
	}
	interp_cache_translations(is->interp, &is->epoch);
	is->env = env_template;
	is->env.opaque = is;
	is->cpu.env = &is->env;
	is->cpu.cpuid = &is->guest.cpuid;
	install_handlers();
	*out = is;
	return 0;
}

/* True when an exception stub was reached. */
static bool step_to_stub(struct interp_subject *is, struct cpu_result *r)
{
	for (u32 i = 0; i < STEPS_ALLOWED; i++) {
		if (interp_step(is->interp, &is->cpu) == INTERP_FAULT)
			x86_deliver_fault(&is->cpu);
		if (is->guest.done)
			return true;
		if (is->cpu.triple_fault) {
			snprintf(r->note, sizeof(r->note), "triple fault");
			r->end = END_ENGINE;
			return false;
		}
	}
	r->end = END_TIMEOUT;
	return false;
}

static void interp_run(void *s, const struct cpu_case *c, u32 repeat, struct cpu_result *r)
{
	struct interp_subject *is = s;

	running = is->interp;
	is->guest.code_in_place = false;
	for (u32 i = 0; i < repeat; i++) {
		guest_load(&is->guest, c, &is->cpu);
		is->epoch++;
		if (!step_to_stub(is, r))
			break;
		guest_result(&is->guest, &is->cpu, r);
	}
	running = NULL;
}

const struct subject subject_interp = {.name = "interp",
				       .summary = "the C interpreter",
				       .open = interp_open,
				       .close = interp_close,
				       .run = interp_run,
				       .has = guest_has,
				       .in_all = true};
