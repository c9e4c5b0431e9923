/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The checks of builds with bounds_checks do fire: a guest whose shadow table has been damaged ends the process before its access is made, and says
 * where. Each case runs in a child of its own, which makes its VM itself: cells' memory does not survive a fork, nor does an abort.
 */
#include "bt_machine.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (4 * MiB)
#define PML4 0x1000u
#define PDPT 0x2000u
#define PD 0x3000u
#define CODE 0x4000u
#define DATA 0x200000u /* in a page table's second entry, so that it is another region than the code's */
#define LAST (RAM - 64)
#define VICTIM_PAGES 3

struct guest {
	struct bt_machine m;
	struct x86_cpu *c;
	u8 *victim; /* host memory that is not the guest's: a page, and one on each side that catches nothing either */
};

/* In a child, where a failing assertion would run the rest of the tests once more. */
static void must(bool ok, const char *what)
{
	if (ok)
		return;
	dprintf(2, "the test itself: %s\n", what);
	_exit(1);
}

/* ---- the machine */

static void put(struct guest *g, gpa_t at, const void *bytes, u64 n)
{
	must(gm_write(&g->m.gm, at, bytes, n), "write");
}

static void put64(struct guest *g, gpa_t at, u64 v)
{
	put(g, at, &v, sizeof v);
}

/* 64-bit code in ring 0; the first 4 MiB are mapped onto themselves. */
static void start_state(struct guest *g)
{
	struct x86_cpu *c = g->c;
	put64(g, PML4, PDPT | 0x63);
	put64(g, PDPT, PD | 0x63);
	put64(g, PD, 0xe3);
	put64(g, PD + 8, DATA | 0xe3);
	c->seg[SEG_CS] = (struct x86_seg){.sel = 0x10, .attr = 0xbu | SEGA_S | SEGA_P | SEGA_L | SEGA_G, .limit = ~0u};
	c->seg[SEG_SS] = (struct x86_seg){.sel = 0x18, .attr = 0x3u | SEGA_S | SEGA_P | SEGA_DB | SEGA_G, .limit = ~0u};
	c->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	c->cr3 = PML4;
	c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	c->msr.efer = EFER_LME | EFER_LMA;
	c->rflags = 2;
}

static void make(struct guest *g)
{
	struct err e = {0};
	must(bt_machine_make(&g->m, RAM, 1, &e) == 0, e.msg);
	g->victim = mmap(NULL, VICTIM_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(g->victim != MAP_FAILED, "mmap");
	g->victim += PAGE_SIZE;
	g->c = engine_translate.vcpu_state(g->m.vcpu);
	start_state(g);
	engine_translate.vcpu_sync_in(g->m.vcpu);
}

/* The address of the guest's data is in rbx, rdi, rbp and rsp. */
static enum exit_kind run_to_end(struct guest *g, gva_t data)
{
	struct err e = {0};
	g->c->rip = CODE;
	g->c->halted = false;
	g->c->gpr[R_RBX] = g->c->gpr[R_RDI] = g->c->gpr[R_RBP] = g->c->gpr[R_RSP] = data;
	g->c->gpr[R_RSI] = DATA + 2 * PAGE_SIZE;
	g->c->gpr[R_RCX] = g->c->gpr[R_RAX] = 1;
	return engine_translate.vcpu_run(g->m.vcpu, &e);
}

static void run(struct guest *g, gva_t data)
{
	must(run_to_end(g, data) == EXIT_HALTED, "the guest did not halt");
}

/* What a wrong delta or one that should have been dropped looks like. */
static void damage(struct guest *g, bool write)
{
	u64 *entry = &bt_self.view[VIEW_SUPER][write][bt_entry_index(bt_self.vm, DATA)];
	*entry = (u64)g->victim - DATA;
	bt_self.epoch++; /* for the interpreter, which remembers what it looked up itself */
}

/* ---- children */

struct sample {
	const char *name;
	const char *code; /* HLT comes behind it */
	u32 len;
	bool write;	  /* which table is damaged */
	const char *said; /* what the access is called then */
	u32 faulty;	  /* offset of the instruction that makes it */
};

static void write_code(struct guest *g, const struct sample *s)
{
	put(g, CODE, s->code, s->len);
	put(g, CODE + s->len, "\xf4", 1);
}

/* True when the child aborted; what it said is in `said`. */
static bool died(void (*body)(const struct sample *), const struct sample *s, char *said, size_t max)
{
	int p[2], status;
	size_t n = 0;
	assert_int_equal(pipe(p), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		const struct rlimit none = {0, 0};
		setrlimit(RLIMIT_CORE, &none);
		dup2(p[1], 2);
		close(p[0]);
		close(p[1]);
		body(s);
		_exit(0);
	}
	close(p[1]);
	for (ssize_t got; (got = read(p[0], said + n, max - 1 - n)) > 0;)
		n += (size_t)got;
	said[n] = 0;
	close(p[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void damaged_run(const struct sample *s)
{
	struct guest g;
	make(&g);
	write_code(&g, s);
	run(&g, DATA + 64); /* enters the page and translates */
	run(&g, DATA + 64);
	damage(&g, s->write);
	run(&g, DATA + 64);
}

#define CODE_OF(bytes) .code = (bytes), .len = sizeof(bytes) - 1

static const struct sample samples[] = {
	{"load", CODE_OF("\x48\x8b\x03"), false, "load of 8 ", 0},		/* mov rax, [rbx] */
	{"store", CODE_OF("\x90\x48\x89\x03"), true, "store of 8 ", 1},		/* nop; mov [rbx], rax */
	{"store of a byte", CODE_OF("\x88\x23"), true, "store of 1 ", 0},	/* mov [rbx], ah */
	{"read-modify-write", CODE_OF("\xf0\x01\x03"), true, "store of 4 ", 0}, /* lock add [rbx], eax */
	{"implicit rcx", CODE_OF("\x48\xd3\x23"), true, "store of 8 ", 0},	/* shl [rbx], cl */
	{"homed register", CODE_OF("\x4c\x89\x33"), true, "store of 8 ", 0},	/* mov [rbx], r14 */
	{"vector load", CODE_OF("\x0f\x10\x03"), false, "load of 16 ", 0},	/* movups xmm0, [rbx] */
	{"vector store", CODE_OF("\x0f\x11\x03"), true, "store of 16 ", 0},	/* movups [rbx], xmm0 */
	{"shared look-up", CODE_OF("\x89\x03\x89\x43\x04\x89\x43\x08"), true, "store of 4 ", 0},
	{"bit test", CODE_OF("\x0f\xab\x03"), true, "store of 4 ", 0},	     /* bts [rbx], eax */
	{"push", CODE_OF("\x50"), true, "store of 8 ", 0},		     /* push rax */
	{"push of a constant", CODE_OF("\x6a\x01"), true, "store of 8 ", 0}, /* push 1 */
	{"pushes", CODE_OF("\x50\x53\x56"), true, "store of 8 ", 0},
	{"pop", CODE_OF("\x58"), false, "load of 8 ", 0}, /* pop rax */
	{"leave", CODE_OF("\xc9"), false, "load of 8 ", 0},
	{"flags", CODE_OF("\x9c"), true, "store of 8 ", 0}, /* pushfq */
	{"call", CODE_OF("\xe8\0\0\0\0"), true, "store of 8 ", 0},
	{"string", CODE_OF("\xf3\xab"), true, "store of 4 ", 0},		  /* rep stosd */
	{"string from", CODE_OF("\x48\x87\xf7\xf3\xa4"), false, "load of 1 ", 3}, /* xchg rsi, rdi; rep movsb */
	{"interpreted", CODE_OF("\x66\x50"), true, "store of 2 ", 0},		  /* push ax */
	{"interpreted string", CODE_OF("\xae"), false, "load of 1 ", 0},	  /* scasb */
};

static void accesses_end_the_process(void **state)
{
	char said[1024], rip[40];
	for (u32 i = 0; i < ARRAY_SIZE(samples); i++) {
		const struct sample *s = &samples[i];
		bool ended = died(damaged_run, s, said, sizeof said);
		snprintf(rip, sizeof rip, "guest rip 0x%x:", CODE + s->faulty);
		if (!ended || !strstr(said, s->said) || !strstr(said, "outside guest RAM") || !strstr(said, rip))
			fail_msg("%s: %s, having said: %s", s->name, ended ? "aborted" : "did not abort", said);
	}
}

/* All of RAM, to its last byte, and nothing behind it: not refused where nothing is wrong. */
static void ends_of_ram(const struct sample *s)
{
	struct guest g;
	u64 v;
	make(&g);
	write_code(&g, s);
	for (gva_t at = LAST; at <= RAM - 8; at++) {
		run(&g, at);
		run(&g, at);
		must(gm_read(&g.m.gm, at, &v, 8) && v == 1, "not stored");
		put64(&g, at, 0);
	}
}

/* An access that would leave RAM, were it not refused for being misaligned. */
static void fault_at_end(const struct sample *s)
{
	struct guest g;
	make(&g);
	write_code(&g, s);
	run(&g, LAST);
	run(&g, LAST);
	must(run_to_end(&g, RAM - 8) == EXIT_SHUTDOWN, "no fault");
}

static void ram_is_whole(void **state)
{
	static const struct sample s = {"store", CODE_OF("\x48\x89\x03"), true, "", 0};
	static const struct sample aligned = {"aligned store", CODE_OF("\x0f\x29\x03"), true, "", 0}; /* movaps [rbx], xmm0 */
	char said[1024];
	died(ends_of_ram, &s, said, sizeof said);
	assert_string_equal(said, "");
	died(fault_at_end, &aligned, said, sizeof said);
	assert_string_equal(said, "");
}

/* As a store would that no check knows of: it must not become an instruction that is interpreted after all. */
static void hit_a_guard(const struct sample *s)
{
	struct guest g;
	make(&g);
	write_code(&g, s);
	run(&g, DATA);
	run(&g, DATA);
	must(mprotect(g.m.gm.map + DATA, PAGE_SIZE, PROT_NONE) == 0, "mprotect");
	run(&g, DATA);
}

static void host_faults_are_told(void **state)
{
	static const struct sample s = {"store", CODE_OF("\x48\x89\x03"), true, "", 0};
	char said[1024];
	assert_true(died(hit_a_guard, &s, said, sizeof said));
	assert_non_null(strstr(said, "nobody had checked"));
}

static void dead_canary(const struct sample *s)
{
	struct guest g;
	make(&g);
	write_code(&g, s);
	run(&g, DATA);
	*(volatile u8 *)(bt_self.shared + BT_SHARED) ^= 1; /* one look-up more than a block may share */
	run(&g, DATA);
}

static void canaries_are_looked_at(void **state)
{
	static const struct sample s = {"nothing", CODE_OF("\x90"), true, "", 0};
	char said[1024];
	assert_true(died(dead_canary, &s, said, sizeof said));
	assert_non_null(strstr(said, "canary"));
}

/* An inaccessible page on each side of what the engine maps, in every build. */
static void touch_beside(const struct sample *s)
{
	const u64 bytes = 5 * PAGE_SIZE - 8;
	struct err e = {0};
	volatile u8 *p = bt_sparse(bytes, "test", &e);
	p[0] = p[bytes - 1] = 1;
	signal(SIGSEGV, SIG_DFL);
	p[s->len ? 5 * (i64)PAGE_SIZE : -1] = 1;
}

static void mappings_have_guards(void **state)
{
	for (u32 above = 0; above < 2; above++) {
		int status;
		pid_t pid = fork();
		if (pid == 0) {
			const struct rlimit none = {0, 0};
			setrlimit(RLIMIT_CORE, &none);
			touch_beside(&(struct sample){.len = above});
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	}
}

int main(void)
{
	static const struct CMUnitTest always[] = {cmocka_unit_test(mappings_have_guards)};
	static const struct CMUnitTest checked[] = {
		cmocka_unit_test(accesses_end_the_process),
		cmocka_unit_test(ram_is_whole),
		cmocka_unit_test(host_faults_are_told),
		cmocka_unit_test(canaries_are_looked_at),
	};
	int failed = cmocka_run_group_tests(always, NULL, NULL);
	return GM_BOUNDS_CHECKS ? failed + cmocka_run_group_tests(checked, NULL, NULL) : failed;
}
