/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cells: code runs there as it is, each thing it cannot do alone comes back as a signal, and it gets nothing that is not mapped for it; and the search
 * for instructions that must not run there.
 */
#include "engine/bt/direct.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (64 * PAGE_SIZE)
#define CODE 0x400000ull
#define DATA 0x7000000000ull

struct fixture {
	int fd;
	u8 *ram;
	struct bt_cell *cell;
	greg_t *g;
};

static int begin(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	struct err e = {0};

	f->fd = memfd_create("ram", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->fd, RAM), 0);
	f->ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	signal(SIGCONT, (void (*)(int))0x500000); /* inherited, never called */
	f->cell = bt_cell_new(f->fd, &e);
	signal(SIGCONT, SIG_DFL);
	if (!f->cell)
		print_message("%s\n", e.msg);
	else
		f->g = ((ucontext_t *)(f->cell->stack + f->cell->frame))->uc_mcontext.gregs;
	*state = f;
	return 0;
}

static int end(void **state)
{
	struct fixture *f = *state;

	bt_cell_free(f->cell);
	munmap(f->ram, RAM);
	close(f->fd);
	free(f);
	return 0;
}

/* The code lies in the second page of RAM and is mapped at CODE. */
static void put_code(struct fixture *f, const void *code, size_t n)
{
	if (!f->cell)
		skip(); /* this host forbids what cells need; the engine then translates everything */
	memcpy(f->ram + PAGE_SIZE, code, n);
	bt_cell_map(f->cell, CODE, PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_EXEC);
	f->g[REG_RIP] = CODE;
}

static void run_to(struct fixture *f, u32 signal, u64 rip)
{
	assert_true(bt_cell_run(f->cell));
	assert_int_equal(f->cell->shared->signal, signal);
	assert_int_equal(f->g[REG_RIP], rip);
}

static void faults_and_memory(void **state)
{
	static const u8 code[] = {0x48, 0xff, 0xc0, /* inc rax */ 0x48, 0x89, 0x03, /* mov [rbx], rax */ 0x0f, 0x0b /* ud2 */};
	struct fixture *f = *state;

	put_code(f, code, sizeof code);
	f->g[REG_RAX] = 41;
	f->g[REG_RBX] = (greg_t)DATA + 16;
	run_to(f, SIGSEGV, CODE + 3);
	assert_int_equal(f->g[REG_CR2], DATA + 16);
	assert_int_equal(f->g[REG_ERR], 6);
	bt_cell_map(f->cell, DATA, PAGE_SIZE, 2 * PAGE_SIZE, PROT_READ);
	run_to(f, SIGSEGV, CODE + 3);
	assert_int_equal(f->g[REG_ERR], 7);
	bt_cell_map(f->cell, DATA, PAGE_SIZE, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE);
	run_to(f, SIGILL, CODE + 6);
	assert_int_equal(*(u64 *)(f->ram + 2 * PAGE_SIZE + 16), 42);
	bt_cell_unmap(f->cell, CODE, PAGE_SIZE);
	run_to(f, SIGSEGV, CODE + 6);
}

static void system_calls_come_back(void **state)
{
	static const u8 code[] = {0x0f, 0x05, 0xcd, 0x80, 0x0f, 0x05, 0x0f, 0x05};
	static const u64 wanted[] = {SYS_getpid, SYS_mmap, SYS_rt_sigreturn, SYS_futex};
	struct fixture *f = *state;

	put_code(f, code, sizeof code);
	for (u32 i = 0; i < ARRAY_SIZE(wanted); i++) {
		f->g[REG_RAX] = (greg_t)wanted[i];
		run_to(f, SIGSYS, CODE + 2 * i + 2);
		assert_int_equal(f->g[REG_RAX], wanted[i]);
	}
}

static void every_register_travels(void **state)
{
	static const u8 code[] = {0x0f, 0x0b};
	static const int all[] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_RBP, REG_RSP,
				  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
	struct fixture *f = *state;

	put_code(f, code, sizeof code);
	for (u32 i = 0; i < ARRAY_SIZE(all); i++)
		f->g[all[i]] = 0x1234567890abcd00ll + i;
	f->cell->shared->fs_base = 0x112233445566;
	f->cell->shared->gs_base = 0xffff888000001000;
	run_to(f, SIGILL, CODE);
	for (u32 i = 0; i < ARRAY_SIZE(all); i++)
		assert_int_equal(f->g[all[i]], 0x1234567890abcd00ll + i);
	assert_int_equal(f->cell->shared->fs_base, 0x112233445566);
	assert_int_equal(f->cell->shared->gs_base, 0xffff888000001000);
}

/* Neither what is mapped before nor the hand-over counts as the guest's time. */
static void tells_when_code_ran(void **state)
{
	static const u8 code[] = {0xff, 0xc9, /* dec ecx */ 0x75, 0xfc, 0x0f, 0x0b};
	struct fixture *f = *state;

	put_code(f, code, sizeof code);
	f->g[REG_RCX] = 1;
	run_to(f, SIGILL, CODE + 4);
	f->g[REG_RIP] = CODE;
	f->g[REG_RCX] = 20000000;
	for (u32 i = 0; i < CELL_CALLS; i++)
		bt_cell_map(f->cell, DATA + 2 * i * PAGE_SIZE, PAGE_SIZE, 2 * PAGE_SIZE, PROT_READ);
	u64 before = bt_host_tsc();
	run_to(f, SIGILL, CODE + 4);
	u64 after = bt_host_tsc(), went = f->cell->shared->went, came = f->cell->shared->came;
	assert_true(before < went && went < came && came < after);
	assert_true(came - went > 5000000);
}

/* A stack pointer into the cell's own signal stack must not move the frame. */
static void stack_pointer_anywhere(void **state)
{
	static const u8 code[] = {0x0f, 0x0b};
	struct fixture *f = *state;

	put_code(f, code, sizeof code);
	for (u64 at = f->cell->window; at < f->cell->window + CELL_WINDOW; at += 4088) {
		f->g[REG_RSP] = (greg_t)at;
		run_to(f, SIGILL, CODE);
	}
}

static void an_endless_loop_can_be_interrupted(void **state)
{
	static const u8 code[] = {0xeb, 0xfe};
	struct fixture *f = *state;

	put_code(f, code, sizeof code);
	bt_cell_interrupt(f->cell->pid);
	run_to(f, SIGUSR1, CODE);
}

/* The guest finds the window and calls its code: without the secret nothing can be mapped, and trying ends the cell. */
/* A terminal's signals go to all of its processes, cells among them; a cell has this program's handlers from the fork, and none of its code. */
static void signals_of_others_do_nothing(void **state)
{
	static const int theirs[] = {SIGINT,   SIGTERM, SIGHUP,	 SIGQUIT, SIGTSTP, SIGCONT,
				     SIGWINCH, SIGALRM, SIGUSR2, SIGPIPE, 34 /* the first of real time */};
	static const u8 code[] = {0x48, 0xff, 0xc9, /* dec rcx */ 0x75, 0xfb, 0x0f, 0x0b};
	struct fixture *f = *state;

	put_code(f, code, sizeof code);
	for (u32 i = 0; i < ARRAY_SIZE(theirs); i++) {
		f->g[REG_RIP] = CODE;
		f->g[REG_RCX] = 1000;
		kill(f->cell->pid, theirs[i]);
		run_to(f, SIGILL, CODE + 5);
	}
}

static void the_window_does_not_help(void **state)
{
	static const u8 syscall_insn[] = {0x0f, 0x05};
	static const u64 calls[] = {SYS_mmap, SYS_munmap, SYS_execve, SYS_openat};
	struct fixture *f = *state;
	const u8 *at = memmem(cell_code_begin, (size_t)(cell_code_end - cell_code_begin), syscall_insn, 2);

	put_code(f, "\x0f\x0b", 2);
	assert_non_null(at);
	for (u32 i = 0; i < ARRAY_SIZE(calls); i++) {
		f->g[REG_RIP] = (greg_t)(f->cell->window + (u64)(at - cell_code_begin));
		f->g[REG_RAX] = (greg_t)calls[i];
		f->g[REG_RDI] = 0;
		f->g[REG_RSI] = PAGE_SIZE;
		f->g[REG_RDX] = PROT_READ;
		f->g[REG_R10] = MAP_SHARED;
		f->g[REG_R8] = 3;
		f->g[REG_R9] = 0;
		assert_false(bt_cell_run(f->cell));
		end(state);
		begin(state);
		f = *state;
		put_code(f, "\x0f\x0b", 2);
	}
}

static void the_secret_does_not_stay(void **state)
{
	struct fixture *f = *state;

	put_code(f, "\x0f\x0b", 2);
	for (u32 i = 0; i < 3 * CELL_CALLS; i++)
		bt_cell_map(f->cell, DATA + i * PAGE_SIZE, PAGE_SIZE, 0, PROT_READ);
	run_to(f, SIGILL, CODE);
	const u8 *window = (const u8 *)f->cell->shared;
	for (u32 half = 0; half < 2; half++)
		assert_null(memmem(window, CELL_WINDOW - PAGE_SIZE, (const u8 *)&f->cell->secret + 4 * half, 4));
}

static void the_end_is_noticed(void **state)
{
	struct fixture *f = *state;

	put_code(f, "\xeb\xfe", 2);
	kill(f->cell->pid, SIGKILL);
	assert_false(bt_cell_run(f->cell));
}

/* inc eax; cpuid; inc eax; cpuid; ud2: only the watched one stops, before it is executed, and the bytes are what they were. */
static void breakpoints(void **state)
{
	static const u8 code[] = {0xff, 0xc0, 0x0f, 0xa2, 0xff, 0xc3, 0x0f, 0xa2, 0x0f, 0x0b};
	static const u64 second = CODE + 6, both[] = {CODE + 2, CODE + 6};
	struct fixture *f = *state;

	put_code(f, code, sizeof code);
	if (!bt_cell_watch(f->cell, &second, 1))
		skip(); /* nor does it let one process watch another; such code is then not executed */
	f->g[REG_RAX] = 0;
	run_to(f, SIGTRAP, CODE + 6);
	assert_int_equal(f->cell->shared->code, TRAP_HWBKPT);
	assert_int_equal(f->g[REG_TRAPNO], 1);
	assert_memory_equal(f->ram + PAGE_SIZE, code, sizeof code);
	assert_true(bt_cell_watch(f->cell, both, 2));
	f->g[REG_RIP] = CODE;
	run_to(f, SIGTRAP, CODE + 2);
	f->g[REG_RIP] = CODE + 4;
	run_to(f, SIGTRAP, CODE + 6);
	assert_true(bt_cell_watch(f->cell, NULL, 0));
	f->g[REG_RIP] = CODE;
	run_to(f, SIGILL, CODE + 8);
}

/* As many as there are, each of them. */
static void all_breakpoints(void **state)
{
	static const u8 code[] = {0x0f, 0xa2, 0x0f, 0xa2, 0x0f, 0xa2, 0x0f, 0xa2, 0x0f, 0x0b};
	static const u64 at[CELL_WATCHES] = {CODE, CODE + 2, CODE + 4, CODE + 6};
	struct fixture *f = *state;

	put_code(f, code, sizeof code);
	if (!bt_cell_watch(f->cell, at, CELL_WATCHES))
		skip();
	for (u32 i = 0; i < CELL_WATCHES; i++) {
		f->g[REG_RIP] = (greg_t)at[i];
		f->g[REG_EFL] &= ~(greg_t)FL_RF; /* which the last one has set */
		run_to(f, SIGTRAP, at[i]);
	}
}

static void breakpoints_end_with_the_cell(void **state)
{
	static const u64 at = CODE;
	struct fixture *f = *state;

	put_code(f, "\xeb\xfe", 2);
	kill(f->cell->pid, SIGKILL);
	assert_false(bt_cell_watch(f->cell, &at, 1));
	assert_false(bt_cell_run(f->cell));
}

/* ---- 32-bit code */

#define CODE32 0x10000000ull
#define DATA32 0xffffd000ull
#define TLS32 0x20000000ull

static void put_code32(struct fixture *f, const void *code, size_t n)
{
	put_code(f, code, n);
	if (!f->cell->compat)
		skip(); /* this host has no segment for it; such code is then interpreted */
	bt_cell_map(f->cell, CODE32, PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_EXEC);
	bt_cell_map(f->cell, DATA32, PAGE_SIZE, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE);
	f->g[REG_RIP] = CODE32;
	f->g[REG_CSGSFS] = HOST_CS32 | (greg_t)HOST_DS << 48;
	f->cell->shared->sel[0] = f->cell->shared->sel[1] = HOST_DS;
}

static void run_to32(struct fixture *f, u32 signal, u64 rip)
{
	run_to(f, signal, rip);
	assert_int_equal((u16)f->g[REG_CSGSFS], HOST_CS32);
	assert_int_equal((u16)(f->g[REG_CSGSFS] >> 48), HOST_DS);
}

static void compat_faults_and_memory(void **state)
{
	/* dec eax, not a prefix: mov [ebx], eax; ud2 */
	static const u8 code[] = {0x48, 0x89, 0x03, 0x0f, 0x0b};
	struct fixture *f = *state;

	put_code32(f, code, sizeof code);
	f->g[REG_RAX] = 42;
	f->g[REG_RBX] = (greg_t)DATA32 - 16;
	run_to32(f, SIGSEGV, CODE32 + 1);
	assert_int_equal(f->g[REG_CR2], DATA32 - 16);
	assert_int_equal(f->g[REG_ERR], 6);
	f->g[REG_RBX] = (greg_t)DATA32 + 16;
	run_to32(f, SIGILL, CODE32 + 3);
	assert_int_equal(*(u32 *)(f->ram + 2 * PAGE_SIZE + 16), 41);
}

static void compat_system_calls(void **state)
{
	static const u8 code[] = {0xcd, 0x80, 0xcd, 0x80, 0xcd, 0x80};
	static const u32 wanted[] = {1 /* exit */, 90 /* mmap */, 0xfffffe00 /* -ERESTARTSYS, were it a result */};
	struct fixture *f = *state;

	put_code32(f, code, sizeof code);
	for (u32 i = 0; i < ARRAY_SIZE(wanted); i++) {
		f->g[REG_RAX] = (greg_t)wanted[i];
		f->g[REG_RCX] = f->g[REG_RBP] = 0x7654321;
		f->g[REG_R11] = 0x1234567890abcdefll;
		assert_true(bt_cell_run(f->cell));
		if (f->cell->shared->signal == SIGSEGV)
			skip(); /* the host runs no 32-bit programs: a fault like any other */
		assert_int_equal(f->cell->shared->signal, SIGSYS);
		assert_int_equal(f->cell->shared->call_number, wanted[i]);
		assert_int_equal(f->cell->shared->call_address, CODE32 + 2 * i + 2);
		assert_int_equal(f->g[REG_RCX], 0x7654321);
		assert_int_equal(f->g[REG_RBP], 0x7654321);
		assert_int_equal(f->g[REG_R11], 0x1234567890abcdefll);
	}
}

/* mov eax, gs:[0]; mov ecx, gs; mov edx, ds; mov ebx, [esi]; mov edi, gs:[4]; ud2. The signal in the middle changes nothing, nor does another
 * process in between. */
static void compat_segments(void **state)
{
	static const u8 code[] = {0x65, 0xa1, 0, 0, 0, 0, 0x8c, 0xe9, 0x8c, 0xda, 0x8b, 0x1e, 0x65, 0x8b, 0x3d, 4, 0, 0, 0, 0x0f, 0x0b};
	static const struct cell_tls all = {.present = true, .writable = true, .pages = true, .limit = 0xfffff}, none = {0};
	struct fixture *f = *state;

	put_code32(f, code, sizeof code);
	bt_cell_map(f->cell, TLS32, PAGE_SIZE, 3 * PAGE_SIZE, PROT_READ);
	*(u32 *)(f->ram + 3 * PAGE_SIZE) = 1234;
	*(u32 *)(f->ram + 3 * PAGE_SIZE + 4) = 5678;
	if (!bt_cell_set_tls(f->cell, 1, &all))
		skip(); /* programs that use such segments are then interpreted */
	f->cell->shared->sel[3] = CELL_TLS_SELECTOR + 8;
	f->cell->shared->gs_base = TLS32;
	f->g[REG_RSI] = (greg_t)DATA32 + 4096;
	run_to32(f, SIGSEGV, CODE32 + 10);
	assert_int_equal(f->g[REG_RAX], 1234);
	assert_int_equal(f->g[REG_RCX], CELL_TLS_SELECTOR + 8);
	assert_int_equal(f->g[REG_RDX], HOST_DS);
	assert_int_equal(f->cell->shared->sel[0], HOST_DS);
	assert_int_equal(f->cell->shared->sel[1], HOST_DS);
	assert_int_equal(f->cell->shared->sel[2], 0);
	assert_int_equal(f->cell->shared->sel[3], CELL_TLS_SELECTOR + 8);
	assert_int_equal(f->cell->shared->gs_base, TLS32);
	f->g[REG_RSI] = (greg_t)DATA32;
	run_to32(f, SIGILL, CODE32 + 19);
	assert_int_equal(f->g[REG_RDI], 5678);
	/* Without the segment such a selector cannot be loaded: mov gs, ecx */
	f->cell->shared->sel[3] = 0;
	assert_true(bt_cell_set_tls(f->cell, 1, &none));
	put_code32(f, "\x8e\xe9\x0f\x0b", 4);
	run_to32(f, SIGSEGV, CODE32);
	assert_int_equal(f->g[REG_TRAPNO], 13);
}

/* Beyond the limit, and a store where none is allowed. */
static void compat_limits(void **state)
{
	static const u8 code[] = {0x64, 0xa1, 0xfc, 0x0f, 0, 0, 0x64, 0xa1, 0xfd, 0x0f, 0, 0, 0x64, 0xa3, 0, 0, 0, 0};
	static const struct cell_tls small = {.present = true, .limit = 0xfff};
	struct fixture *f = *state;

	put_code32(f, code, sizeof code);
	if (!bt_cell_set_tls(f->cell, 0, &small))
		skip();
	f->cell->shared->sel[2] = CELL_TLS_SELECTOR;
	f->cell->shared->fs_base = DATA32;
	run_to32(f, SIGSEGV, CODE32 + 6);
	assert_int_equal(f->g[REG_TRAPNO], 13);
	f->g[REG_RIP] = CODE32 + 12;
	run_to32(f, SIGSEGV, CODE32 + 12);
	assert_int_equal(f->g[REG_TRAPNO], 13);
}

/* ---- the search */

static const struct direct_host host = {0};

static struct direct_sites sites;

static u8 search(const void *code, size_t n, u32 at)
{
	static u8 page[PAGE_SIZE];

	memset(page, 0x90, sizeof page);
	memcpy(page + at, code, n);
	return direct_scan(&host, 0, page, NULL, NULL, &sites);
}

static void finds_instructions(void **state)
{
	static const struct {
		u8 code[6], n, kind;
	} rows[] = {
		{{0x0f, 0xa2}, 2, FRAME_WATCHED},		/* cpuid */
		{{0x0f, 0x31}, 2, FRAME_TSC},			/* rdtsc */
		{{0x0f, 0x01, 0xf9}, 3, FRAME_WATCHED},		/* rdtscp */
		{{0xf3, 0x0f, 0xc7, 0xf8}, 4, FRAME_SENSITIVE}, /* rdpid rax */
		{{0x0f, 0xc7, 0xf8}, 3, FRAME_CLEAN},		/* rdseed eax */
		{{0x0f, 0x03, 0xc0}, 3, FRAME_WATCHED},		/* lsl eax, eax */
		{{0x0f, 0x01, 0xd0}, 3, FRAME_CLEAN},		/* xgetbv */
		{{0x0f, 0x01, 0xe0}, 3, FRAME_WATCHED},		/* smsw eax */
		{{0x0f, 0x00, 0xe0}, 3, FRAME_WATCHED},		/* verr ax */
		{{0xcd, 0x80}, 2, FRAME_WATCHED},		/* int 0x80 */
		{{0xcd, 0x03}, 2, FRAME_WATCHED},		/* int 3, in two bytes */
		{{0xcd, 0x81}, 2, FRAME_CLEAN},			/* int 0x81 faults */
		{{0xcc}, 1, FRAME_CLEAN},			/* int3 */
		{{0x0f, 0x01, 0xd6}, 3, FRAME_CLEAN},		/* xtest */
		{{0xb8, 0x0f, 0xa2, 0, 0}, 5, FRAME_CLEAN},	/* mov eax, 0xa20f */
		{{0xe8, 0x00, 0x0f, 0x31, 0}, 5, FRAME_CLEAN},	/* call */
	};

	for (u32 i = 0; i < ARRAY_SIZE(rows); i++)
		for (u32 at = 200; at < PAGE_SIZE - 8; at += 617)
			assert_int_equal(search(rows[i].code, rows[i].n, at), rows[i].kind);
}

/* The same bytes in 32-bit code: INT 0x80 comes back as it was, SYSCALL does not, 40 to 4f are instructions and no prefixes. */
static void finds_32_bit_instructions(void **state)
{
	static const struct direct_host amd = {.syscall32 = true}, intel = {.sysenter = true};
	static const struct {
		u8 code[6], n, on_amd, on_intel;
	} rows[] = {
		{{0x0f, 0xa2}, 2, FRAME_WATCHED, FRAME_WATCHED},	       /* cpuid */
		{{0x48, 0x0f, 0xa2}, 3, FRAME_WATCHED, FRAME_WATCHED},	       /* dec eax; cpuid */
		{{0x66, 0x0f, 0xa2}, 3, FRAME_SENSITIVE, FRAME_SENSITIVE},     /* a prefix */
		{{0x0f, 0x31}, 2, FRAME_TSC, FRAME_TSC},		       /* rdtsc */
		{{0x89, 0xcd, 0x0f, 0x05}, 4, FRAME_WATCHED, FRAME_CLEAN},     /* mov ebp, ecx; syscall */
		{{0x89, 0xe5, 0x0f, 0x34}, 4, FRAME_CLEAN, FRAME_WATCHED},     /* mov ebp, esp; sysenter */
		{{0xcd, 0x80}, 2, FRAME_CLEAN, FRAME_CLEAN},		       /* int 0x80 */
		{{0xcd, 0x03}, 2, FRAME_WATCHED, FRAME_WATCHED},	       /* int 3, in two bytes */
		{{0xce}, 1, FRAME_CLEAN, FRAME_CLEAN},			       /* into */
		{{0x8e, 0xe8}, 2, FRAME_CLEAN, FRAME_CLEAN},		       /* mov gs, eax */
		{{0x65, 0xff, 0x15, 0x10, 0, 0}, 6, FRAME_CLEAN, FRAME_CLEAN}, /* call gs:... */
		{{0xb8, 0x0f, 0xa2, 0, 0}, 5, FRAME_CLEAN, FRAME_CLEAN},       /* mov eax, 0xa20f */
	};
	static u8 page[PAGE_SIZE];

	for (u32 i = 0; i < ARRAY_SIZE(rows); i++)
		for (u32 at = 200; at < PAGE_SIZE - 8; at += 617) {
			memset(page, 0x90, sizeof page);
			memcpy(page + at, rows[i].code, rows[i].n);
			assert_int_equal(direct_scan(&amd, SCAN_COMPAT, page, NULL, NULL, &sites), rows[i].on_amd);
			assert_int_equal(direct_scan(&intel, SCAN_COMPAT, page, NULL, NULL, &sites), rows[i].on_intel);
		}
}

static void finds_what_crosses_pages(void **state)
{
	static u8 first[PAGE_SIZE], second[PAGE_SIZE];

	memset(first, 0x90, sizeof first);
	memset(second, 0x90, sizeof second);
	first[PAGE_SIZE - 1] = 0x0f;
	second[0] = 0xa2;
	assert_int_equal(direct_scan(&host, 0, first, NULL, second, &sites), FRAME_WATCHED);
	assert_int_equal(sites.at[0], PAGE_SIZE - 1);
	assert_int_equal(direct_scan(&host, 0, second, first, NULL, &sites), FRAME_WATCHED);
	assert_int_equal(sites.at[0], -1);
	assert_int_equal(direct_scan(&host, 0, first, NULL, NULL, &sites), FRAME_CLEAN); /* the second page's search will tell */
}

static void tells_where(void **state)
{
	static const u8 three[] = {0x0f, 0xa2, 0x0f, 0x31, 0x0f, 0xa2},
			five[] = {0x0f, 0xa2, 0x0f, 0xa2, 0x0f, 0xa2, 0x0f, 0xa2, 0x0f, 0xa2};
	static const u8 prefixed[] = {0x66, 0x0f, 0xa2};

	assert_int_equal(search(three, sizeof three, 100), FRAME_WATCHED);
	assert_int_equal(sites.n, 3);
	for (u32 i = 0; i < 3; i++)
		assert_int_equal(sites.at[i], 100 + 2 * i);
	assert_int_equal(search(five, sizeof five, 100), FRAME_SENSITIVE);
	assert_int_equal(search(prefixed, sizeof prefixed, 100), FRAME_SENSITIVE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(faults_and_memory, begin, end),
		cmocka_unit_test_setup_teardown(system_calls_come_back, begin, end),
		cmocka_unit_test_setup_teardown(every_register_travels, begin, end),
		cmocka_unit_test_setup_teardown(tells_when_code_ran, begin, end),
		cmocka_unit_test_setup_teardown(stack_pointer_anywhere, begin, end),
		cmocka_unit_test_setup_teardown(an_endless_loop_can_be_interrupted, begin, end),
		cmocka_unit_test_setup_teardown(signals_of_others_do_nothing, begin, end),
		cmocka_unit_test_setup_teardown(the_window_does_not_help, begin, end),
		cmocka_unit_test_setup_teardown(the_secret_does_not_stay, begin, end),
		cmocka_unit_test_setup_teardown(the_end_is_noticed, begin, end),
		cmocka_unit_test_setup_teardown(breakpoints, begin, end),
		cmocka_unit_test_setup_teardown(all_breakpoints, begin, end),
		cmocka_unit_test_setup_teardown(breakpoints_end_with_the_cell, begin, end),
		cmocka_unit_test_setup_teardown(compat_faults_and_memory, begin, end),
		cmocka_unit_test_setup_teardown(compat_system_calls, begin, end),
		cmocka_unit_test_setup_teardown(compat_segments, begin, end),
		cmocka_unit_test_setup_teardown(compat_limits, begin, end),
		cmocka_unit_test(finds_instructions),
		cmocka_unit_test(finds_32_bit_instructions),
		cmocka_unit_test(tells_where),
		cmocka_unit_test(finds_what_crosses_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
