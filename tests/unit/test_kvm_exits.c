/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the KVM engine does about each reason to leave a guest, with pages as the kernel would have written them: no KVM is needed. The vCPU's file
 * descriptor is -1, so the rip in messages is 0. Threading: one thread.
 */
#include "x86_machine.h"

#include "engine/kvm/kvm.h"

#include <errno.h>
#include <signal.h>

#define DATA_AT 4096u

/* ---- the machine: it writes down what it is asked, and answers with a count ---- */

struct access {
	char kind; /* r, w: memory; i, o: ports */
	u64 at, value;
	u32 size;
};

static struct {
	struct kvm_run run;
	u8 pad[DATA_AT];
	u8 data[256];
} page;
static struct x86_cpuid cpuid;
static struct kvm_vm vm = {.cpuid = &cpuid};
static struct kvm_vcpu v;
static struct err e;
static struct access log_of[64];
static u32 logged, eois;
static u8 eoi_vector;
static u64 next_answer, msr_written;

static u64 note(char kind, u64 at, u32 size, u64 value)
{
	assert_true(logged < ARRAY_SIZE(log_of));
	log_of[logged++] = (struct access){.kind = kind, .at = at, .size = size, .value = value};
	return value;
}

/* Bytes count up: each is another. Those above `size` are garbage that must go nowhere. */
static u64 answer(void)
{
	u64 value = 0;

	for (u32 i = 0; i < 8; i++)
		value |= ((next_answer + i) & 0xff) << 8 * i;
	return value;
}

static u64 mmio_read(void *opaque, gpa_t gpa, u32 size)
{
	u64 value = note('r', gpa, size, answer());

	next_answer += size;
	return value;
}

static void mmio_write(void *opaque, gpa_t gpa, u32 size, u64 value)
{
	note('w', gpa, size, value);
}

static u32 pio_read(void *opaque, u16 port, u32 size)
{
	u32 value = (u32)note('i', port, size, answer());

	next_answer += size;
	return value;
}

static void pio_write(void *opaque, u16 port, u32 size, u32 value)
{
	note('o', port, size, value);
}

static bool msr_read(void *opaque, u32 msr, u64 *value)
{
	*value = 0x1234567800000000ull | msr;
	return msr != 0x4b564dff;
}

static bool msr_write(void *opaque, u32 msr, u64 value)
{
	msr_written = value;
	return msr != 0x4b564dff;
}

static u64 tsc(void *opaque)
{
	return 1000 + v.cpu.tsc_offset;
}

static void on_eoi(void *opaque, u8 vector)
{
	eois++;
	eoi_vector = vector;
}

static void nothing(int signal)
{
}

static int fresh(void **state)
{
	const struct x86_cpuid_config config = {.ncpus = 1, .tsc_hz = 1000000000};

	signal(SIGRTMIN, nothing);
	memset(&page, 0, sizeof(page));
	memset(&v, 0, sizeof(v));
	e = (struct err){0};
	logged = eois = 0;
	next_answer = 1;
	x86_cpuid_build(&cpuid, &config);
	v.vm = &vm;
	v.id = 3;
	v.fd = -1;
	v.run = &page.run;
	v.thread = pthread_self();
	v.machine = (struct engine_machine){
		.mmio_read = mmio_read, .mmio_write = mmio_write, .pio_read = pio_read, .pio_write = pio_write, .eoi = on_eoi};
	v.env = (struct x86_env){.msr_read = msr_read, .msr_write = msr_write, .tsc = tsc};
	v.cpu.env = &v.env;
	v.cpu.cpuid = &cpuid;
	return 0;
}

static void goes_on(u32 reason, bool unfinished)
{
	enum exit_kind kind;

	page.run.exit_reason = reason;
	v.unfinished = false;
	assert_true(kvm_exit(&v, &kind, &e));
	assert_int_equal(v.unfinished, unfinished);
}

static void ends(u32 reason, enum exit_kind expected)
{
	enum exit_kind kind;

	page.run.exit_reason = reason;
	assert_false(kvm_exit(&v, &kind, &e));
	assert_int_equal(kind, expected);
	assert_false(v.unfinished);
}

static void fails(u32 reason, const char *message)
{
	ends(reason, EXIT_ERROR);
	assert_string_equal(e.msg, message);
	assert_int_equal(e.code, EIO);
}

/* ---- ports ---- */

static void ask_ports(u8 direction, u8 size, u32 count)
{
	page.run.io.direction = direction;
	page.run.io.size = size;
	page.run.io.count = count;
	page.run.io.port = 0x3f8;
	page.run.io.data_offset = (u64)(page.data - (u8 *)&page);
	goes_on(KVM_EXIT_IO, true);
	assert_int_equal(logged, count);
}

static void expect_access(u32 i, char kind, u64 at, u32 size)
{
	assert_int_equal(log_of[i].kind, kind);
	assert_int_equal(log_of[i].at, at);
	assert_int_equal(log_of[i].size, size);
}

static void test_string_output(void **state)
{
	for (u8 size = 1; size <= 4; size *= 2) {
		fresh(state);
		for (u32 i = 0; i < sizeof(page.data); i++)
			page.data[i] = (u8)(0x80 + i);
		ask_ports(KVM_EXIT_IO_OUT, size, 5);
		for (u32 i = 0; i < 5; i++) {
			u32 value = 0;

			memcpy(&value, page.data + i * size, size);
			expect_access(i, 'o', 0x3f8, size);
			assert_int_equal(log_of[i].value, value);
		}
	}
}

static void test_string_input(void **state)
{
	for (u8 size = 1; size <= 4; size *= 2) {
		fresh(state);
		ask_ports(KVM_EXIT_IO_IN, size, 5);
		for (u32 i = 0; i < 5; i++)
			expect_access(i, 'i', 0x3f8, size);
		for (u32 i = 0; i < 5u * size; i++)
			assert_int_equal(page.data[i], i + 1);
		for (u32 i = 5u * size; i < sizeof(page.data); i++)
			assert_int_equal(page.data[i], 0);
	}
}

/* ---- memory-mapped registers ---- */

static void ask_memory(u64 gpa, u32 len, bool write)
{
	logged = 0;
	next_answer = 1;
	page.run.mmio.phys_addr = gpa;
	page.run.mmio.len = len;
	page.run.mmio.is_write = write;
	goes_on(KVM_EXIT_MMIO, true);
}

/* Whatever the length and the address, devices see aligned powers of two, from the first byte to the last, and not more than are needed. */
static void check_pieces(char kind, u64 gpa, u32 len)
{
	u64 at = gpa;

	for (u32 i = 0; i < logged; i++) {
		expect_access(i, kind, at, log_of[i].size);
		assert_true(log_of[i].size == 1 || log_of[i].size == 2 || log_of[i].size == 4 || log_of[i].size == 8);
		assert_int_equal(at % log_of[i].size, 0);
		at += log_of[i].size;
	}
	assert_int_equal(at, gpa + len);
	if ((len & (len - 1)) == 0 && gpa % len == 0)
		assert_int_equal(logged, 1);
	assert_true(logged <= 4);
}

static void test_memory_is_read_in_aligned_pieces(void **state)
{
	for (u32 offset = 0; offset < 16; offset++)
		for (u32 len = 1; len <= 8; len++) {
			memset(page.run.mmio.data, 0xee, 8);
			ask_memory(0xfebf0000 + offset, len, false);
			check_pieces('r', 0xfebf0000 + offset, len);
			for (u32 i = 0; i < 8; i++)
				assert_int_equal(page.run.mmio.data[i], i < len ? i + 1 : 0xee);
		}
}

static void test_memory_is_written_in_aligned_pieces(void **state)
{
	for (u32 offset = 0; offset < 16; offset++)
		for (u32 len = 1; len <= 8; len++) {
			u8 together[8] = {0};

			for (u8 i = 0; i < 8; i++)
				page.run.mmio.data[i] = 0xf0 + i;
			ask_memory(0xfebf0000 + offset, len, true);
			check_pieces('w', 0xfebf0000 + offset, len);
			for (u32 i = 0; i < logged; i++) {
				if (log_of[i].size < 8)
					assert_int_equal(log_of[i].value >> 8 * log_of[i].size, 0);
				memcpy(together + (log_of[i].at - 0xfebf0000 - offset), &log_of[i].value, log_of[i].size);
			}
			assert_memory_equal(together, page.run.mmio.data, len);
		}
}

/* ---- MSRs ---- */

static void read_msr(u32 msr, bool refused, u64 value)
{
	page.run.msr.index = msr;
	page.run.msr.error = !refused;
	page.run.msr.data = ~0ull;
	goes_on(KVM_EXIT_X86_RDMSR, true);
	assert_int_equal(page.run.msr.error, refused);
	assert_int_equal(page.run.msr.data, value);
}

static void write_msr(u32 msr, u64 value, bool refused)
{
	page.run.msr.index = msr;
	page.run.msr.error = !refused;
	page.run.msr.data = value;
	goes_on(KVM_EXIT_X86_WRMSR, true);
	assert_int_equal(page.run.msr.error, refused);
}

static void test_msrs_have_the_rules_of_all_engines(void **state)
{
	read_msr(0x2ff, false, 0); /* MTRR_DEF_TYPE */
	write_msr(0x2ff, 0xc06, false);
	read_msr(0x2ff, false, 0xc06);
	write_msr(0x2ff, ~0ull, true);
	read_msr(0x2ff, false, 0xc06);
	read_msr(0x12345, true, 0);
	write_msr(0x12345, 0, true);
	read_msr(0x4b564d01, false, 0x123456784b564d01ull); /* the machine's */
	write_msr(0x4b564d01, 0x77, false);
	assert_int_equal(msr_written, 0x77);
	write_msr(0x4b564dff, 0, true);
	assert_int_equal(v.kicked, 0);
	assert_int_equal(page.run.immediate_exit, 0);
}

static void test_time_written_moves_the_offset(void **state)
{
	v.cpu.tsc_offset = 50;
	write_msr(0x10, 5000, false);
	assert_int_equal(v.cpu.tsc_offset, 4000);
	assert_int_equal(tsc(NULL), 5000);
	assert_int_equal(v.kicked, 1);
	assert_int_equal(page.run.immediate_exit, 1);
}

static void test_time_written_as_it_is_asks_nobody(void **state)
{
	write_msr(0x10, 1000, false);
	assert_int_equal(v.kicked, 0);
}

/* ---- the rest ---- */

static void test_end_of_interrupt(void **state)
{
	page.run.eoi.vector = 0x31;
	goes_on(KVM_EXIT_IOAPIC_EOI, false);
	assert_int_equal(eois, 1);
	assert_int_equal(eoi_vector, 0x31);
}

static void test_nothing_happened(void **state)
{
	goes_on(KVM_EXIT_INTR, false);
	goes_on(KVM_EXIT_UNKNOWN, false);
	assert_int_equal(logged, 0);
}

static void test_counters(void **state)
{
	goes_on(KVM_EXIT_IO, true);
	goes_on(KVM_EXIT_MMIO, true);
	goes_on(KVM_EXIT_MMIO, true);
	goes_on(KVM_EXIT_IOAPIC_EOI, false);
	read_msr(0x12345, true, 0);
	assert_int_equal(v.count.io, 1);
	assert_int_equal(v.count.mmio, 2);
	assert_int_equal(v.count.eois, 1);
	assert_int_equal(v.count.rdmsr, 1);
	assert_int_equal(v.count.wrmsr, 0);
}

static void test_shutdown(void **state)
{
	ends(KVM_EXIT_SHUTDOWN, EXIT_SHUTDOWN);
	assert_int_equal(e.code, 0);
}

static void test_system_events(void **state)
{
	page.run.system_event.type = KVM_SYSTEM_EVENT_SHUTDOWN;
	ends(KVM_EXIT_SYSTEM_EVENT, EXIT_SHUTDOWN);
	page.run.system_event.type = KVM_SYSTEM_EVENT_RESET;
	ends(KVM_EXIT_SYSTEM_EVENT, EXIT_SHUTDOWN);
	assert_int_equal(e.code, 0);
	page.run.system_event.type = KVM_SYSTEM_EVENT_CRASH;
	fails(KVM_EXIT_SYSTEM_EVENT, "vCPU 3: KVM reports system event 3: the guest has crashed");
	page.run.system_event.type = 17;
	fails(KVM_EXIT_SYSTEM_EVENT, "vCPU 3: KVM reports system event 17, which is not expected");
}

static void test_internal_errors(void **state)
{
	static const u8 bytes[] = {0x66, 0x0f, 0x01, 0xca};

	page.run.internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
	fails(KVM_EXIT_INTERNAL_ERROR, "vCPU 3: KVM gives up at rip 0x0: an event could not be delivered (3)");
	page.run.internal.suberror = 99;
	fails(KVM_EXIT_INTERNAL_ERROR, "vCPU 3: KVM gives up at rip 0x0: a reason without a name (99)");
	page.run.internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	memcpy(page.run.emulation_failure.insn_bytes, bytes, sizeof(bytes));
	page.run.emulation_failure.insn_size = sizeof(bytes);
	page.run.emulation_failure.ndata = 4;
	fails(KVM_EXIT_INTERNAL_ERROR,
	      "vCPU 3: KVM gives up at rip 0x0: it cannot emulate an instruction (1)"); /* bytes that were not told */
	page.run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
	fails(KVM_EXIT_INTERNAL_ERROR, "vCPU 3: KVM gives up at rip 0x0: it cannot emulate an instruction (1): 66 0f 01 ca");
	page.run.emulation_failure.insn_size = 255; /* more than there can be */
	fails(KVM_EXIT_INTERNAL_ERROR,
	      "vCPU 3: KVM gives up at rip 0x0: it cannot emulate an instruction (1): 66 0f 01 ca 00 00 00 00 00 00 00 00 00 00 00");
}

static void test_failed_entry(void **state)
{
	page.run.fail_entry.hardware_entry_failure_reason = 0x80000021;
	fails(KVM_EXIT_FAIL_ENTRY, "vCPU 3: the CPU refuses to enter the guest at rip 0x0 (hardware reason 0x80000021)");
}

static void test_reasons_nobody_knows(void **state)
{
	fails(KVM_EXIT_HLT, "vCPU 3: KVM leaves the guest at rip 0x0 for reason 5, which is not expected");
	fails(12345, "vCPU 3: KVM leaves the guest at rip 0x0 for reason 12345, which is not expected");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_string_output, fresh),
		cmocka_unit_test_setup(test_string_input, fresh),
		cmocka_unit_test_setup(test_memory_is_read_in_aligned_pieces, fresh),
		cmocka_unit_test_setup(test_memory_is_written_in_aligned_pieces, fresh),
		cmocka_unit_test_setup(test_msrs_have_the_rules_of_all_engines, fresh),
		cmocka_unit_test_setup(test_time_written_moves_the_offset, fresh),
		cmocka_unit_test_setup(test_time_written_as_it_is_asks_nobody, fresh),
		cmocka_unit_test_setup(test_end_of_interrupt, fresh),
		cmocka_unit_test_setup(test_nothing_happened, fresh),
		cmocka_unit_test_setup(test_counters, fresh),
		cmocka_unit_test_setup(test_shutdown, fresh),
		cmocka_unit_test_setup(test_system_events, fresh),
		cmocka_unit_test_setup(test_internal_errors, fresh),
		cmocka_unit_test_setup(test_failed_entry, fresh),
		cmocka_unit_test_setup(test_reasons_nobody_knows, fresh),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
