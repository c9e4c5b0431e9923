/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is put into a vCPU of KVM comes out of it again, field by field: random states of each mode. Nothing is executed. Threading: one thread.
 */
#include "kvm_machine.h"

#include <errno.h>

#define SEEDS 64

static struct kvm_machine m;
static struct kvm_vcpu *v;
static struct err e;

static int start(void **state)
{
	km_new(&m);
	v = km_vcpu(&m, 0);
	return 0;
}

static int stop(void **state)
{
	engine_kvm.vcpu_destroy((struct engine_vcpu *)v);
	km_free(&m);
	return 0;
}

static void must(int r)
{
	if (r < 0)
		fail_msg("%s", e.msg);
}

/* ---- chance ---- */

static u64 seed;

static u64 any(void)
{
	seed += 0x9e3779b97f4a7c15ull; /* splitmix64 */
	u64 z = (seed ^ seed >> 30) * 0xbf58476d1ce4e5b9ull;

	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static bool chance(void)
{
	return any() & 1;
}

static u64 canonical(void)
{
	return (u64)((i64)(any() << 16) >> 16);
}

static void fill(void *at, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((u8 *)at)[i] = (u8)any();
}

/* ---- what only hardware behind KVM brings ---- */

/* Asked without the engine, whose mistakes must not look like the kernel's. */
static bool pages_outside_long_mode(void)
{
	struct kvm_sregs k, back;

	assert_int_equal(kvm_call(v->fd, KVM_GET_SREGS, &k), 0);
	back = k;
	k.cr0 |= CR0_PE | CR0_PG;
	k.cr4 |= CR4_PAE;
	assert_int_equal(kvm_call(v->fd, KVM_SET_SREGS, &k), 0);
	assert_int_equal(kvm_call(v->fd, KVM_GET_SREGS, &k), 0);
	assert_int_equal(kvm_call(v->fd, KVM_SET_SREGS, &back), 0);
	return (k.cr0 & CR0_PG) != 0;
}

static u64 tsc_offset(unsigned long request, u64 offset)
{
	struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (u64)&offset};

	assert_int_equal(kvm_call(v->fd, request, &attr), 0);
	return offset;
}

static bool keeps_tsc_offsets(void)
{
	tsc_offset(KVM_SET_DEVICE_ATTR, 1234);
	return tsc_offset(KVM_GET_DEVICE_ATTR, 0) == 1234;
}

static bool judges_msrs(void)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} k = {.head.nmsrs = 1, .entry = {.index = 0x277, .data = 0x0202020202020202ull}};

	return kvm_call(v->fd, KVM_SET_MSRS, &k) == 0;
}

static void need(bool there, const char *what)
{
	if (there)
		return;
	printf("skipped: this KVM %s\n", what);
	skip();
}

/* ---- legal states ---- */

#define CODE (SEGA_S | SEGA_P | 0xb)
#define DATA (SEGA_S | SEGA_P | 0x3)
#define BUSY_TSS (SEGA_P | 0xb)
#define LDT (SEGA_P | 0x2)

/* Limits of a page's size or more have G, as loading a descriptor leaves it. */
static struct x86_seg segment(u32 attr, u64 base)
{
	bool large = chance();

	return (struct x86_seg){.sel = (u16)any(),
				.attr = attr | (large ? SEGA_G : 0),
				.limit = large ? (u32)any() | 0xfff00fff : (u32)any() & 0xfffff,
				.base = base};
}

static struct x86_seg unusable(u32 dpl)
{
	return (struct x86_seg){.sel = (u16)any() & 3, .attr = dpl << SEGA_DPL_SHIFT | SEGA_UNUSABLE};
}

static void random_vectors(struct x86_cpu *c)
{
	struct x86_xsave *x = &c->fpu;
	u64 bv = any() & c->xcr0;

	memset(x, 0, sizeof(*x));
	fill(x->bytes, 416);
	*(u32 *)(x->bytes + 24) = (u32)any() & 0xffff & ~0x40u; /* MXCSR */
	*(u32 *)(x->bytes + 28) = 0xffff;			/* MXCSR_MASK */
	x->bytes[5] = 0;					/* behind the tags */
	*(u64 *)(x->bytes + 512) = bv | 3;
	for (u32 i = 2; i < 8; i++) {
		u32 out[4];

		if (!(bv >> i & 1))
			continue;
		x86_cpuid(c, 0, 0xd, i, out);
		fill(x->bytes + out[1], out[0]);
	}
}

static void random_debug_registers(struct x86_cpu *c)
{
	for (u32 i = 0; i < 4; i++)
		c->dr[i] = canonical();
	c->dr[6] = DR6_FIXED | (any() & (0xf | DR6_BD | DR6_BS | DR6_BT));
	c->dr[7] = DR7_FIXED | (any() & 0xffff23ff);
}

static bool has(u32 leaf, u32 reg, u32 bit)
{
	return x86_cpuid_has(&m.cpuid, leaf, 0, reg, bit);
}

/* On AMD the kernel keeps 32 bits, as nobody can use more there. */
static u64 sysenter_address(void)
{
	bool amd = m.cpuid.leaf[0].ecx == 0x444d4163; /* "cAMD" */

	return amd ? (u32)any() : canonical();
}

static void random_msrs(struct x86_cpu *c)
{
	static const u8 types[] = {0, 1, 4, 5, 6, 7};

	c->msr.star = any();
	c->msr.lstar = canonical();
	c->msr.cstar = canonical();
	c->msr.sfmask = (u32)any();
	c->msr.kernel_gs_base = canonical();
	c->msr.sysenter_cs = (u16)any();
	c->msr.sysenter_esp = sysenter_address();
	c->msr.sysenter_eip = sysenter_address();
	c->msr.tsc_aux = has(0x80000001, 3, 27) ? (u32)any() : 0;
	c->msr.spec_ctrl = has(7, 3, 26) ? any() & 1 : 0;
	for (u32 i = 0; i < 8; i++)
		c->msr.pat = c->msr.pat << 8 | types[any() % ARRAY_SIZE(types)];
	c->msr.mtrr_def = any(); /* kept by nobody but us: to be left alone */
	c->msr.tsc_adjust = any();
	c->tsc_offset = any();
}

static void random_events(struct x86_cpu *c)
{
	c->nmi_pending = chance();
	c->nmi_blocked = chance();
	c->irq_shadow = chance();
	c->debug_shadow = c->irq_shadow && chance();
	c->halted = chance();
	c->wait_for_sipi = !c->halted && chance();
}

static void random_common(struct x86_cpu *c)
{
	const u32 flags = FL_ARITH | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_RF | FL_AC | FL_ID;

	fill(c->gpr, sizeof(c->gpr));
	c->rip = (u32)any();
	c->rflags = FL_ONE | (any() & flags);
	c->gdt = (struct x86_dtr){.base = canonical(), .limit = (u16)any()};
	c->idt = (struct x86_dtr){.base = canonical(), .limit = (u16)any()};
	c->tr = segment(BUSY_TSS, canonical());
	c->ldt = chance() ? segment(LDT, canonical()) : unusable(0);
	c->cr2 = any();
	c->xcr0 = 1 | (any() & m.cpuid.xcr0_supported & 2);
	if (c->xcr0 & 2 && chance())
		c->xcr0 |= m.cpuid.xcr0_supported & 4;
	if (c->xcr0 & 4 && chance())
		c->xcr0 |= m.cpuid.xcr0_supported & 0xe0;
	random_debug_registers(c);
	random_vectors(c);
	random_msrs(c);
	random_events(c);
}

static void random_long(struct x86_cpu *c)
{
	const u32 dpl = chance() ? 3 : 0, at = dpl << SEGA_DPL_SHIFT;

	random_common(c);
	c->rip = canonical();
	c->seg[SEG_CS] = segment(CODE | SEGA_L | at, 0);
	c->seg[SEG_SS] = segment(DATA | SEGA_DB | at, 0);
	for (u32 i = 0; i < SEG_COUNT; i++)
		if (i != SEG_CS && i != SEG_SS)
			c->seg[i] = segment(DATA | SEGA_DB | at, i >= SEG_FS ? canonical() : 0);
	if (chance())
		c->seg[SEG_ES] = unusable(0);
	c->cr0 = CR0_PE | CR0_PG | CR0_ET | (any() & (CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM));
	c->cr4 = CR4_PAE | (any() & (CR4_VME | CR4_TSD | CR4_DE | CR4_PSE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE));
	c->cr4 &= ~m.cpuid.cr4_reserved;
	c->cr3 = any() % (KM_RAM / PAGE_SIZE) * PAGE_SIZE;
	c->msr.efer = EFER_LME | EFER_LMA | (any() & (EFER_SCE | EFER_NXE));
}

static void random_protected(struct x86_cpu *c)
{
	const u32 at = (chance() ? 3u : 0u) << SEGA_DPL_SHIFT;

	random_common(c);
	for (u32 i = 0; i < SEG_COUNT; i++)
		c->seg[i] = segment((i == SEG_CS ? CODE : DATA) | SEGA_DB | at, (u32)any());
	if (chance())
		c->seg[SEG_GS] = unusable(0);
	c->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | (any() & CR0_WP);
	c->cr4 = CR4_PAE | (any() & CR4_PGE);
	c->cr3 = any() % (KM_RAM / 32) * 32;
	c->msr.efer = any() & (EFER_SCE | EFER_NXE);
}

static void random_real(struct x86_cpu *c)
{
	random_common(c);
	c->rip = (u16)any();
	c->tr = segment(BUSY_TSS, 0);
	for (u32 i = 0; i < SEG_COUNT; i++) {
		u16 sel = (u16)any();

		c->seg[i] = (struct x86_seg){.sel = sel, .attr = DATA, .limit = 0xffff, .base = (u64)sel << 4};
	}
	c->cr0 = CR0_ET | (any() & (CR0_CD | CR0_NE));
	c->cr3 = any() % (KM_RAM / PAGE_SIZE) * PAGE_SIZE;
	c->cr4 = 0;
	c->msr.efer = 0;
}

/* ---- comparing ---- */

#define SAME(field)                                                                                                                        \
	do                                                                                                                                 \
		if (memcmp(&a->field, &b->field, sizeof(a->field)))                                                                        \
			fail_msg("%s %llu: " #field ": 0x%llx was put, 0x%llx is there", what, (unsigned long long)number,                 \
				 (unsigned long long)a->field, (unsigned long long)b->field);                                              \
	while (0)

static void same_segment(const struct x86_seg *a, const struct x86_seg *b, const char *what, u64 number)
{
	SAME(sel);
	SAME(attr);
	SAME(limit);
	SAME(base);
}

static void same_dtr(const struct x86_dtr *a, const struct x86_dtr *b, const char *what, u64 number)
{
	SAME(base);
	SAME(limit);
}

static void same_msrs(const struct x86_msrs *a, const struct x86_msrs *b, const char *what, u64 number)
{
	SAME(efer);
	SAME(star);
	SAME(lstar);
	SAME(cstar);
	SAME(sfmask);
	SAME(kernel_gs_base);
	SAME(sysenter_cs);
	SAME(sysenter_esp);
	SAME(sysenter_eip);
	SAME(pat);
	SAME(tsc_aux);
	SAME(spec_ctrl);
	assert_memory_equal(a, b, sizeof(*a));
}

static void same_vectors(const struct x86_xsave *a, const struct x86_xsave *b, const char *what, u64 number)
{
	for (u32 i = 0; i < X86_XSAVE_SIZE; i++)
		if (a->bytes[i] != b->bytes[i])
			fail_msg("%s %llu: byte %u of the vector registers: %02x was put, %02x is there", what, (unsigned long long)number,
				 i, a->bytes[i], b->bytes[i]);
}

/* SVM does not know whether STI or MOV SS keeps interrupts back, and says both. */
static void same_events(const struct x86_cpu *a, const struct x86_cpu *b, const char *what, u64 number)
{
	SAME(fault.pending);
	if (a->fault.pending) {
		SAME(fault.vector);
		SAME(fault.has_error);
		SAME(fault.error);
	}
	SAME(nmi_pending);
	SAME(nmi_blocked);
	SAME(irq_shadow);
	if (a->debug_shadow || !a->irq_shadow)
		SAME(debug_shadow);
	SAME(halted);
	SAME(wait_for_sipi);
}

static void same(const struct x86_cpu *a, const struct x86_cpu *b, const char *what, u64 number)
{
	for (u32 i = 0; i < 16; i++)
		SAME(gpr[i]);
	SAME(rip);
	SAME(rflags);
	for (u32 i = 0; i < SEG_COUNT; i++)
		same_segment(&a->seg[i], &b->seg[i], what, number * 10 + i);
	same_segment(&a->ldt, &b->ldt, "LDT", number);
	same_segment(&a->tr, &b->tr, "TR", number);
	same_dtr(&a->gdt, &b->gdt, "GDT", number);
	same_dtr(&a->idt, &b->idt, "IDT", number);
	SAME(cr0);
	SAME(cr2);
	SAME(cr3);
	SAME(cr4);
	SAME(xcr0);
	for (u32 i = 0; i < 8; i++)
		if (i != 4 && i != 5)
			SAME(dr[i]);
	SAME(tsc_offset);
	same_msrs(&a->msr, &b->msr, what, number);
	same_events(a, b, what, number);
	same_vectors(&a->fpu, &b->fpu, what, number);
}

/* What the kernel has, so that nothing is found there but what it gives. */
static void spoil(struct x86_cpu *c)
{
	memset(c->gpr, 0xaa, sizeof(c->gpr));
	memset(c->seg, 0xaa, sizeof(c->seg));
	c->ldt = c->tr = c->seg[0];
	memset(&c->gdt, 0xaa, sizeof(c->gdt));
	memset(&c->idt, 0xaa, sizeof(c->idt));
	memset(c->dr, 0xaa, sizeof(c->dr));
	memset(&c->fpu, 0xaa, sizeof(c->fpu));
	memset(&c->fault, 0xaa, sizeof(c->fault));
	c->rip = c->rflags = c->cr0 = c->cr2 = c->cr3 = c->cr4 = c->xcr0 = ~0ull;
	c->msr.efer = c->msr.star = c->msr.lstar = c->msr.cstar = c->msr.sfmask = c->msr.kernel_gs_base = ~0ull;
	c->msr.sysenter_cs = c->msr.sysenter_esp = c->msr.sysenter_eip = c->msr.pat = c->msr.apic_base = ~0ull;
	if (has(0x80000001, 3, 27))
		c->msr.tsc_aux = ~0ull;
	if (has(7, 3, 26))
		c->msr.spec_ctrl = ~0ull;
	c->nmi_pending = !c->nmi_pending;
	c->nmi_blocked = !c->nmi_blocked;
	c->irq_shadow = c->debug_shadow = !c->irq_shadow;
	c->halted = !c->halted;
	c->wait_for_sipi = !c->wait_for_sipi;
}

static void there_and_back(const char *what, u64 number)
{
	static struct x86_cpu put;

	put = v->cpu;
	must(kvm_put_state(v, &e));
	spoil(&v->cpu);
	must(kvm_get_state(v, &e));
	same(&put, &v->cpu, what, number);
}

static void try_mode(void (*make)(struct x86_cpu *c), const char *what)
{
	for (u64 i = 0; i < SEEDS; i++) {
		seed = i * 1000;
		make(&v->cpu);
		there_and_back(what, i);
	}
}

/* ---- the tests ---- */

static void test_power_on(void **state)
{
	there_and_back("power-on", 0);
	x86_reset(&v->cpu, true, false);
	there_and_back("power-on", 1);
}

static void test_long_mode(void **state)
{
	try_mode(random_long, "64-bit mode, seed");
}

static void test_protected_mode(void **state)
{
	need(pages_outside_long_mode(), "has no paging outside of long mode");
	try_mode(random_protected, "32-bit mode, seed");
}

static void test_real_mode(void **state)
{
	try_mode(random_real, "real mode, seed");
}

static void test_from_any_mode_to_any(void **state)
{
	static void (*const modes[])(struct x86_cpu * c) = {random_long, random_real, random_protected};
	u32 n = pages_outside_long_mode() ? 3 : 2;

	for (u64 i = 0; i < SEEDS; i++) {
		seed = 77 + i * 1000;
		modes[any() % n](&v->cpu);
		there_and_back("changed mode, seed", i);
	}
}

static void test_pending_exceptions(void **state)
{
	static const struct x86_fault faults[] = {
		{.vector = VEC_UD},
		{.vector = VEC_GP, .has_error = true, .error = 0x1234},
		{.vector = VEC_DE},
		{.vector = VEC_DF, .has_error = true},
		{.vector = VEC_PF, .has_error = true, .error = 7, .cr2 = 0xffff888012345678},
	};

	for (u32 i = 0; i < ARRAY_SIZE(faults); i++) {
		seed = i;
		random_long(&v->cpu);
		v->cpu.fault = faults[i];
		v->cpu.fault.pending = true;
		if (faults[i].vector == VEC_PF)
			v->cpu.cr2 = faults[i].cr2;
		there_and_back("exception", i);
		assert_int_equal(v->cpu.fault.cr2, v->cpu.cr2);
	}
	random_long(&v->cpu);
	v->cpu.fault.pending = false;
	there_and_back("no exception", 0);
}

/* Until it is delivered, the address is the fault's affair; the kernel has no other place than CR2. */
static void test_a_page_fault_brings_its_address(void **state)
{
	seed = 5;
	random_long(&v->cpu);
	v->cpu.cr2 = 0x1000;
	v->cpu.fault = (struct x86_fault){.pending = true, .vector = VEC_PF, .has_error = true, .error = 2, .cr2 = 0x7fff12345678};
	must(kvm_put_state(v, &e));
	spoil(&v->cpu);
	must(kvm_get_state(v, &e));
	assert_true(v->cpu.fault.pending);
	assert_int_equal(v->cpu.fault.cr2, 0x7fff12345678);
	assert_int_equal(v->cpu.cr2, 0x7fff12345678);
}

/* Put and get share their tables, whose mistakes cancel out: the kernel is asked itself. */
static void test_registers_are_where_they_belong(void **state)
{
	struct kvm_regs r;
	struct kvm_sregs s;

	seed = 6;
	random_real(&v->cpu);
	must(kvm_put_state(v, &e));
	assert_int_equal(kvm_call(v->fd, KVM_GET_REGS, &r), 0);
	assert_int_equal(kvm_call(v->fd, KVM_GET_SREGS, &s), 0);
	const u64 gprs[16] = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
	const u16 selectors[SEG_COUNT] = {s.es.selector, s.cs.selector, s.ss.selector, s.ds.selector, s.fs.selector, s.gs.selector};

	assert_memory_equal(gprs, v->cpu.gpr, sizeof(gprs));
	for (u32 i = 0; i < SEG_COUNT; i++)
		assert_int_equal(selectors[i], v->cpu.seg[i].sel);
	assert_int_equal(s.tr.selector, v->cpu.tr.sel);
	assert_int_equal(s.gdt.base, v->cpu.gdt.base);
	assert_int_equal(s.idt.limit, v->cpu.idt.limit);
}

static void test_time_stamp_counter(void **state)
{
	static const u64 offsets[] = {0, 1, 12345678901234, (u64)-5000000000};

	need(keeps_tsc_offsets(), "keeps no offset of the time-stamp counter");
	for (u32 i = 0; i < ARRAY_SIZE(offsets); i++) {
		v->cpu.tsc_offset = offsets[i];
		must(kvm_put_tsc(v, &e));
		assert_int_equal(tsc_offset(KVM_GET_DEVICE_ATTR, 0), KM_TSC_BASE + offsets[i]);
		must(kvm_put_tsc(v, &e));
		assert_int_equal(tsc_offset(KVM_GET_DEVICE_ATTR, 0), KM_TSC_BASE + offsets[i]);
	}
	must(kvm_put_state(v, &e));
	assert_int_equal(tsc_offset(KVM_GET_DEVICE_ATTR, 0), KM_TSC_BASE + offsets[3]);
}

/* A state is put by the next run only when something was changed, and fetched when asked for. */
static void test_what_is_stale_is_fetched_once(void **state)
{
	struct engine_vcpu *ev = (struct engine_vcpu *)v;

	must(kvm_put_state(v, &e));
	v->cpu.gpr[R_RAX] = 0x77;
	must(kvm_vcpu_sync_out(ev, &e));
	assert_int_equal(v->cpu.gpr[R_RAX], 0x77);
	v->stale = true;
	must(kvm_vcpu_sync_out(ev, &e));
	assert_int_not_equal(v->cpu.gpr[R_RAX], 0x77);
	v->cpu.gpr[R_RAX] = 0x78;
	kvm_vcpu_sync_in(ev);
	assert_true(v->dirty);
	must(kvm_vcpu_sync_out(ev, &e));
	assert_int_equal(v->cpu.gpr[R_RAX], 0x78);
}

static void test_refusals_name_what_was_refused(void **state)
{
	need(judges_msrs(), "takes any value for PAT");
	v->cpu.msr.pat = 0x0202020202020202ull;
	assert_int_equal(kvm_put_state(v, &e), -EINVAL);
	assert_string_equal(e.msg, "vCPU 0: KVM refuses MSR 0x277 with value 0x202020202020202");
	x86_reset(&v->cpu, true, false);
	v->cpu.xcr0 = 4;
	assert_int_equal(kvm_put_state(v, &e), -EINVAL);
	assert_ptr_equal(strstr(e.msg, "vCPU 0: KVM does not take XCR0: "), e.msg);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_power_on, start, stop),
		cmocka_unit_test_setup_teardown(test_long_mode, start, stop),
		cmocka_unit_test_setup_teardown(test_protected_mode, start, stop),
		cmocka_unit_test_setup_teardown(test_real_mode, start, stop),
		cmocka_unit_test_setup_teardown(test_from_any_mode_to_any, start, stop),
		cmocka_unit_test_setup_teardown(test_pending_exceptions, start, stop),
		cmocka_unit_test_setup_teardown(test_a_page_fault_brings_its_address, start, stop),
		cmocka_unit_test_setup_teardown(test_registers_are_where_they_belong, start, stop),
		cmocka_unit_test_setup_teardown(test_time_stamp_counter, start, stop),
		cmocka_unit_test_setup_teardown(test_what_is_stale_is_fetched_once, start, stop),
		cmocka_unit_test_setup_teardown(test_refusals_name_what_was_refused, start, stop),
	};

	return km_possible() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
