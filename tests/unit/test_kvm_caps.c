/* SPDX-License-Identifier: Apache-2.0 */
/* Which of KVM's capabilities the engine wants, and what it says of those that are missing. No KVM is needed. Threading: one thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kvm/kvm.h"

#include <errno.h>

struct kernel {
	int without; /* this capability, */
	int answer;  /* of which it says so */
	bool bare;   /* has none */
};

static int answer(void *opaque, int cap)
{
	const struct kernel *k = opaque;

	return cap == k->without ? k->answer : k->bare ? 0 : 0x7fffffff;
}

static void test_a_kernel_that_has_all(void **state)
{
	struct kernel k = {.without = -1};
	struct err e = {0};

	assert_int_equal(kvm_judge_caps(answer, &k, &e), 0);
}

#define CAP(cap, least)                                                                                                                    \
	{                                                                                                                                  \
#cap, cap, least                                                                                                           \
	}

/* What the engine calls without a fallback, and what it has to be told of each at least. */
static const struct {
	const char *name;
	int cap, least;
} wanted[] = {
	CAP(KVM_CAP_NR_MEMSLOTS, GM_MAX_SLOTS),
	CAP(KVM_CAP_IMMEDIATE_EXIT, 1),
	CAP(KVM_CAP_SPLIT_IRQCHIP, 1),
	CAP(KVM_CAP_SIGNAL_MSI, 1),
	CAP(KVM_CAP_X2APIC_API, 1),
	CAP(KVM_CAP_MP_STATE, 1),
	CAP(KVM_CAP_VCPU_EVENTS, 1),
	CAP(KVM_CAP_DEBUGREGS, 1),
	CAP(KVM_CAP_XSAVE, 1),
	CAP(KVM_CAP_X86_USER_SPACE_MSR, 1),
	CAP(KVM_CAP_X86_MSR_FILTER, 1),
	CAP(KVM_CAP_SYNC_REGS, KVM_SYNC_X86_REGS),
	CAP(KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_LINT0_REENABLED),
};

static void test_what_is_missing_has_a_name(void **state)
{
	for (u32 i = 0; i < ARRAY_SIZE(wanted); i++) {
		struct kernel k = {.without = wanted[i].cap, .answer = wanted[i].least - 1};
		struct err e = {0};

		assert_int_equal(kvm_judge_caps(answer, &k, &e), -ENOTSUP);
		assert_ptr_equal(strstr(e.msg, "the host's KVM lacks KVM_CAP_"), e.msg);
		assert_ptr_equal(strstr(e.msg, wanted[i].name), e.msg + strlen("the host's KVM lacks "));
		assert_non_null(strstr(e.msg, "Linux 6.1 or newer"));
		assert_null(strstr(e.msg, "), KVM_CAP_")); /* the others are there */
		k.answer = wanted[i].least;
		assert_int_equal(kvm_judge_caps(answer, &k, &e), 0);
	}
}

/* Two are named with a comma between; an error of the kernel's is as good as a no. */
static void test_several_are_missing(void **state)
{
	struct kernel k = {.without = KVM_CAP_X86_MSR_FILTER, .answer = -EBADF, .bare = true};
	struct err e = {0};

	assert_int_equal(kvm_judge_caps(answer, &k, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "KVM_CAP_USER_MEMORY (guest RAM is this process's memory), KVM_CAP_NR_MEMSLOTS (RAM and ROM), "));
	assert_non_null(strstr(e.msg, "KVM_CAP_X86_MSR_FILTER"));
}

static void test_no_kernel_at_all(void **state)
{
	struct err e = {0};

	assert_int_equal(kvm_check_caps(-1, &e), -ENOTSUP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_kernel_that_has_all),
		cmocka_unit_test(test_what_is_missing_has_a_name),
		cmocka_unit_test(test_several_are_missing),
		cmocka_unit_test(test_no_kernel_at_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
