/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzing the interpreter: the input is a mode, the registers, a few pokes into RAM (page tables and descriptors lie there too) and code.
 * Whatever it is, every step ends, inside the fake machine's RAM, with the guest's fault at worst.
 */
#include "../unit/interp_machine.h"

#include "input.h"

#include <sys/mman.h>
#include <unistd.h>

#define STEPS_MAX 200
#define CODE_MAX 256

static const int caught[] = {SIGFPE, SIGSEGV, SIGILL};
static struct sigaction before[ARRAY_SIZE(caught)];

/* What is not the interpreter's goes to the sanitizer's handler, which reports it. */
static void on_signal(int sig, siginfo_t *si, void *uc)
{
	if (im_running && interp_host_signal(im_running, sig, uc))
		return;
	for (u32 i = 0; i < ARRAY_SIZE(caught); i++)
		if (caught[i] == sig && before[i].sa_flags & SA_SIGINFO && before[i].sa_sigaction)
			before[i].sa_sigaction(sig, si, uc);
	abort();
}

static void remember_handlers(void)
{
	static bool done;

	for (u32 i = 0; !done && i < ARRAY_SIZE(caught); i++)
		sigaction(caught[i], NULL, &before[i]);
	done = true;
}

static void catch_signals(void)
{
	struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};

	for (u32 i = 0; i < ARRAY_SIZE(caught); i++)
		sigaction(caught[i], &sa, NULL);
}

enum { MODE_REAL, MODE_PROT32, MODE_LONG, MODE_USER64, MODES };

/* A machine of each mode as it was made, and put back before each input: making one asks the host's CPUID a hundred times. */
static struct mode {
	struct im *t;
	struct im made;
} modes[MODES];

static struct im *make(u32 mode)
{
	struct im *t = mode == MODE_REAL ? im_real() : mode == MODE_PROT32 ? im_prot32() : im_long();

	if (mode == MODE_REAL) {
		t->m.c.cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
		t->m.c.xcr0 = t->m.cpuid.xcr0_supported;
	}
	if (mode == MODE_USER64) {
		m_user64(&t->m);
		t->m.c.rip = USER_PAGE;
	}
	return t;
}

/* RAM between guard pages as a private view of a file: dropping its pages puts back what the file holds. */
static u8 *view_of(const u8 *ram)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);
	u8 *area = mmap(NULL, M_RAM + 2 * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	u8 *view = area + PAGE_SIZE;

	if (fd < 0 || area == MAP_FAILED || write(fd, ram, M_RAM) != (ssize_t)M_RAM)
		abort();
	if (mmap(view, M_RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) != view)
		abort();
	close(fd);
	return view;
}

static struct im *fresh(u32 mode)
{
	struct mode *m = &modes[mode];

	if (!m->t) {
		u8 *ram;

		m->t = make(mode);
		ram = m->t->m.ram;
		m->t->m.ram = view_of(ram);
		free(ram);
		m->made = *m->t;
	}
	*m->t = m->made;
	madvise(m->t->m.ram, M_RAM, MADV_DONTNEED);
	im_running = m->t->in;
	return m->t;
}

/* Mostly addresses that lead somewhere. */
static void set_registers(struct im *t, struct input *in, u8 how)
{
	for (u32 i = 0; i < 16; i++) {
		u8 kind = (u8)take(in, 1);

		if (i == R_RSP && !(how & 0x20))
			continue;
		t->m.c.gpr[i] = kind & 0x80 ? take(in, 8) : DATA + kind * 31u;
	}
	if (how & 0x10)
		t->m.c.rflags = (take(in, 3) & (FL_ARITH | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_RF | FL_AC | FL_ID)) | FL_ONE;
}

static void poke_ram(struct im *t, struct input *in)
{
	for (u32 n = (u32)take(in, 1) % 8; n; n--) {
		u64 at = take(in, 3) % (M_RAM - 256);

		take_bytes(in, t->m.ram + at, (u32)take(in, 1) % 17);
	}
}

static void put_code(struct im *t, struct input *in)
{
	take_bytes(in, t->m.ram + t->m.c.seg[SEG_CS].base + t->m.c.rip, CODE_MAX);
}

static void run(struct im *t)
{
	struct x86_cpu *c = &t->m.c;

	for (u32 i = 0; i < STEPS_MAX && !c->triple_fault; i++) {
		enum interp_result r = interp_step(t->in, c);

		if (r == INTERP_HALT)
			return;
		if ((r == INTERP_FAULT) != c->fault.pending)
			abort();
		if (r == INTERP_FAULT)
			x86_deliver_fault(c);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = input_of(data, size);
	u8 how = (u8)take(&in, 1);
	struct im *t;

	remember_handlers();
	t = fresh(how % MODES);
	catch_signals();
	if (how & 8)
		t->m.c.dr[7] = DR7_FIXED | (take(&in, 2) << 16) | 0xff;
	set_registers(t, &in, how);
	if (how & 0x40)
		poke_ram(t, &in);
	put_code(t, &in);
	run(t);
	return 0;
}
