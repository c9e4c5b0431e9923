/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KVM engine as the rest of the program sees it: whether KVM is there and really backed by hardware, the VM that its vCPUs share, and the table of
 * engine.h.
 *
 * Threading: see engine.h.
 */
#include "engine/kvm/kvm.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define CPUID_1_ECX_VMX (1u << 5)
#define CPUID_80000001_ECX_SVM (1u << 2)

static bool has_vmx(void)
{
	u32 a, b, c, d;

	return __get_cpuid(1, &a, &b, &c, &d) && (c & CPUID_1_ECX_VMX);
}

static bool has_svm(void)
{
	u32 a, b, c, d;

	return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & CPUID_80000001_ECX_SVM);
}

/* Not everybody's: the group of the file may open it. */
static int not_permitted(struct err *e)
{
	struct stat st;
	const struct group *g = stat("/dev/kvm", &st) == 0 && (st.st_mode & S_IRGRP) && (st.st_mode & S_IWGRP) ? getgrgid(st.st_gid) : NULL;

	if (g && st.st_gid != 0)
		return err_set(e, EACCES,
			       "/dev/kvm cannot be opened: permission denied; join its group: sudo usermod -aG %s $USER, and log in again",
			       g->gr_name);
	return err_set(e, EACCES,
		       "/dev/kvm cannot be opened: permission denied; give yourself access: sudo setfacl -m u:$USER:rw /dev/kvm");
}

static int open_device(struct err *e)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	if (errno == EACCES || errno == EPERM)
		return not_permitted(e);
	if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
		return err_set(e, ENOENT,
			       "there is no KVM in the host's kernel; load it: sudo modprobe %s; if that fails, virtualization is off in "
			       "the firmware",
			       has_vmx() ? "kvm_intel" : "kvm_amd");
	return err_sys(e, errno, "/dev/kvm cannot be opened");
}

static int check_version(int kvm, struct err *e)
{
	int version = kvm_call(kvm, KVM_GET_API_VERSION, NULL);

	return version != KVM_API_VERSION ? err_set(e, EPROTO, "/dev/kvm speaks version %d, not %d", version, KVM_API_VERSION) : 0;
}

static int try_vcpu(int kvm, struct err *e)
{
	int vm = kvm_call(kvm, KVM_CREATE_VM, NULL), vcpu;

	if (vm < 0)
		return err_sys(e, -vm, "/dev/kvm cannot create a VM");
	vcpu = kvm_call(vm, KVM_CREATE_VCPU, NULL);
	close(vm);
	if (vcpu < 0)
		return err_sys(e, -vcpu, "/dev/kvm cannot create a vCPU");
	close(vcpu);
	return 0;
}

/* The CPU's flag comes first: a kernel can offer /dev/kvm without hardware behind it, where a stock guest crawls or dies. */
static int probe(struct err *e)
{
	int fd, r;

	if (!has_vmx() && !has_svm())
		return err_set(e, ENODEV, "this CPU shows neither vmx nor svm");
	fd = open_device(e);
	if (fd < 0)
		return fd;
	r = check_version(fd, e);
	if (r == 0)
		r = kvm_check_caps(fd, e);
	if (r == 0)
		r = try_vcpu(fd, e);
	close(fd);
	return r;
}

static int host_cpu(struct x86_cpuid_host **out, struct err *e)
{
	int fd = open_device(e), r;

	if (fd < 0)
		return fd;
	r = kvm_supported_cpu(fd, out, e);
	close(fd);
	return r;
}

/* ---- the VM ---- */

static int enable(struct kvm_vm *vm, u32 cap, u64 arg, const char *what, struct err *e)
{
	struct kvm_enable_cap k = {.cap = cap, .args[0] = arg};
	int r = kvm_call(vm->fd, KVM_ENABLE_CAP, &k);

	return r < 0 ? err_sys(e, -r, "KVM cannot have %s", what) : 0;
}

static int configure(struct kvm_vm *vm, struct err *e)
{
	int r = enable(vm, KVM_CAP_SPLIT_IRQCHIP, KVM_LEVEL_MESSAGES, "the local APICs alone", e);

	if (r == 0)
		r = enable(vm, KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
			   "APIC ids of 32 bits", e);
	if (r == 0)
		r = enable(vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_CD_NW_CLEARED, "CPUs without quirks",
			   e);
	if (r == 0)
		r = kvm_filter_msrs(vm, e);
	return r < 0 ? r : kvm_slots_create(vm, e);
}

/* Older kernels have no larger image than struct kvm_xsave. */
static void learn(struct kvm_vm *vm)
{
	int run = kvm_call(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL), xsave = kvm_call(vm->fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_XSAVE2);

	vm->debug_registers = kvm_debug_registers_hold(vm->kvm);
	vm->run_size = run > 0 ? (u32)run : 0;
	vm->xsave_size = xsave > (int)sizeof(struct kvm_xsave) ? (u32)xsave : (u32)sizeof(struct kvm_xsave);
}

static void vm_destroy(struct engine_vm *evm)
{
	struct kvm_vm *vm = kvm_vm_of(evm);

	if (!vm)
		return;
	if (vm->fd >= 0)
		close(vm->fd);
	if (vm->kvm >= 0)
		close(vm->kvm);
	pthread_mutex_destroy(&vm->routes_lock);
	free(vm);
}

static int open_vm(struct kvm_vm *vm, struct err *e)
{
	vm->kvm = open_device(e);
	if (vm->kvm < 0)
		return vm->kvm;
	vm->fd = kvm_call(vm->kvm, KVM_CREATE_VM, NULL);
	if (vm->fd < 0)
		return err_sys(e, -vm->fd, "/dev/kvm cannot create a VM");
	learn(vm);
	return configure(vm, e);
}

static int vm_create(struct engine_vm **out, struct guest_memory *gm, const struct x86_cpuid *cpuid, u32 max_vcpus, struct err *e)
{
	struct kvm_vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return err_sys(e, ENOMEM, "engine kvm");
	(void)max_vcpus;
	vm->kvm = vm->fd = -1;
	vm->gm = gm;
	vm->cpuid = cpuid;
	pthread_mutex_init(&vm->routes_lock, NULL);
	r = open_vm(vm, e);
	if (r < 0) {
		vm_destroy((struct engine_vm *)vm);
		return r;
	}
	*out = (struct engine_vm *)vm;
	return 0;
}

/* The kernel follows the process's memory by itself. */
static void ram_written(struct engine_vm *vm, gpa_t gpa, u64 len)
{
	(void)vm;
	(void)gpa;
	(void)len;
}

/* Without a length: writes of every size. Refused where the kernel's bus is full, or too old for that: then they come as others do. */
static void doorbell(struct engine_vm *vm, gpa_t gpa, int eventfd, bool on)
{
	struct kvm_ioeventfd k = {.addr = gpa, .fd = eventfd, .flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN};

	(void)kvm_call(kvm_vm_of(vm)->fd, KVM_IOEVENTFD, &k);
}

const struct engine_ops engine_kvm = {
	.name = "kvm",
	.summary = "hardware virtualization through /dev/kvm",
	.probe = probe,
	.host_cpu = host_cpu,
	.vm_create = vm_create,
	.vm_destroy = vm_destroy,
	.vcpu_create = kvm_vcpu_create,
	.vcpu_destroy = kvm_vcpu_destroy,
	.vcpu_run = kvm_vcpu_run,
	.vcpu_kick = kvm_vcpu_kick,
	.vcpu_irq = kvm_vcpu_irq,
	.vcpu_nmi = kvm_vcpu_nmi,
	.vcpu_state = kvm_vcpu_state,
	.vcpu_sync_in = kvm_vcpu_sync_in,
	.vcpu_sync_out = kvm_vcpu_sync_out,
	.vcpu_debug = kvm_vcpu_debug,
	.ram_written = ram_written,
	.doorbell = doorbell,
	.dirty_log = kvm_dirty_log,
	.dirty_take = kvm_dirty_take,
	.apic = &kvm_apic,
};
