/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a vCPU of the KVM engine does: pages that it writes are found in the log, doorbells ring without leaving the guest, its TSC is the host's and a
 * number. A guest is executed, so this needs hardware behind /dev/kvm. Threading: one thread.
 */
#include "kvm_machine.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#define CODE 0x1000u
#define CLOCK 0x1100u
#define TSC_AT 0x2100u
#define PAGES (KM_RAM / PAGE_SIZE)
#define BELL 0xd0000000u

/* Each turn: a word in page 2, one in page 0x300, two stores to the doorbell's place, one beside it, and port 0x80 for us. */
static const u8 code[] = {
	0xc7, 0x05, 0x10, 0x20, 0x00, 0x00, 1,	  0, 0, 0, /* mov dword [0x2010], 1 */
	0xc6, 0x05, 0x00, 0x00, 0x30, 0x00, 2,		   /* mov byte [0x300000], 2 */
	0x66, 0xc7, 0x05, 0x00, 0x00, 0x00, 0xd0, 7, 0,	   /* mov word [BELL], 7 */
	0xc7, 0x05, 0x00, 0x00, 0x00, 0xd0, 8,	  0, 0, 0, /* mov dword [BELL], 8 */
	0xc7, 0x05, 0x04, 0x00, 0x00, 0xd0, 9,	  0, 0, 0, /* mov dword [BELL + 4], 9 */
	0xe6, 0x80,					   /* out 0x80, al */
	0xe9, 0xcb, 0xff, 0xff, 0xff,			   /* jmp to the beginning */
};
_Static_assert(sizeof(code) == 53, "the jump's distance");

/* Each turn: the TSC to TSC_AT, and port 0x80. */
static const u8 clock_code[] = {
	0x0f, 0x31,			    /* rdtsc */
	0xa3, 0x00, 0x21, 0x00, 0x00,	    /* mov [0x2100], eax */
	0x89, 0x15, 0x04, 0x21, 0x00, 0x00, /* mov [0x2104], edx */
	0xe6, 0x80,			    /* out 0x80, al */
	0xeb, 0xef,			    /* jmp to the beginning */
};
_Static_assert(sizeof(clock_code) == 17, "the jump's distance");

struct subject {
	struct kvm_machine m;
	struct engine_vcpu *vcpu;
	u32 stores;
	gpa_t last_at;
};

static void mmio_write(void *opaque, gpa_t gpa, u32 size, u64 value)
{
	struct subject *s = opaque;

	s->stores++;
	s->last_at = gpa;
}

static void pio_write(void *opaque, u16 port, u32 size, u32 value)
{
	engine_kvm.vcpu_kick(((struct subject *)opaque)->vcpu);
}

/* 32 bits without paging. */
static void start_at(struct engine_vcpu *v, u32 eip)
{
	struct x86_cpu *c = engine_kvm.vcpu_state(v);
	const struct x86_seg data = {.sel = 16, .limit = UINT32_MAX, .attr = 3 | SEGA_S | SEGA_P | SEGA_DB | SEGA_G};

	x86_reset(c, true, false);
	c->cr0 |= CR0_PE;
	for (u32 i = 0; i < SEG_COUNT; i++)
		c->seg[i] = data;
	c->seg[SEG_CS] = (struct x86_seg){.sel = 8, .limit = UINT32_MAX, .attr = 11 | SEGA_S | SEGA_P | SEGA_DB | SEGA_G};
	c->rip = eip;
	engine_kvm.vcpu_sync_in(v);
}

static int setup(void **state)
{
	struct subject *s = calloc(1, sizeof(*s));
	const struct engine_machine machine = {.opaque = s, .tsc_base = km_tsc_base, .mmio_write = mmio_write, .pio_write = pio_write};
	struct err e;

	km_new(&s->m);
	assert_true(gm_write(&s->m.gm, CODE, code, sizeof(code)));
	assert_true(gm_write(&s->m.gm, CLOCK, clock_code, sizeof(clock_code)));
	if (engine_kvm.vcpu_create(&s->vcpu, s->m.vm, 0, &machine, &e) < 0)
		fail_msg("%s", e.msg);
	start_at(s->vcpu, CODE);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct subject *s = *state;

	engine_kvm.vcpu_destroy(s->vcpu);
	km_free(&s->m);
	free(s);
	return 0;
}

static void turn(struct subject *s)
{
	struct err e;

	if (engine_kvm.vcpu_run(s->vcpu, &e) != EXIT_KICKED)
		fail_msg("%s", e.msg);
}

static u32 written(struct subject *s, u64 *bits)
{
	struct err e;
	u32 n = 0;

	memset(bits, 0, PAGES / 8);
	if (engine_kvm.dirty_take(s->m.vm, bits, &e) < 0)
		fail_msg("%s", e.msg);
	for (u32 i = 0; i < PAGES / 64; i++)
		n += (u32)__builtin_popcountll(bits[i]);
	return n;
}

static bool has(const u64 *bits, u32 page)
{
	return bits[page / 64] >> (page % 64) & 1;
}

static void written_pages_are_known(void **state)
{
	static u64 bits[PAGES / 64];
	struct subject *s = *state;
	struct err e;
	u32 n;

	assert_int_equal(engine_kvm.dirty_log(s->m.vm, true, &e), 0);
	written(s, bits); /* whatever this kernel takes for written at first */
	for (u32 i = 0; i < 3; i++) {
		turn(s);
		n = written(s, bits);
		assert_int_equal(n, 2 + has(bits, 1)); /* the code's page may be taken for written as it is mapped */
		assert_true(has(bits, 2) && has(bits, 0x300));
	}
	assert_int_equal(written(s, bits), 0); /* none since */
	assert_int_equal(engine_kvm.dirty_log(s->m.vm, false, &e), 0);
	turn(s);
	assert_int_equal(engine_kvm.dirty_take(s->m.vm, bits, &e), -ENOENT);
}

static void doorbells_ring_inside(void **state)
{
	struct subject *s = *state;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	eventfd_t rings = 0;

	turn(s);
	assert_int_equal(s->stores, 3);
	engine_kvm.doorbell(s->m.vm, BELL, fd, true);
	for (u32 i = 1; i <= 3; i++) {
		turn(s);
		assert_int_equal(s->stores, 3 + i); /* the one beside it */
		assert_int_equal(s->last_at, BELL + 4);
		assert_int_equal(eventfd_read(fd, &rings), 0);
		assert_int_equal(rings, 2);
	}
	engine_kvm.doorbell(s->m.vm, BELL, fd, false);
	turn(s);
	assert_int_equal(s->stores, 9);
	assert_int_equal(eventfd_read(fd, &rings), -1);
	close(fd);
}

/* So a machine that comes from another engine, whose TSC is counted in the same way, finds its clock where it was. */
static void its_tsc_is_the_hosts_and_a_number(void **state)
{
	struct subject *s = *state;
	struct x86_cpu *c = engine_kvm.vcpu_state(s->vcpu);
	u64 offset = 0, guest;

	start_at(s->vcpu, CLOCK);
	for (u32 i = 0; i < 8; i++) {
		u64 before = __builtin_ia32_rdtsc(), after;

		turn(s);
		after = __builtin_ia32_rdtsc();
		assert_true(gm_read(&s->m.gm, TSC_AT, &guest, sizeof(guest)));
		guest -= KM_TSC_BASE + offset;
		if (guest < before || guest > after)
			fail_msg("the guest's TSC is %lld off", (long long)(guest < before ? guest - before : guest - after));
		offset = (u64)i << 40; /* as if it had been written to */
		c->tsc_offset = offset;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(written_pages_are_known, setup, teardown),
		cmocka_unit_test_setup_teardown(doorbells_ring_inside, setup, teardown),
		cmocka_unit_test_setup_teardown(its_tsc_is_the_hosts_and_a_number, setup, teardown),
	};
	struct err e;

	if (engine_kvm.probe(&e) < 0) {
		printf("skipped: %s\n", e.msg);
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
