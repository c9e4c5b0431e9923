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
 *
 * Levels. A level has the instructions that the psABI names, and of the rest what every host with x86-64-v3 has (from Haswell and Excavator on) or the
 * machine provides itself: PCID, INVPCID, ERMS, SMAP, UMIP, RDPID, 1 GiB pages and TSC_ADJUST are not of that kind. Nothing of ON_KVM or ON_BT is in a
 * level: it would not mean the same on both engines.
 * Threading: constant.
 */
#include "x86/cpuid_features.h"

enum { EAX, EBX, ECX, EDX };
#define XAVX 0x4
#define X512 0xe4

/* The level that has it, and every level above. */
enum { TOP = X86_LEVEL_HOST, V2 = X86_LEVEL_V2, V3 = X86_LEVEL_V3 };

#define ROW(leaf, sub, reg, bit, policy, needs, vendor, level, name)                                                                       \
	{                                                                                                                                  \
		leaf, sub, reg, bit, policy, needs, vendor, level, name                                                                    \
	}
#define F(leaf, reg, bit, policy, level, name) ROW(leaf, 0, reg, bit, policy, 0, X86_ANY_VENDOR, level, name)
#define FA(leaf, reg, bit, policy, level, name) ROW(leaf, 0, reg, bit, policy, 0, X86_AMD_ONLY, level, name)
#define FI(leaf, reg, bit, policy, level, name) ROW(leaf, 0, reg, bit, policy, 0, X86_INTEL_ONLY, level, name)
#define F1(leaf, reg, bit, policy, level, name) ROW(leaf, 1, reg, bit, policy, 0, X86_ANY_VENDOR, level, name)
#define V(leaf, reg, bit, level, name) ROW(leaf, 0, reg, bit, HOST, XAVX, X86_ANY_VENDOR, level, name)
#define V1(leaf, reg, bit, name) ROW(leaf, 1, reg, bit, HOST, XAVX, X86_ANY_VENDOR, TOP, name)
#define Z(leaf, reg, bit, name) ROW(leaf, 0, reg, bit, HOST, X512, X86_ANY_VENDOR, TOP, name)
#define Z1(leaf, reg, bit, name) ROW(leaf, 1, reg, bit, HOST, X512, X86_ANY_VENDOR, TOP, name)

const struct x86_feature x86_features[] = {
	F(1, ECX, 0, HOST, V2, "sse3"),
	F(1, ECX, 1, HOST, TOP, "pclmulqdq"),
	F(1, ECX, 2, HIDE, TOP, "dtes64"),
	F(1, ECX, 3, HIDE, TOP, "monitor"), /* would sleep in the guest and spin on the host */
	F(1, ECX, 4, HIDE, TOP, "ds_cpl"),
	F(1, ECX, 5, HIDE, TOP, "vmx"),
	F(1, ECX, 6, HIDE, TOP, "smx"),
	F(1, ECX, 7, HIDE, TOP, "est"),
	F(1, ECX, 8, HIDE, TOP, "tm2"),
	F(1, ECX, 9, HOST, V2, "ssse3"),
	F(1, ECX, 10, HIDE, TOP, "cid"),
	F(1, ECX, 11, HIDE, TOP, "sdbg"),
	V(1, ECX, 12, V3, "fma"),
	F(1, ECX, 13, HOST, V2, "cx16"),
	F(1, ECX, 14, HIDE, TOP, "xtpr"),
	F(1, ECX, 15, HIDE, TOP, "pdcm"),
	F(1, ECX, 17, OURS, TOP, "pcid"),
	F(1, ECX, 18, HIDE, TOP, "dca"),
	F(1, ECX, 19, HOST, V2, "sse4_1"),
	F(1, ECX, 20, HOST, V2, "sse4_2"),
	F(1, ECX, 21, ALWAYS, V2, "x2apic"),
	F(1, ECX, 22, HOST, V3, "movbe"),
	F(1, ECX, 23, HOST, V2, "popcnt"),
	F(1, ECX, 24, ALWAYS, V2, "tsc_deadline_timer"),
	F(1, ECX, 25, HOST, TOP, "aes"),
	F(1, ECX, 26, HOST, V3, "xsave"),
	V(1, ECX, 28, V3, "avx"), /* 27, OSXSAVE, follows CR4 */
	V(1, ECX, 29, V3, "f16c"),
	F(1, ECX, 30, HOST, TOP, "rdrand"),
	F(1, ECX, 31, ALWAYS, V2, "hypervisor"),

	F(1, EDX, 0, HOST, V2, "fpu"),
	F(1, EDX, 1, HIDE, TOP, "vme"), /* virtual interrupt flag of virtual-8086 tasks: not implemented */
	F(1, EDX, 2, OURS, V2, "de"),
	F(1, EDX, 3, OURS, V2, "pse"),
	F(1, EDX, 4, OURS, V2, "tsc"),
	F(1, EDX, 5, OURS, V2, "msr"),
	F(1, EDX, 6, OURS, V2, "pae"),
	F(1, EDX, 7, OURS, V2, "mce"), /* with no banks: nothing is ever reported */
	F(1, EDX, 8, HOST, V2, "cx8"),
	F(1, EDX, 9, ALWAYS, V2, "apic"),
	F(1, EDX, 11, OURS, V2, "sep"),
	F(1, EDX, 12, OURS, V2, "mtrr"),
	F(1, EDX, 13, OURS, V2, "pge"),
	F(1, EDX, 14, OURS, V2, "mca"),
	F(1, EDX, 15, HOST, V2, "cmov"),
	F(1, EDX, 16, OURS, V2, "pat"),
	F(1, EDX, 17, OURS, V2, "pse36"),
	F(1, EDX, 18, HIDE, TOP, "pn"),
	F(1, EDX, 19, HOST, V2, "clflush"),
	F(1, EDX, 21, HIDE, TOP, "ds"),
	F(1, EDX, 22, HIDE, TOP, "acpi"),
	F(1, EDX, 23, HOST, V2, "mmx"),
	F(1, EDX, 24, HOST, V2, "fxsr"),
	F(1, EDX, 25, HOST, V2, "sse"),
	F(1, EDX, 26, HOST, V2, "sse2"),
	F(1, EDX, 27, HOST, TOP, "ss"),
	F(1, EDX, 28, WHEN_SMP, V2, "ht"),
	F(1, EDX, 29, HIDE, TOP, "tm"),
	F(1, EDX, 31, HIDE, TOP, "pbe"),

	F(6, EAX, 2, ALWAYS, V2, "arat"),

	F(7, EBX, 0, OURS, V2, "fsgsbase"),
	F(7, EBX, 1, OURS, TOP, "tsc_adjust"),
	F(7, EBX, 2, HIDE, TOP, "sgx"),
	F(7, EBX, 3, HOST, V3, "bmi1"),
	F(7, EBX, 4, HIDE, TOP, "hle"),
	V(7, EBX, 5, V3, "avx2"),
	F(7, EBX, 6, HOST, TOP, "fdp_excptn_only"),
	F(7, EBX, 7, OURS, V2, "smep"),
	F(7, EBX, 8, HOST, V3, "bmi2"),
	F(7, EBX, 9, HOST, TOP, "erms"),
	F(7, EBX, 10, OURS, TOP, "invpcid"),
	F(7, EBX, 11, HIDE, TOP, "rtm"),
	F(7, EBX, 12, HIDE, TOP, "cqm"),
	F(7, EBX, 13, HOST, TOP, "zero_fcs_fds"),
	F(7, EBX, 14, HIDE, TOP, "mpx"),
	F(7, EBX, 15, HIDE, TOP, "rdt_a"),
	Z(7, EBX, 16, "avx512f"),
	Z(7, EBX, 17, "avx512dq"),
	F(7, EBX, 18, HOST, TOP, "rdseed"),
	F(7, EBX, 19, HOST, TOP, "adx"),
	F(7, EBX, 20, OURS, TOP, "smap"),
	Z(7, EBX, 21, "avx512ifma"),
	F(7, EBX, 23, HOST, TOP, "clflushopt"),
	F(7, EBX, 24, HOST, TOP, "clwb"),
	F(7, EBX, 25, HIDE, TOP, "intel_pt"),
	F(7, EBX, 26, HIDE, TOP, "avx512pf"),
	F(7, EBX, 27, HIDE, TOP, "avx512er"),
	Z(7, EBX, 28, "avx512cd"),
	F(7, EBX, 29, HOST, TOP, "sha_ni"),
	Z(7, EBX, 30, "avx512bw"),
	Z(7, EBX, 31, "avx512vl"),

	F(7, ECX, 0, HIDE, TOP, "prefetchwt1"),
	Z(7, ECX, 1, "avx512vbmi"),
	F(7, ECX, 2, OURS, TOP, "umip"),
	F(7, ECX, 3, HIDE, TOP, "pku"),
	F(7, ECX, 5, HIDE, TOP, "waitpkg"),
	Z(7, ECX, 6, "avx512_vbmi2"),
	F(7, ECX, 7, HIDE, TOP, "shstk"),
	F(7, ECX, 8, HOST, TOP, "gfni"),
	V(7, ECX, 9, TOP, "vaes"),
	V(7, ECX, 10, TOP, "vpclmulqdq"),
	Z(7, ECX, 11, "avx512_vnni"),
	Z(7, ECX, 12, "avx512_bitalg"),
	F(7, ECX, 13, HIDE, TOP, "tme"),
	Z(7, ECX, 14, "avx512_vpopcntdq"),
	F(7, ECX, 16, HIDE, TOP, "la57"),
	F(7, ECX, 22, OURS, TOP, "rdpid"),
	F(7, ECX, 23, HIDE, TOP, "kl"),
	F(7, ECX, 24, HIDE, TOP, "bus_lock_detect"),
	F(7, ECX, 25, HIDE, TOP, "cldemote"),
	F(7, ECX, 27, HIDE, TOP, "movdiri"),
	F(7, ECX, 28, HIDE, TOP, "movdir64b"),
	F(7, ECX, 29, HIDE, TOP, "enqcmd"),
	F(7, ECX, 30, HIDE, TOP, "sgx_lc"),
	F(7, ECX, 31, HIDE, TOP, "pks"),

	F(7, EDX, 4, HOST, TOP, "fsrm"),
	F(7, EDX, 5, HIDE, TOP, "uintr"),
	Z(7, EDX, 8, "avx512_vp2intersect"),
	F(7, EDX, 10, ON_KVM, TOP, "md_clear"),
	F(7, EDX, 11, HIDE, TOP, "rtm_always_abort"),
	F(7, EDX, 14, OURS, TOP, "serialize"), /* Linux takes IRET where it is not there, 100,000 times a boot */
	F(7, EDX, 16, HIDE, TOP, "tsxldtrk"),
	F(7, EDX, 18, HIDE, TOP, "pconfig"),
	F(7, EDX, 20, HIDE, TOP, "ibt"),
	F(7, EDX, 22, HIDE, TOP, "amx_bf16"),
	Z(7, EDX, 23, "avx512_fp16"),
	F(7, EDX, 24, HIDE, TOP, "amx_tile"),
	F(7, EDX, 25, HIDE, TOP, "amx_int8"),
	F(7, EDX, 26, ON_KVM, TOP, "ibrs"),
	F(7, EDX, 27, ON_KVM, TOP, "stibp"),
	F(7, EDX, 28, ON_KVM, TOP, "flush_l1d"),
	FI(7, EDX, 29, ON_BT, TOP, "arch_capabilities"),
	F(7, EDX, 30, HIDE, TOP, "core_capabilities"),
	F(7, EDX, 31, ON_KVM, TOP, "ssbd"),

	V1(7, EAX, 4, "avx_vnni"),
	Z1(7, EAX, 5, "avx512_bf16"),
	F1(7, EAX, 7, HIDE, TOP, "cmpccxadd"),
	F1(7, EAX, 10, HOST, TOP, "fzrm"),
	F1(7, EAX, 11, HOST, TOP, "fsrs"),
	F1(7, EAX, 12, HOST, TOP, "fsrc"),
	F1(7, EAX, 17, HIDE, TOP, "fred"),
	F1(7, EAX, 19, HIDE, TOP, "wrmsrns"),
	F1(7, EAX, 21, HIDE, TOP, "amx_fp16"),
	F1(7, EAX, 23, HIDE, TOP, "avx_ifma"), /* newer than the decoder */
	F1(7, EAX, 26, HIDE, TOP, "lam"),
	F1(7, EDX, 4, HIDE, TOP, "avx_vnni_int8"),
	F1(7, EDX, 5, HIDE, TOP, "avx_ne_convert"),

	F1(0xd, EAX, 0, HOST, TOP, "xsaveopt"),
	F1(0xd, EAX, 1, HOST, TOP, "xsavec"),
	F1(0xd, EAX, 2, HOST, TOP, "xgetbv1"),
	F1(0xd, EAX, 3, HIDE, TOP, "xsaves"), /* no supervisor states to save */
	F1(0xd, EAX, 4, HIDE, TOP, "xfd"),

	F(0x80000001, ECX, 0, HOST, V2, "lahf_lm"),
	FA(0x80000001, ECX, 1, WHEN_SMP, V2, "cmp_legacy"),
	F(0x80000001, ECX, 2, HIDE, TOP, "svm"),
	F(0x80000001, ECX, 3, HIDE, TOP, "extapic"),
	F(0x80000001, ECX, 4, HIDE, TOP, "cr8_legacy"),
	F(0x80000001, ECX, 5, HOST, V3, "abm"),
	F(0x80000001, ECX, 6, HOST, TOP, "sse4a"),
	F(0x80000001, ECX, 7, HOST, TOP, "misalignsse"),
	F(0x80000001, ECX, 8, HOST, TOP, "3dnowprefetch"),
	F(0x80000001, ECX, 9, HIDE, TOP, "osvw"),
	F(0x80000001, ECX, 10, HIDE, TOP, "ibs"),
	F(0x80000001, ECX, 11, HIDE, TOP, "xop"),
	F(0x80000001, ECX, 12, HIDE, TOP, "skinit"),
	F(0x80000001, ECX, 13, HIDE, TOP, "wdt"),
	F(0x80000001, ECX, 15, HIDE, TOP, "lwp"),
	F(0x80000001, ECX, 16, HIDE, TOP, "fma4"),
	F(0x80000001, ECX, 17, HIDE, TOP, "tce"),
	F(0x80000001, ECX, 21, HIDE, TOP, "tbm"),
	F(0x80000001, ECX, 22, HOST, TOP, "topoext"),
	F(0x80000001, ECX, 23, HIDE, TOP, "perfctr_core"),
	F(0x80000001, ECX, 24, HIDE, TOP, "perfctr_nb"),
	F(0x80000001, ECX, 26, HIDE, TOP, "bpext"),
	F(0x80000001, ECX, 27, HIDE, TOP, "ptsc"),
	F(0x80000001, ECX, 28, HIDE, TOP, "perfctr_llc"),
	F(0x80000001, ECX, 29, HIDE, TOP, "mwaitx"),

	F(0x80000001, EDX, 11, OURS, V2, "syscall"),
	F(0x80000001, EDX, 20, OURS, V2, "nx"),
	F(0x80000001, EDX, 22, HOST, TOP, "mmxext"),
	F(0x80000001, EDX, 25, HIDE, TOP, "fxsr_opt"), /* FXSAVE that skips XMM at CPL 0 */
	F(0x80000001, EDX, 26, OURS, TOP, "pdpe1gb"),
	F(0x80000001, EDX, 27, OURS, V2, "rdtscp"),
	F(0x80000001, EDX, 29, OURS, V2, "lm"),
	F(0x80000001, EDX, 30, HIDE, TOP, "3dnowext"),
	F(0x80000001, EDX, 31, HIDE, TOP, "3dnow"),

	F(0x80000007, EDX, 8, ALWAYS, V2, "constant_tsc nonstop_tsc"),

	F(0x80000008, EBX, 0, HIDE, TOP, "clzero"), /* a store whose address is implicit */
	F(0x80000008, EBX, 1, HIDE, TOP, "irperf"),
	F(0x80000008, EBX, 2, HOST, TOP, "xsaveerptr"),
	F(0x80000008, EBX, 4, HIDE, TOP, "rdpru"),
	F(0x80000008, EBX, 9, HIDE, TOP, "wbnoinvd"),
	F(0x80000008, EBX, 12, ON_KVM, TOP, "amd_ibpb"),
	F(0x80000008, EBX, 14, ON_KVM, TOP, "amd_ibrs"),
	F(0x80000008, EBX, 15, ON_KVM, TOP, "amd_stibp"),
	F(0x80000008, EBX, 17, ON_KVM, TOP, "amd_stibp_always_on"),
	F(0x80000008, EBX, 23, HIDE, TOP, "amd_ppin"),
	F(0x80000008, EBX, 24, ON_KVM, TOP, "amd_ssbd"),
	F(0x80000008, EBX, 25, ON_KVM, TOP, "virt_ssbd"),
	F(0x80000008, EBX, 26, HOST, TOP, "amd_ssb_no"),
	F(0x80000008, EBX, 29, HOST, TOP, "btc_no"),

	FA(0x80000021, EAX, 2, HOST, TOP, "lfence_rdtsc"),
	FA(0x80000021, EAX, 5, ON_KVM, TOP, "verw_clear"),
	FA(0x80000021, EAX, 6, OURS, TOP, "null_sel_clr_base"),
	FA(0x80000021, EAX, 8, ON_KVM, TOP, "autoibrs"),
	FA(0x80000021, EAX, 27, ON_KVM, TOP, "sbpb"),
	FA(0x80000021, EAX, 28, ON_KVM, TOP, "ibpb_brtype"),
	FA(0x80000021, EAX, 29, ON_BT, TOP, "srso_no"),
	/* Facts about the host's CPU that hold for whatever runs on it; without them Linux executes VERW at each return to user mode. */
	FA(0x80000021, ECX, 1, HOST, TOP, "tsa_sq_no"),
	FA(0x80000021, ECX, 2, HOST, TOP, "tsa_l1_no"),
};

const u32 x86_feature_count = sizeof(x86_features) / sizeof(x86_features[0]);
