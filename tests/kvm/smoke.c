/* SPDX-License-Identifier: Apache-2.0 */
/*
 * smoke: what this kernel's KVM offers of what Guise wants, and whether it works: vCPUs in real mode and in 64-bit mode that are stepped, write to
 * ports, to memory that is not there, read an MSR that is filtered, halt and are woken by an MSI. At last, what an exit costs. It uses nothing of
 * Guise, so a failure is the kernel's or the CPU's, emulated ones above all (tools/nested.py). What begins with - is known to be broken in QEMU's
 * SVM and no failure, as engines must live with it there.
 *
 * Exit status: 0 passed, 1 failed, 77 there is no KVM to look at.
 * Threading: one thread; a timer's signal ends a KVM_RUN that halts.
 */
#include "guests.h"
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* ---- verdicts ---- */

static int failures;

static void say(const char *verdict, const char *fmt, va_list ap)
{
	printf("%-8s", verdict);
	vprintf(fmt, ap);
	printf("\n");
}

static bool judge(bool good, const char *fmt, ...) printf_like(2, 3);

static bool judge(bool good, const char *fmt, ...)
{
	va_list ap;

	failures += !good;
	va_start(ap, fmt);
	say(good ? "ok" : "FAILED", fmt, ap);
	va_end(ap);
	return good;
}

static void known(bool good, const char *fmt, ...) printf_like(2, 3);

static void known(bool good, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(good ? "ok" : "-", fmt, ap);
	va_end(ap);
}

/* ---- capabilities ---- */

#define CAP(name, wanted)                                                                                                                  \
	{                                                                                                                                  \
#name, KVM_CAP_##name, wanted                                                                                              \
	}

static const struct cap {
	const char *name;
	int number;
	bool wanted; /* of every kernel that Guise knows; the others depend on the CPU or came later */
} caps[] = {
	CAP(SPLIT_IRQCHIP, true),
	CAP(X86_USER_SPACE_MSR, true),
	CAP(X86_MSR_FILTER, true),
	CAP(SYNC_REGS, true),
	CAP(IMMEDIATE_EXIT, true),
	CAP(XSAVE2, true),
	CAP(XCRS, false),
	CAP(VCPU_EVENTS, true),
	CAP(DEBUGREGS, true),
	CAP(SET_GUEST_DEBUG, true),
	CAP(SET_GUEST_DEBUG2, true),
	CAP(IOEVENTFD, true),
	CAP(IRQFD, true),
	CAP(SIGNAL_MSI, true),
	CAP(X2APIC_API, true),
	CAP(NR_MEMSLOTS, true),
	CAP(NR_VCPUS, true),
	CAP(MAX_VCPUS, true),
	CAP(MANUAL_DIRTY_LOG_PROTECT2, true),
	CAP(EXCEPTION_PAYLOAD, true),
	CAP(X86_TRIPLE_FAULT_EVENT, true),
	CAP(VCPU_ATTRIBUTES, true),
	CAP(GET_TSC_KHZ, true),
	CAP(TSC_DEADLINE_TIMER, true),
	CAP(ADJUST_CLOCK, true),
	CAP(TSC_CONTROL, false),
	CAP(STEAL_TIME, false),
	CAP(PMU_CAPABILITY, false),
};

static void look_at_caps(int kvm)
{
	for (u32 i = 0; i < ARRAY_SIZE(caps); i++) {
		int value = ioctl(kvm, KVM_CHECK_EXTENSION, caps[i].number);

		judge(value > 0 || !caps[i].wanted, "KVM_CAP_%s: %d", caps[i].name, value);
	}
}

/* ---- what is expected of it ---- */

static void ignore(int number)
{
}

static int run_vcpu(struct vcpu *c)
{
	return ioctl(c->fd, KVM_RUN, 0) < 0 ? -errno : (int)c->run->exit_reason;
}

static bool is_out(const struct vcpu *c, u16 port)
{
	return c->run->exit_reason == KVM_EXIT_IO && c->run->io.direction == KVM_EXIT_IO_OUT && c->run->io.port == port;
}

static u32 out_value(const struct vcpu *c)
{
	u32 value = 0;

	memcpy(&value, (const u8 *)c->run + c->run->io.data_offset, c->run->io.size);
	return value;
}

static bool expect_out(struct vcpu *c, u16 port, u32 value, const char *what)
{
	int reason = run_vcpu(c);
	bool out = reason >= 0 && is_out(c, port);

	return judge(out && out_value(c) == value, "%s: exit %d, value 0x%x", what, reason, out ? out_value(c) : 0);
}

static void expect_store(struct vcpu *c)
{
	int reason = run_vcpu(c);
	u32 value;

	memcpy(&value, c->run->mmio.data, sizeof(value));
	judge(reason == KVM_EXIT_MMIO && c->run->mmio.is_write && c->run->mmio.phys_addr == HOLE && c->run->mmio.len == 4 &&
		      value == STORED,
	      "a store where no memory is: exit %d", reason);
}

static void expect_rdmsr(struct vcpu *c)
{
	int reason = run_vcpu(c);

	if (!judge(reason == KVM_EXIT_X86_RDMSR && c->run->msr.index == FILTERED, "RDMSR of a filtered MSR: exit %d", reason))
		return;
	c->run->msr.data = 0x1122334455667788ull;
	expect_out(c, DONE, 0x55667788, "its low half");
	expect_out(c, DONE, 0x11223344, "its high half");
}

/* KVM keeps a vCPU that halts, as its local APIC is there, too; a signal gets it back. */
static void expect_halt(struct vcpu *c, const char *what)
{
	const struct itimerval soon = {.it_value.tv_usec = 200000};
	struct kvm_mp_state state = {0};
	int reason;

	setitimer(ITIMER_REAL, &soon, NULL);
	reason = run_vcpu(c);
	must(ioctl(c->fd, KVM_GET_MP_STATE, &state), "KVM_GET_MP_STATE");
	judge(reason == -EINTR && state.mp_state == KVM_MP_STATE_HALTED, "%s: exit %d, state %u", what, reason, state.mp_state);
}

static void send_msi(int vm, u32 apic_id)
{
	struct kvm_msi m = {.address_lo = LAPIC | apic_id << 12, .data = VECTOR};

	judge(ioctl(vm, KVM_SIGNAL_MSI, &m) == 1, "an MSI is delivered");
}

static void time_exits(struct vcpu *c)
{
	struct timespec a, b;
	u32 n = 0;

	clock_gettime(CLOCK_MONOTONIC, &a);
	while (run_vcpu(c) == KVM_EXIT_IO && is_out(c, PORT))
		n++;
	clock_gettime(CLOCK_MONOTONIC, &b);
	judge(n == EXITS && is_out(c, DONE), "%u exits, %.1f us each", n,
	      ((double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) / 1e3) / (n + 1));
}

static void look_at_tsc(const struct vcpu *c)
{
	u64 offset = 0;
	struct kvm_device_attr a = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (u64)&offset};
	const u64 wanted = 123456789;

	if (!judge(!ioctl(c->fd, KVM_HAS_DEVICE_ATTR, &a), "KVM_VCPU_TSC_OFFSET"))
		return;
	offset = wanted;
	must(ioctl(c->fd, KVM_SET_DEVICE_ATTR, &a), "KVM_SET_DEVICE_ATTR");
	offset = 0;
	must(ioctl(c->fd, KVM_GET_DEVICE_ATTR, &a), "KVM_GET_DEVICE_ATTR");
	judge(offset == wanted, "a vCPU's TSC offset is what was set");
	printf("        the TSC has %d kHz\n", ioctl(c->fd, KVM_GET_TSC_KHZ, 0));
}

static void debug(const struct vcpu *c, u32 control, u64 breakpoint)
{
	struct kvm_guest_debug d = {.control = control, .arch.debugreg = {[0] = breakpoint, [7] = breakpoint ? 1 : 0}};

	must(ioctl(c->fd, KVM_SET_GUEST_DEBUG, &d), "KVM_SET_GUEST_DEBUG");
}

static bool stops_at(struct vcpu *c, u64 rip)
{
	return run_vcpu(c) == KVM_EXIT_DEBUG && c->run->debug.arch.pc == rip;
}

/* QEMU 7.2 forgets what DR7 says when it enters a guest, and does not intercept the exception of an INT3. */
static void try_debug(struct vcpu *c)
{
	const u64 second = LONG_START + (u64)(long_second - long_code), trap = LONG_START + (u64)(trap_code - long_code);

	start_long(c, trap);
	debug(c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, 0);
	known(stops_at(c, trap), "INT3 stops it");
	start_long(c, LONG_START);
	debug(c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, second);
	known(stops_at(c, second), "a breakpoint in a debug register stops it");
	start_long(c, LONG_START);
	debug(c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, 0);
	judge(stops_at(c, second), "a single step stops it");
	debug(c, 0, 0);
}

/* QEMU 7.2 does not intercept XSETBV, so KVM puts back what it knows of at the next entry: its guests have no AVX, and Linux warns as it starts. */
static void try_xcr0(int kvm, int vm)
{
	struct vcpu c = make_vcpu(kvm, vm, 2);
	struct kvm_xcrs x = {0};

	start_long(&c, LONG_START + (u64)(xcr_code - long_code));
	expect_out(&c, DONE, 7, "XSETBV is executed");
	must(ioctl(c.fd, KVM_GET_XCRS, &x), "KVM_GET_XCRS");
	run_vcpu(&c);
	known(x.xcrs[0].value == 7 && out_value(&c) == 7, "KVM sees it: XCR0 is 0x%llx there, 0x%x after an exit", x.xcrs[0].value,
	      out_value(&c));
}

static void try_real_mode(int kvm, int vm)
{
	struct vcpu c = make_vcpu(kvm, vm, 0);

	start_real(&c);
	expect_out(&c, PORT, 'R', "real mode writes to a port");
	expect_halt(&c, "real mode halts");
}

static void try_long_mode(int kvm, int vm)
{
	struct vcpu c = make_vcpu(kvm, vm, 1);

	try_debug(&c);
	start_long(&c, LONG_START);
	expect_out(&c, PORT, 'L', "64-bit mode writes to a port");
	expect_store(&c);
	expect_rdmsr(&c);
	expect_halt(&c, "64-bit mode halts");
	send_msi(vm, 1);
	expect_out(&c, PORT, 'I', "its handler is reached");
	time_exits(&c);
	look_at_tsc(&c);
}

int main(void)
{
	const struct sigaction interrupt = {.sa_handler = ignore}; /* without SA_RESTART */
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm;

	if (kvm < 0) {
		printf("/dev/kvm cannot be opened (%s): tools/nested.py runs this where there is one\n", strerror(errno));
		return 77;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGALRM, &interrupt, NULL);
	look_at_caps(kvm);
	vm = make_vm(kvm);
	try_real_mode(kvm, vm);
	try_long_mode(kvm, vm);
	if (ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0) /* the CPU has XSAVE */
		try_xcr0(kvm, vm);
	printf("%s\n", failures ? "FAILED" : "passed");
	return failures != 0;
}
