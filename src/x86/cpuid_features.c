/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every CPUID feature bit that has a meaning on CPUs of the field, and what Guise does about it.
 * Source: SDM vol. 2, CPUID; AMD APM vol. 3, appendix E; names as in Linux's /proc/cpuinfo.
 *
 * Speculation. Under the translator a guest has no way to steer the host's predictors: IBRS, STIBP, SSBD, IBPB and AutoIBRS are hidden, since
 * translated code cannot keep their promise. Two things are true of translated code on every host and are said: the guest's RET is
 * never the host's RET with a prediction that the guest trained (SRSO_NO), and guest privilege is no privilege level of the host, so there
 * is no permission check of the host's for Meltdown to race with (ARCH_CAPABILITIES with RDCL_NO alone). Linux then chooses retpolines,
 * no return thunks and no page-table isolation.
 * Threading: constant.
 */
#include "x86/cpuid_features.h"

enum { EAX, EBX, ECX, EDX };
#define XAVX 0x4
#define X512 0xe4

#define F(leaf, reg, bit, policy, name)                                                                                                    \
	{                                                                                                                                  \
		leaf, 0, reg, bit, policy, 0, name                                                                                         \
	}
#define F1(leaf, reg, bit, policy, name)                                                                                                   \
	{                                                                                                                                  \
		leaf, 1, reg, bit, policy, 0, name                                                                                         \
	}
#define V(leaf, reg, bit, name)                                                                                                            \
	{                                                                                                                                  \
		leaf, 0, reg, bit, HOST, XAVX, name                                                                                        \
	}
#define V1(leaf, reg, bit, name)                                                                                                           \
	{                                                                                                                                  \
		leaf, 1, reg, bit, HOST, XAVX, name                                                                                        \
	}
#define Z(leaf, reg, bit, name)                                                                                                            \
	{                                                                                                                                  \
		leaf, 0, reg, bit, HOST, X512, name                                                                                        \
	}
#define Z1(leaf, reg, bit, name)                                                                                                           \
	{                                                                                                                                  \
		leaf, 1, reg, bit, HOST, X512, name                                                                                        \
	}

const struct x86_feature x86_features[] = {
	F(1, ECX, 0, HOST, "sse3"),
	F(1, ECX, 1, HOST, "pclmulqdq"),
	F(1, ECX, 2, HIDE, "dtes64"),
	F(1, ECX, 3, HIDE, "monitor"), /* would sleep in the guest and spin on the host */
	F(1, ECX, 4, HIDE, "ds_cpl"),
	F(1, ECX, 5, HIDE, "vmx"),
	F(1, ECX, 6, HIDE, "smx"),
	F(1, ECX, 7, HIDE, "est"),
	F(1, ECX, 8, HIDE, "tm2"),
	F(1, ECX, 9, HOST, "ssse3"),
	F(1, ECX, 10, HIDE, "cid"),
	F(1, ECX, 11, HIDE, "sdbg"),
	V(1, ECX, 12, "fma"),
	F(1, ECX, 13, HOST, "cx16"),
	F(1, ECX, 14, HIDE, "xtpr"),
	F(1, ECX, 15, HIDE, "pdcm"),
	F(1, ECX, 17, OURS, "pcid"),
	F(1, ECX, 18, HIDE, "dca"),
	F(1, ECX, 19, HOST, "sse4_1"),
	F(1, ECX, 20, HOST, "sse4_2"),
	F(1, ECX, 21, ALWAYS, "x2apic"),
	F(1, ECX, 22, HOST, "movbe"),
	F(1, ECX, 23, HOST, "popcnt"),
	F(1, ECX, 24, ALWAYS, "tsc_deadline_timer"),
	F(1, ECX, 25, HOST, "aes"),
	F(1, ECX, 26, HOST, "xsave"),
	V(1, ECX, 28, "avx"), /* 27, OSXSAVE, follows CR4 */
	V(1, ECX, 29, "f16c"),
	F(1, ECX, 30, HOST, "rdrand"),
	F(1, ECX, 31, ALWAYS, "hypervisor"),

	F(1, EDX, 0, HOST, "fpu"),
	F(1, EDX, 1, HIDE, "vme"), /* virtual interrupt flag of virtual-8086 tasks: not implemented */
	F(1, EDX, 2, OURS, "de"),
	F(1, EDX, 3, OURS, "pse"),
	F(1, EDX, 4, OURS, "tsc"),
	F(1, EDX, 5, OURS, "msr"),
	F(1, EDX, 6, OURS, "pae"),
	F(1, EDX, 7, OURS, "mce"), /* with no banks: nothing is ever reported */
	F(1, EDX, 8, HOST, "cx8"),
	F(1, EDX, 9, ALWAYS, "apic"),
	F(1, EDX, 11, OURS, "sep"),
	F(1, EDX, 12, OURS, "mtrr"),
	F(1, EDX, 13, OURS, "pge"),
	F(1, EDX, 14, OURS, "mca"),
	F(1, EDX, 15, HOST, "cmov"),
	F(1, EDX, 16, OURS, "pat"),
	F(1, EDX, 17, OURS, "pse36"),
	F(1, EDX, 18, HIDE, "pn"),
	F(1, EDX, 19, HOST, "clflush"),
	F(1, EDX, 21, HIDE, "ds"),
	F(1, EDX, 22, HIDE, "acpi"),
	F(1, EDX, 23, HOST, "mmx"),
	F(1, EDX, 24, HOST, "fxsr"),
	F(1, EDX, 25, HOST, "sse"),
	F(1, EDX, 26, HOST, "sse2"),
	F(1, EDX, 27, HOST, "ss"),
	F(1, EDX, 28, WHEN_SMP, "ht"),
	F(1, EDX, 29, HIDE, "tm"),
	F(1, EDX, 31, HIDE, "pbe"),

	F(6, EAX, 2, ALWAYS, "arat"),

	F(7, EBX, 0, OURS, "fsgsbase"),
	F(7, EBX, 1, OURS, "tsc_adjust"),
	F(7, EBX, 2, HIDE, "sgx"),
	F(7, EBX, 3, HOST, "bmi1"),
	F(7, EBX, 4, HIDE, "hle"),
	V(7, EBX, 5, "avx2"),
	F(7, EBX, 6, HOST, "fdp_excptn_only"),
	F(7, EBX, 7, OURS, "smep"),
	F(7, EBX, 8, HOST, "bmi2"),
	F(7, EBX, 9, HOST, "erms"),
	F(7, EBX, 10, OURS, "invpcid"),
	F(7, EBX, 11, HIDE, "rtm"),
	F(7, EBX, 12, HIDE, "cqm"),
	F(7, EBX, 13, HOST, "zero_fcs_fds"),
	F(7, EBX, 14, HIDE, "mpx"),
	F(7, EBX, 15, HIDE, "rdt_a"),
	Z(7, EBX, 16, "avx512f"),
	Z(7, EBX, 17, "avx512dq"),
	F(7, EBX, 18, HOST, "rdseed"),
	F(7, EBX, 19, HOST, "adx"),
	F(7, EBX, 20, OURS, "smap"),
	Z(7, EBX, 21, "avx512ifma"),
	F(7, EBX, 23, HOST, "clflushopt"),
	F(7, EBX, 24, HOST, "clwb"),
	F(7, EBX, 25, HIDE, "intel_pt"),
	F(7, EBX, 26, HIDE, "avx512pf"),
	F(7, EBX, 27, HIDE, "avx512er"),
	Z(7, EBX, 28, "avx512cd"),
	F(7, EBX, 29, HOST, "sha_ni"),
	Z(7, EBX, 30, "avx512bw"),
	Z(7, EBX, 31, "avx512vl"),

	F(7, ECX, 0, HIDE, "prefetchwt1"),
	Z(7, ECX, 1, "avx512vbmi"),
	F(7, ECX, 2, OURS, "umip"),
	F(7, ECX, 3, HIDE, "pku"),
	F(7, ECX, 5, HIDE, "waitpkg"),
	Z(7, ECX, 6, "avx512_vbmi2"),
	F(7, ECX, 7, HIDE, "shstk"),
	F(7, ECX, 8, HOST, "gfni"),
	V(7, ECX, 9, "vaes"),
	V(7, ECX, 10, "vpclmulqdq"),
	Z(7, ECX, 11, "avx512_vnni"),
	Z(7, ECX, 12, "avx512_bitalg"),
	F(7, ECX, 13, HIDE, "tme"),
	Z(7, ECX, 14, "avx512_vpopcntdq"),
	F(7, ECX, 16, HIDE, "la57"),
	F(7, ECX, 22, OURS, "rdpid"),
	F(7, ECX, 23, HIDE, "kl"),
	F(7, ECX, 24, HIDE, "bus_lock_detect"),
	F(7, ECX, 25, HIDE, "cldemote"),
	F(7, ECX, 27, HIDE, "movdiri"),
	F(7, ECX, 28, HIDE, "movdir64b"),
	F(7, ECX, 29, HIDE, "enqcmd"),
	F(7, ECX, 30, HIDE, "sgx_lc"),
	F(7, ECX, 31, HIDE, "pks"),

	F(7, EDX, 4, HOST, "fsrm"),
	F(7, EDX, 5, HIDE, "uintr"),
	Z(7, EDX, 8, "avx512_vp2intersect"),
	F(7, EDX, 10, ON_KVM, "md_clear"),
	F(7, EDX, 11, HIDE, "rtm_always_abort"),
	F(7, EDX, 14, HIDE, "serialize"),
	F(7, EDX, 16, HIDE, "tsxldtrk"),
	F(7, EDX, 18, HIDE, "pconfig"),
	F(7, EDX, 20, HIDE, "ibt"),
	F(7, EDX, 22, HIDE, "amx_bf16"),
	Z(7, EDX, 23, "avx512_fp16"),
	F(7, EDX, 24, HIDE, "amx_tile"),
	F(7, EDX, 25, HIDE, "amx_int8"),
	F(7, EDX, 26, ON_KVM, "ibrs"),
	F(7, EDX, 27, ON_KVM, "stibp"),
	F(7, EDX, 28, ON_KVM, "flush_l1d"),
	F(7, EDX, 29, ON_BT, "arch_capabilities"),
	F(7, EDX, 30, HIDE, "core_capabilities"),
	F(7, EDX, 31, ON_KVM, "ssbd"),

	V1(7, EAX, 4, "avx_vnni"),
	Z1(7, EAX, 5, "avx512_bf16"),
	F1(7, EAX, 7, HIDE, "cmpccxadd"),
	F1(7, EAX, 10, HOST, "fzrm"),
	F1(7, EAX, 11, HOST, "fsrs"),
	F1(7, EAX, 12, HOST, "fsrc"),
	F1(7, EAX, 17, HIDE, "fred"),
	F1(7, EAX, 19, HIDE, "wrmsrns"),
	F1(7, EAX, 21, HIDE, "amx_fp16"),
	F1(7, EAX, 23, HIDE, "avx_ifma"), /* newer than the decoder */
	F1(7, EAX, 26, HIDE, "lam"),
	F1(7, EDX, 4, HIDE, "avx_vnni_int8"),
	F1(7, EDX, 5, HIDE, "avx_ne_convert"),

	F1(0xd, EAX, 0, HOST, "xsaveopt"),
	F1(0xd, EAX, 1, HOST, "xsavec"),
	F1(0xd, EAX, 2, HOST, "xgetbv1"),
	F1(0xd, EAX, 3, HIDE, "xsaves"), /* no supervisor states to save */
	F1(0xd, EAX, 4, HIDE, "xfd"),

	F(0x80000001, ECX, 0, HOST, "lahf_lm"),
	F(0x80000001, ECX, 1, WHEN_SMP, "cmp_legacy"),
	F(0x80000001, ECX, 2, HIDE, "svm"),
	F(0x80000001, ECX, 3, HIDE, "extapic"),
	F(0x80000001, ECX, 4, HIDE, "cr8_legacy"),
	F(0x80000001, ECX, 5, HOST, "abm"),
	F(0x80000001, ECX, 6, HOST, "sse4a"),
	F(0x80000001, ECX, 7, HOST, "misalignsse"),
	F(0x80000001, ECX, 8, HOST, "3dnowprefetch"),
	F(0x80000001, ECX, 9, HIDE, "osvw"),
	F(0x80000001, ECX, 10, HIDE, "ibs"),
	F(0x80000001, ECX, 11, HIDE, "xop"),
	F(0x80000001, ECX, 12, HIDE, "skinit"),
	F(0x80000001, ECX, 13, HIDE, "wdt"),
	F(0x80000001, ECX, 15, HIDE, "lwp"),
	F(0x80000001, ECX, 16, HIDE, "fma4"),
	F(0x80000001, ECX, 17, HIDE, "tce"),
	F(0x80000001, ECX, 21, HIDE, "tbm"),
	F(0x80000001, ECX, 22, HOST, "topoext"),
	F(0x80000001, ECX, 23, HIDE, "perfctr_core"),
	F(0x80000001, ECX, 24, HIDE, "perfctr_nb"),
	F(0x80000001, ECX, 26, HIDE, "bpext"),
	F(0x80000001, ECX, 27, HIDE, "ptsc"),
	F(0x80000001, ECX, 28, HIDE, "perfctr_llc"),
	F(0x80000001, ECX, 29, HIDE, "mwaitx"),

	F(0x80000001, EDX, 11, OURS, "syscall"),
	F(0x80000001, EDX, 20, OURS, "nx"),
	F(0x80000001, EDX, 22, HOST, "mmxext"),
	F(0x80000001, EDX, 25, HIDE, "fxsr_opt"), /* FXSAVE that skips XMM at CPL 0 */
	F(0x80000001, EDX, 26, OURS, "pdpe1gb"),
	F(0x80000001, EDX, 27, OURS, "rdtscp"),
	F(0x80000001, EDX, 29, OURS, "lm"),
	F(0x80000001, EDX, 30, HIDE, "3dnowext"),
	F(0x80000001, EDX, 31, HIDE, "3dnow"),

	F(0x80000007, EDX, 8, ALWAYS, "constant_tsc nonstop_tsc"),

	F(0x80000008, EBX, 0, HIDE, "clzero"), /* a store whose address is implicit */
	F(0x80000008, EBX, 1, HIDE, "irperf"),
	F(0x80000008, EBX, 2, HOST, "xsaveerptr"),
	F(0x80000008, EBX, 4, HIDE, "rdpru"),
	F(0x80000008, EBX, 9, HIDE, "wbnoinvd"),
	F(0x80000008, EBX, 12, ON_KVM, "amd_ibpb"),
	F(0x80000008, EBX, 14, ON_KVM, "amd_ibrs"),
	F(0x80000008, EBX, 15, ON_KVM, "amd_stibp"),
	F(0x80000008, EBX, 17, ON_KVM, "amd_stibp_always_on"),
	F(0x80000008, EBX, 23, HIDE, "amd_ppin"),
	F(0x80000008, EBX, 24, ON_KVM, "amd_ssbd"),
	F(0x80000008, EBX, 25, ON_KVM, "virt_ssbd"),
	F(0x80000008, EBX, 26, HOST, "amd_ssb_no"),
	F(0x80000008, EBX, 29, HOST, "btc_no"),

	F(0x80000021, EAX, 2, HOST, "lfence_rdtsc"),
	F(0x80000021, EAX, 5, ON_KVM, "verw_clear"),
	F(0x80000021, EAX, 6, OURS, "null_sel_clr_base"),
	F(0x80000021, EAX, 8, ON_KVM, "autoibrs"),
	F(0x80000021, EAX, 27, ON_KVM, "sbpb"),
	F(0x80000021, EAX, 28, ON_KVM, "ibpb_brtype"),
	F(0x80000021, EAX, 29, ON_BT, "srso_no"),
	/* Facts about the host's CPU that hold for whatever runs on it; without them Linux executes VERW at each return to user mode. */
	F(0x80000021, ECX, 1, HOST, "tsa_sq_no"),
	F(0x80000021, ECX, 2, HOST, "tsa_l1_no"),
};

const u32 x86_feature_count = sizeof(x86_features) / sizeof(x86_features[0]);
