/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See machine.h.
 */
#include "machine.h"
#include "guests.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define RAM_SIZE (16 * MiB)
#define PML4 0x10000ul
#define PDPT 0x11000ul
#define GDT 0x12000ul
#define IDT 0x13000ul
#define STACK 0x20000ul
#define GSIS 24

int must(int result, const char *what)
{
	if (result >= 0)
		return result;
	printf("FAILED  %s: %s\n", what, strerror(errno));
	exit(1);
}

static void enable(int vm, u32 cap, u64 value, const char *what)
{
	struct kvm_enable_cap c = {.cap = cap, .args = {value}};

	must(ioctl(vm, KVM_ENABLE_CAP, &c), what);
}

static void filter_msr(int vm)
{
	static u8 none; /* one bit an MSR; 0 is refused */
	struct kvm_msr_filter f = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges[0] = {.flags = KVM_MSR_FILTER_READ, .nmsrs = 1, .base = FILTERED, .bitmap = &none},
	};

	enable(vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, "KVM_CAP_X86_USER_SPACE_MSR");
	must(ioctl(vm, KVM_X86_SET_MSR_FILTER, &f), "KVM_X86_SET_MSR_FILTER");
}

/* The first 4 GiB as they are, in pages of 1 GiB; a code and a data segment; a handler. */
static void lay_tables(u8 *ram)
{
	const u64 handler = LONG_START + (u64)(long_handler - long_code);
	u64 *pdpt = (u64 *)(ram + PDPT), *gdt = (u64 *)(ram + GDT), *gate = (u64 *)(ram + IDT + 16 * VECTOR);

	*(u64 *)(ram + PML4) = PDPT | 3;
	for (u32 i = 0; i < 4; i++)
		pdpt[i] = i * GiB | 0x83;
	gdt[1] = 0x00af9b000000ffffull;
	gdt[2] = 0x00cf93000000ffffull;
	gate[0] = (handler & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (handler >> 16 & 0xffff) << 48;
}

static void lay_ram(int vm)
{
	u8 *ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region slot = {.memory_size = RAM_SIZE, .userspace_addr = (u64)ram};

	must(ram == MAP_FAILED ? -1 : 0, "mmap");
	memcpy(ram + REAL_START, real_code, (size_t)(real_end - real_code));
	memcpy(ram + LONG_START, long_code, (size_t)(long_end - long_code));
	lay_tables(ram);
	must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
}

int make_vm(int kvm)
{
	int vm = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");

	enable(vm, KVM_CAP_SPLIT_IRQCHIP, GSIS, "KVM_CAP_SPLIT_IRQCHIP");
	filter_msr(vm);
	lay_ram(vm);
	return vm;
}

static void set_cpuid(int kvm, int vcpu)
{
	const u32 n = 256;
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + n * sizeof(c->entries[0]));

	must(c ? 0 : -1, "calloc");
	c->nent = n;
	must(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c), "KVM_GET_SUPPORTED_CPUID");
	must(ioctl(vcpu, KVM_SET_CPUID2, c), "KVM_SET_CPUID2");
	free(c);
}

struct vcpu make_vcpu(int kvm, int vm, u32 number)
{
	struct vcpu c = {.fd = must(ioctl(vm, KVM_CREATE_VCPU, number), "KVM_CREATE_VCPU")};
	struct kvm_mp_state runnable = {KVM_MP_STATE_RUNNABLE}; /* all but the first wait for an INIT otherwise */
	int size = must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");

	c.run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, c.fd, 0);
	must(c.run == MAP_FAILED ? -1 : 0, "mmap of a vCPU");
	set_cpuid(kvm, c.fd);
	must(ioctl(c.fd, KVM_SET_MP_STATE, &runnable), "KVM_SET_MP_STATE");
	return c;
}

static void start_at(const struct vcpu *c, const struct kvm_sregs *s, u64 rip)
{
	struct kvm_regs r = {.rip = rip, .rsp = STACK, .rflags = 2};

	must(ioctl(c->fd, KVM_SET_SREGS, s), "KVM_SET_SREGS");
	must(ioctl(c->fd, KVM_SET_REGS, &r), "KVM_SET_REGS");
}

void start_real(const struct vcpu *c)
{
	struct kvm_sregs s;

	must(ioctl(c->fd, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cs.base = s.cs.selector = 0;
	start_at(c, &s, REAL_START);
}

void start_long(const struct vcpu *c, u64 rip)
{
	const struct kvm_segment data = {.limit = ~0u, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	struct kvm_sregs s;

	must(ioctl(c->fd, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cs = (struct kvm_segment){.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.gdt = (struct kvm_dtable){.base = GDT, .limit = 3 * 8 - 1};
	s.idt = (struct kvm_dtable){.base = IDT, .limit = 256 * 16 - 1};
	s.cr3 = PML4;
	s.cr4 = 0x20;	    /* PAE */
	s.cr0 = 0x80000033; /* PG, NE, ET, MP, PE */
	s.efer = 0x500;	    /* LMA, LME */
	start_at(c, &s, rip);
}
