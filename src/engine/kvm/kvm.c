/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM: whether it is there and really backed by hardware. This build can only look; it has no KVM engine, so every operation besides
 * probe is absent and engine_choose never hands these out.
 *
 * Threading: any thread; no state.
 */
#include "engine/engine.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define CPUID_1_ECX_VMX (1u << 5)
#define CPUID_80000001_ECX_SVM (1u << 2)

static bool cpu_has_virtualization(void)
{
	u32 a, b, c, d;

	if (__get_cpuid(1, &a, &b, &c, &d) && (c & CPUID_1_ECX_VMX))
		return true;
	return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & CPUID_80000001_ECX_SVM);
}

static int open_device(struct err *e)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	if (errno == EACCES)
		return err_set(e, EACCES, "/dev/kvm cannot be opened: permission denied; join the group kvm");
	if (errno == ENOENT)
		return err_set(e, ENOENT, "there is no /dev/kvm; load the kernel module kvm_intel or kvm_amd");
	return err_sys(e, errno, "/dev/kvm cannot be opened");
}

static int try_vcpu(int kvm, struct err *e)
{
	int vm, vcpu, version = ioctl(kvm, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION)
		return err_set(e, EPROTO, "/dev/kvm speaks version %d, not %d", version, KVM_API_VERSION);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		return err_sys(e, errno, "/dev/kvm cannot create a VM");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		err_sys(e, errno, "/dev/kvm cannot create a vCPU");
	else
		close(vcpu);
	close(vm);
	return vcpu < 0 ? -e->code : 0;
}

/* The CPU's flag comes first: a kernel can offer /dev/kvm without hardware behind it, where a stock guest crawls or dies. */
static int probe(struct err *e)
{
	int fd, r;

	if (!cpu_has_virtualization())
		return err_set(e, ENODEV, "this CPU shows neither vmx nor svm");
	fd = open_device(e);
	if (fd < 0)
		return fd;
	r = try_vcpu(fd, e);
	close(fd);
	return r;
}

const struct engine_ops engine_kvm = {
	.name = "kvm",
	.summary = "hardware virtualization through /dev/kvm",
	.probe = probe,
};
