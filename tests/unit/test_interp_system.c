/* SPDX-License-Identifier: Apache-2.0 */
/* The interpreter's system instructions, modes, traps and shadows. */
#include "interp_machine.h"

static void interrupt_flag(void **state)
{
	struct im *t = im_long();

	RUN(t, "fb"); /* sti */
	assert_true(t->m.c.rflags & FL_IF);
	assert_true(t->m.c.irq_shadow);
	RUN(t, "fb"); /* no new shadow when IF is set already */
	assert_false(t->m.c.irq_shadow);
	RUN(t, "fa");
	assert_false(t->m.c.rflags & FL_IF);
	REG(t, RAX) = S_DATA;
	RUN(t, "8e d0"); /* mov ss, eax */
	assert_true(t->m.c.irq_shadow);
	assert_true(t->m.c.debug_shadow);
	RUN(t, "90");
	assert_false(t->m.c.irq_shadow);
	assert_false(t->m.c.debug_shadow);
	FAULTS(t, "8e c8", VEC_UD, 0); /* mov cs, eax */
	m_user64(&t->m);
	t->m.c.rip = USER_PAGE;
	FAULTS(t, "fa", VEC_GP, 0);
	FAULTS(t, "f4", VEC_GP, 0);
	FAULTS(t, "0f 20 c0", VEC_GP, 0);
	FAULTS(t, "0f 01 f8", VEC_GP, 0); /* swapgs */
	FAULTS(t, "0f 01 cb", VEC_UD, 0); /* stac */
	t->m.c.rflags |= FL_IOPL;
	RUN(t, "fb");
	im_close(t);
}

static void halting(void **state)
{
	struct im *t = im_long();

	assert_int_equal(im_run(t, "f4"), INTERP_HALT);
	assert_true(t->m.c.halted);
	assert_int_equal(t->m.c.rip, CODE + 1);
	im_close(t);
}

static void descriptor_tables(void **state)
{
	struct im *t = im_long();

	REG(t, RDI) = DATA;
	RUN(t, "0f 01 07"); /* sgdt [rdi] */
	assert_int_equal(m_peek(&t->m, DATA + 2), M_GDT);
	m_poke(&t->m, DATA, 0x1234 | 0x5678ull << 16);
	RUN(t, "0f 01 1f"); /* lidt */
	assert_int_equal(t->m.c.idt.limit, 0x1234);
	assert_int_equal(t->m.c.idt.base, 0x5678);
	m_poke(&t->m, DATA + 2, 1ull << 60);
	FAULTS(t, "0f 01 1f", VEC_GP, 0);
	REG(t, RAX) = ~0ull;
	RUN(t, "0f 00 c8"); /* str eax zero-extends */
	assert_int_equal(REG(t, RAX), S_TSS);
	REG(t, RBX) = S_CODE64;
	RUN(t, "0f 02 c3"); /* lar eax, ebx */
	assert_true(t->m.c.rflags & FL_ZF);
	REG(t, RBX) = 0x1000;
	RUN(t, "0f 03 c3"); /* lsl outside the table */
	assert_false(t->m.c.rflags & FL_ZF);
	t->m.c.cr4 |= CR4_UMIP;
	m_user64(&t->m);
	t->m.c.rip = USER_PAGE;
	REG(t, RDI) = USER_PAGE + 0x800;
	FAULTS(t, "0f 01 07", VEC_GP, 0);
	t->m.c.cr4 &= ~(u64)CR4_UMIP;
	RUN(t, "0f 01 07");
	im_close(t);
}

/* LAR, LSL, VERR and VERW never fault because of the selector; where the table is not present they do. */
static void queries_of_an_absent_table(void **state)
{
	static const char *const queries[] = {"0f 02 c3", "0f 03 c3", "0f 00 e3", "0f 00 eb"};
	struct im *t = im_long();

	t->m.c.gdt.limit = 0xffff;
	t->m.c.rflags |= FL_ZF;
	REG(t, RBX) = DATA + PAGE_SIZE - M_GDT;
	REG(t, RAX) = 0x5555;
	for (u32 i = 0; i < ARRAY_SIZE(queries); i++) {
		FAULTS(t, queries[i], VEC_PF, 0);
		assert_true(t->m.c.rflags & FL_ZF);
		assert_int_equal(REG(t, RAX), 0x5555);
	}
	im_close(t);
}

static void control_registers(void **state)
{
	struct im *t = im_long();

	RUN(t, "0f 20 c0");
	assert_int_equal(REG(t, RAX), t->m.c.cr0);
	FAULTS(t, "0f 20 c8", VEC_UD, 0); /* cr1 */
	REG(t, RAX) = t->m.c.cr0 | CR0_TS;
	RUN(t, "0f 22 c0");
	RUN(t, "0f 06"); /* clts */
	assert_false(t->m.c.cr0 & CR0_TS);
	REG(t, RAX) = 1ull << 40;
	FAULTS(t, "0f 22 c0", VEC_GP, 0);
	REG(t, RAX) = 6;
	RUN(t, "0f 01 f0"); /* lmsw ax cannot clear PE */
	assert_true(t->m.c.cr0 & CR0_PE);
	assert_true(t->m.c.cr0 & CR0_EM);
	RUN(t, "44 0f 20 c0"); /* mov rax, cr8 */
	im_close(t);
}

static void time_and_identity(void **state)
{
	struct im *t = im_long();

	t->m.tsc = 0x123456789abcdef0;
	t->m.c.msr.tsc_aux = 7;
	RUN(t, "0f 31");
	assert_int_equal(REG(t, RAX), 0x9abcdef0);
	assert_int_equal(REG(t, RDX), 0x12345678);
	t->m.c.apic_id = 3;
	REG(t, RAX) = 1;
	REG(t, RCX) = 0;
	RUN(t, "0f a2");
	assert_int_equal(REG(t, RBX) >> 24, 3);
	RUN(t, "0f 01 c1"); /* vmcall */
	RUN(t, "0f 01 d9"); /* vmmcall */
	assert_int_equal(t->hypercalls, 2);
	assert_int_equal(REG(t, RAX), 77);
	REG(t, RCX) = 0;
	RUN(t, "0f 01 d0"); /* xgetbv */
	assert_int_equal(REG(t, RAX), (u32)t->m.c.xcr0);
	REG(t, RCX) = 0xc0000102;
	REG(t, RAX) = 0x4000;
	REG(t, RDX) = 0xffff8000;
	RUN(t, "0f 30"); /* wrmsr KERNEL_GS_BASE */
	RUN(t, "0f 01 f8");
	assert_int_equal(t->m.c.seg[SEG_GS].base, 0xffff800000004000);
	FAULTS(t, "f3 48 0f ae d8", VEC_UD, 0); /* wrgsbase without CR4.FSGSBASE */
	t->m.c.cr4 |= CR4_TSD;
	m_user64(&t->m);
	t->m.c.rip = USER_PAGE;
	FAULTS(t, "0f 31", VEC_GP, 0);
	im_close(t);
}

static void system_calls(void **state)
{
	struct im *t = im_long();

	t->m.c.msr.star = (u64)S_CODE64 << 32 | (u64)(S_UCODE32 & ~3) << 48;
	t->m.c.msr.lstar = CODE + 0x100;
	t->m.c.msr.sfmask = FL_TF | FL_IF;
	m_user64(&t->m);
	t->m.c.rip = USER_PAGE;
	t->m.c.rflags |= FL_TF | FL_IF;
	RUN(t, "0f 05"); /* TF is masked: no trap */
	assert_int_equal(t->m.c.rip, CODE + 0x100);
	assert_int_equal(REG(t, RCX), USER_PAGE + 2);
	assert_int_equal(x86_cpl(&t->m.c), 0);
	m_gate(&t->m, VEC_DB, CODE + 0x200, S_CODE64, 0xe, 0, 0);
	RUN(t, "48 0f 07"); /* TF is back: a trap before the first user instruction */
	assert_int_equal(t->m.c.rip, CODE + 0x200);
	assert_int_equal(m_peek(&t->m, 0x30000 - 40), USER_PAGE + 2);
	im_close(t);
}

static void single_step(void **state)
{
	struct im *t = im_long();

	m_gate(&t->m, VEC_DB, CODE + 0x200, S_CODE64, 0xe, 0, 0);
	m_gate(&t->m, 0x80, CODE + 0x300, S_CODE64, 0xe, 0, 0);
	t->m.c.rflags |= FL_TF;
	RUN(t, "90");
	assert_int_equal(t->m.c.rip, CODE + 0x200);
	assert_true(t->m.c.dr[6] & DR6_BS);
	assert_false(t->m.c.rflags & FL_TF);
	assert_int_equal(m_peek(&t->m, M_STACK - 40), CODE + 1);
	/* A software interrupt clears TF and is not trapped itself. */
	t->m.c.rip = CODE;
	t->m.c.rflags |= FL_TF;
	RUN(t, "cd 80");
	assert_int_equal(t->m.c.rip, CODE + 0x300);
	/* REP traps after every element. */
	t->m.c.rip = CODE;
	t->m.c.rflags |= FL_TF;
	REG(t, RDI) = DATA;
	REG(t, RCX) = 5;
	RUN(t, "f3 aa");
	assert_int_equal(REG(t, RCX), 4);
	assert_int_equal(t->m.c.rip, CODE + 0x200);
	/* MOV SS holds the trap back. */
	t->m.c.rip = CODE;
	t->m.c.rflags |= FL_TF;
	REG(t, RAX) = S_DATA;
	RUN(t, "8e d0");
	assert_int_equal(t->m.c.rip, CODE + 2);
	RUN(t, "90");
	assert_int_equal(t->m.c.rip, CODE + 0x200);
	im_close(t);
}

static void breakpoints(void **state)
{
	struct im *t = im_long();

	m_gate(&t->m, VEC_DB, CODE + 0x200, S_CODE64, 0xe, 0, 0);
	t->m.c.dr[0] = CODE;
	t->m.c.dr[7] = DR7_FIXED | 2;
	assert_int_equal(im_run(t, "90"), INTERP_FAULT);
	assert_int_equal(t->m.c.fault.vector, VEC_DB);
	t->m.c.rflags |= FL_RF; /* as the handler's IRET sets it */
	RUN(t, "90");
	assert_int_equal(t->m.c.rip, CODE + 1);
	assert_false(t->m.c.rflags & FL_RF);
	t->m.c.dr[1] = DATA;
	t->m.c.dr[7] = DR7_FIXED | 8 | 1u << 20 | 3u << 22; /* DR1: writes of 4 bytes */
	REG(t, RDI) = DATA;
	RUN(t, "8b 07");
	assert_int_equal(t->m.c.rip, CODE + 3);
	RUN(t, "89 07");
	assert_int_equal(t->m.c.rip, CODE + 0x200);
	assert_true(t->m.c.dr[6] & DR6_B(1));
	im_close(t);
}

static void ports(void **state)
{
	struct im *t = im_long();

	t->pio_value = 0x12345678;
	REG(t, RDX) = 0x3f8;
	REG(t, RAX) = ~0ull;
	RUN(t, "ec");
	assert_int_equal(REG(t, RAX), 0xffffffffffffff78);
	RUN(t, "ed");
	assert_int_equal(REG(t, RAX), 0x12345678);
	RUN(t, "e6 80");
	assert_int_equal(t->pio_port, 0x80);
	REG(t, RDI) = DATA + 0x1000;
	REG(t, RCX) = 1;
	t->pio_reads = 0;
	FAULTS(t, "f3 6d", VEC_PF, 2); /* the port is not read when the store would fault */
	assert_int_equal(t->pio_reads, 0);
	REG(t, RDI) = DATA;
	REG(t, RCX) = 3;
	RUN(t, "f3 6d");
	assert_int_equal(t->pio_reads, 3);
	m_user64(&t->m);
	t->m.c.rip = USER_PAGE;
	FAULTS(t, "ec", VEC_GP, 0);
	FAULTS(t, "f3 6d", VEC_GP, 0);
	im_close(t);
}

static void real_mode(void **state)
{
	struct im *t = im_real();
	u32 entry = 0x1234u << 16 | 0x10;

	memcpy(t->m.ram + 0x21 * 4, &entry, 4);
	RUN(t, "cd 21");
	assert_int_equal(t->m.c.seg[SEG_CS].base, 0x12340);
	assert_int_equal(t->m.c.rip, 0x10);
	RUN(t, "cf");
	assert_int_equal(t->m.c.rip, CODE + 2);
	assert_int_equal(t->m.c.seg[SEG_CS].sel, 0);
	REG(t, RAX) = 0xffffffff12340100;
	RUN(t, "8e d8");    /* mov ds, ax */
	RUN(t, "c6 07 5a"); /* mov [bx], 0x5a */
	assert_int_equal(t->m.ram[0x01000], 0x5a);
	REG(t, RBX) = 0xffff;
	FAULTS(t, "89 07", VEC_GP, 0);	  /* a word at the end of the segment */
	FAULTS(t, "0f 00 c0", VEC_UD, 0); /* sldt */
	FAULTS(t, "c4 e2 78 f2 c0", VEC_UD, 0);
	REG(t, RSP) = 0xaaaa0002;
	RUN(t, "50");
	assert_int_equal(REG(t, RSP), 0xaaaa0000);
	RUN(t, "66 68 78 56 34 12"); /* wraps to the top of the segment */
	assert_int_equal(REG(t, RSP), 0xaaaafffc);
	RUN(t, "ea 00 60 00 01"); /* jmp 0100:6000 */
	assert_int_equal(t->m.c.seg[SEG_CS].base, 0x1000);
	assert_int_equal(t->m.c.rip, 0x6000);
	REG(t, RCX) = 0x10001;
	RUN(t, "e2 fe"); /* loop counts in CX */
	assert_int_equal(REG(t, RCX), 0x10000);
	assert_int_equal(t->m.c.rip, 0x6002);
	im_close(t);
}

static void to_protected_mode(void **state)
{
	struct im *t = im_real();

	m_tables(&t->m);
	REG(t, RAX) = CR0_PE | CR0_ET | CR0_NE;
	RUN(t, "0f 22 c0");
	RUN(t, "66 ea 00 60 00 00 38 00"); /* jmp 0x38:0x6000 */
	assert_int_equal(t->m.c.seg[SEG_CS].sel, S_CODE32);
	assert_int_equal(t->m.c.rip, 0x6000);
	REG(t, RAX) = S_DATA;
	RUN(t, "8e d8");
	RUN(t, "8e d0");
	REG(t, RSP) = 0x20000;
	RUN(t, "68 78 56 34 12");
	assert_int_equal(REG(t, RSP), 0x1fffc);
	REG(t, RBX) = 0x90;
	REG(t, RAX) = 0x93;
	RUN(t, "63 c3"); /* arpl bx, ax */
	assert_true(t->m.c.rflags & FL_ZF ? REG(t, RBX) == 0x93 : REG(t, RBX) == 0x90);
	FAULTS(t, "0f 05", VEC_UD, 0);
	im_close(t);
}

static void software_interrupts(void **state)
{
	struct im *t = im_long();

	m_gate(&t->m, VEC_BP, CODE + 0x200, S_CODE64, 0xe, 3, 0);
	m_gate(&t->m, 0x80, CODE + 0x300, S_CODE64, 0xe, 0, 0);
	m_user64(&t->m);
	t->m.c.rip = USER_PAGE;
	FAULTS(t, "cd 80", VEC_GP, 0x80 * 8 + 2); /* the gate is not for users */
	RUN(t, "cc");
	assert_int_equal(t->m.c.rip, CODE + 0x200);
	RUN(t, "48 cf"); /* iretq */
	assert_int_equal(t->m.c.rip, USER_PAGE + 1);
	assert_int_equal(x86_cpl(&t->m.c), 3);
	im_close(t);
}

static void flags_by_privilege(void **state)
{
	struct im *t = im_long();

	m_user64(&t->m);
	t->m.c.rip = USER_PAGE;
	REG(t, RSP) = USER_PAGE + 0x800;
	m_poke(&t->m, USER_PAGE + 0x800, FL_IF | FL_IOPL | FL_AC | FL_CF | FL_VM | FL_RF);
	RUN(t, "9d");
	assert_int_equal(t->m.c.rflags & (FL_IF | FL_IOPL | FL_AC | FL_CF | FL_VM | FL_RF), FL_AC | FL_CF);
	t->m.c.cr0 |= CR0_AM;
	REG(t, RDI) = USER_PAGE + 0x801;
	FAULTS(t, "8b 07", VEC_AC, 0);
	RUN(t, "8a 07");
	im_close(t);
}

/* Translations that the interpreter keeps follow the guest's flushes. */
static void kept_translations(void **state)
{
	struct im *t = im_long();
	u64 epoch = 0;

	interp_cache_translations(t->in, &epoch);
	REG(t, RDI) = DATA;
	m_poke(&t->m, DATA, 1);
	m_poke(&t->m, 0x8000, 2);
	RUN(t, "48 8b 07");
	assert_int_equal(REG(t, RAX), 1);
	m_poke(&t->m, M_PT + DATA / PAGE_SIZE * 8, 0x8000 | P | W);
	RUN(t, "0f 01 3f"); /* invlpg [rdi] */
	RUN(t, "48 8b 07");
	assert_int_equal(REG(t, RAX), 2);
	m_poke(&t->m, M_PT + DATA / PAGE_SIZE * 8, 0x8000 | P);
	RUN(t, "0f 20 d8");
	RUN(t, "0f 22 d8"); /* mov cr3 */
	epoch++;
	FAULTS(t, "48 89 07", VEC_PF, 3);
	m_poke(&t->m, M_PT + DATA / PAGE_SIZE * 8, DATA | P | W);
	epoch++;
	t->m.will_write = 0;
	RUN(t, "48 89 07");
	RUN(t, "48 89 07");
	assert_true(t->m.will_write >= 2);
	m_user64(&t->m);
	t->m.c.rip = USER_PAGE;
	FAULTS(t, "48 8b 07", VEC_PF, 5);
	im_close(t);
}

/* ... and are nobody's with other rights than those they were made with. */
static void kept_translations_have_rights(void **state)
{
	struct im *t = im_long();
	u64 epoch = 0;

	interp_cache_translations(t->in, &epoch);
	REG(t, RDI) = USER_PAGE;
	RUN(t, "48 8b 07");
	RUN(t, "48 89 07");
	t->m.c.cr4 |= CR4_SMAP;
	FAULTS(t, "48 8b 07", VEC_PF, 1);
	t->m.c.rflags |= FL_AC;
	RUN(t, "48 8b 07");
	RUN(t, "48 89 07");
	t->m.c.rflags &= ~(u64)FL_AC;
	FAULTS(t, "48 8b 07", VEC_PF, 1);
	FAULTS(t, "48 89 07", VEC_PF, 3);

	/* WP: supervisor stores to a page that is read only. */
	m_poke(&t->m, M_PT + DATA / PAGE_SIZE * 8, DATA | P);
	REG(t, RDI) = DATA;
	t->m.c.cr0 &= ~(u64)CR0_WP;
	RUN(t, "48 89 07");
	t->m.c.cr0 |= CR0_WP;
	FAULTS(t, "48 89 07", VEC_PF, 3);
	m_poke(&t->m, M_PT + DATA / PAGE_SIZE * 8, DATA | P | W); /* more rights need no flush */
	RUN(t, "48 89 07");
	assert_int_equal(m_peek(&t->m, M_PT + DATA / PAGE_SIZE * 8) & (A | D), A | D);
	im_close(t);
}

/* A page that is only read leaves its dirty bit alone; the first store sets it. */
static void kept_translations_and_dirty_bits(void **state)
{
	struct im *t = im_long();
	u64 epoch = 0;

	interp_cache_translations(t->in, &epoch);
	REG(t, RDI) = DATA;
	m_poke(&t->m, M_PT + DATA / PAGE_SIZE * 8, DATA | P | W);
	RUN(t, "48 8b 07");
	RUN(t, "48 8b 07");
	assert_int_equal(m_peek(&t->m, M_PT + DATA / PAGE_SIZE * 8) & (A | D), A);
	RUN(t, "48 89 07");
	assert_int_equal(m_peek(&t->m, M_PT + DATA / PAGE_SIZE * 8) & (A | D), A | D);
	m_poke(&t->m, M_PT + DATA / PAGE_SIZE * 8, DATA | P | W);
	epoch++;
	RUN(t, "48 89 07");
	assert_int_equal(m_peek(&t->m, M_PT + DATA / PAGE_SIZE * 8) & (A | D), A | D);
	im_close(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(interrupt_flag),
		cmocka_unit_test(halting),
		cmocka_unit_test(descriptor_tables),
		cmocka_unit_test(queries_of_an_absent_table),
		cmocka_unit_test(control_registers),
		cmocka_unit_test(time_and_identity),
		cmocka_unit_test(system_calls),
		cmocka_unit_test(single_step),
		cmocka_unit_test(breakpoints),
		cmocka_unit_test(ports),
		cmocka_unit_test(real_mode),
		cmocka_unit_test(to_protected_mode),
		cmocka_unit_test(software_interrupts),
		cmocka_unit_test(flags_by_privilege),
		cmocka_unit_test(kept_translations),
		cmocka_unit_test(kept_translations_have_rights),
		cmocka_unit_test(kept_translations_and_dirty_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
