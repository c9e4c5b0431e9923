/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running one re-encoded guest instruction on the host's own unit, with the guest's vector state and general registers loaded.
 *
 * Code lies in slots of one memfd that is mapped twice, writable and executable, never both. A slot is found by a hash of the instruction's
 * bytes; a slot that is filled anew is made visible to instruction fetch by a serialising IRET.
 * Around the instruction the host's control words are kept and its x87 registers emptied, as the C calling convention wants them.
 * A host fault inside a slot ends the instruction as if it had returned; the state it left (MXCSR's flags) is saved with the rest.
 * Threading: the vCPU's thread; the signal handler runs on it.
 */
#include "engine/bt/interp_fpu.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define SLOT_SIZE 32u
#define SLOT_COUNT 8192u
#define CODE_SIZE (SLOT_SIZE * SLOT_COUNT)

_Static_assert(offsetof(struct interp_thunk, ctx.flags) == 128, "interp_thunk_enter uses this offset");
_Static_assert(offsetof(struct interp_thunk, ctx.slot) == 136, "interp_thunk_enter uses this offset");
_Static_assert(offsetof(struct interp_thunk, ctx.fpu) == 144, "interp_thunk_enter uses this offset");
_Static_assert(offsetof(struct interp_thunk, ctx.rfbm) == 152, "interp_thunk_enter uses this offset");
_Static_assert(offsetof(struct interp_thunk, ctx.host_mxcsr) == 160, "interp_thunk_enter uses this offset");
_Static_assert(offsetof(struct interp_thunk, ctx.host_fcw) == 164, "interp_thunk_enter uses this offset");

void interp_thunk_enter(struct interp_thunk *t);
void interp_thunk_serialise(void);

/* The guest's RSP is never loaded: signals may come at any time. */
__asm__(".text\n"
	".p2align 4\n"
	".globl interp_thunk_enter\n"
	".hidden interp_thunk_enter\n"
	".type interp_thunk_enter, @function\n"
	"interp_thunk_enter:\n"
	"	push %rbx\n"
	"	push %rbp\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	stmxcsr 160(%rdi)\n"
	"	fnstcw 164(%rdi)\n"
	"	mov 152(%rdi), %eax\n"
	"	mov 156(%rdi), %edx\n"
	"	mov 144(%rdi), %rcx\n"
	"	xrstor64 (%rcx)\n"
	"	push %rdi\n"
	"	push 136(%rdi)\n"
	"	push 128(%rdi)\n"
	"	popfq\n"
	"	mov 0(%rdi), %rax\n"
	"	mov 8(%rdi), %rcx\n"
	"	mov 16(%rdi), %rdx\n"
	"	mov 24(%rdi), %rbx\n"
	"	mov 40(%rdi), %rbp\n"
	"	mov 48(%rdi), %rsi\n"
	"	mov 64(%rdi), %r8\n"
	"	mov 72(%rdi), %r9\n"
	"	mov 80(%rdi), %r10\n"
	"	mov 88(%rdi), %r11\n"
	"	mov 96(%rdi), %r12\n"
	"	mov 104(%rdi), %r13\n"
	"	mov 112(%rdi), %r14\n"
	"	mov 120(%rdi), %r15\n"
	"	mov 56(%rdi), %rdi\n"
	"	call *(%rsp)\n"
	"	push %rdi\n"
	"	mov 16(%rsp), %rdi\n"
	"	pop 56(%rdi)\n"
	"	pushfq\n"
	"	pop 128(%rdi)\n"
	"	mov %rax, 0(%rdi)\n"
	"	mov %rcx, 8(%rdi)\n"
	"	mov %rdx, 16(%rdi)\n"
	"	mov %rbx, 24(%rdi)\n"
	"	mov %rbp, 40(%rdi)\n"
	"	mov %rsi, 48(%rdi)\n"
	"	mov %r8, 64(%rdi)\n"
	"	mov %r9, 72(%rdi)\n"
	"	mov %r10, 80(%rdi)\n"
	"	mov %r11, 88(%rdi)\n"
	"	mov %r12, 96(%rdi)\n"
	"	mov %r13, 104(%rdi)\n"
	"	mov %r14, 112(%rdi)\n"
	"	mov %r15, 120(%rdi)\n"
	"	mov 152(%rdi), %eax\n"
	"	mov 156(%rdi), %edx\n"
	"	mov 144(%rdi), %rcx\n"
	"	xsave64 (%rcx)\n"
	"	test $1, %al\n"
	"	jz 1f\n"
	"	fninit\n"
	"	fldcw 164(%rdi)\n"
	"1:	ldmxcsr 160(%rdi)\n"
	"	vzeroupper\n"
	"	add $16, %rsp\n"
	"	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %r12\n"
	"	pop %rbp\n"
	"	pop %rbx\n"
	"	ret\n"
	".size interp_thunk_enter, .-interp_thunk_enter\n"
	".p2align 4\n"
	".globl interp_thunk_serialise\n"
	".hidden interp_thunk_serialise\n"
	".type interp_thunk_serialise, @function\n"
	"interp_thunk_serialise:\n"
	"	mov %rsp, %rdx\n"
	"	mov %ss, %eax\n"
	"	push %rax\n"
	"	push %rdx\n"
	"	pushfq\n"
	"	mov %cs, %eax\n"
	"	push %rax\n"
	"	lea 1f(%rip), %rax\n"
	"	push %rax\n"
	"	iretq\n"
	"1:	ret\n"
	".size interp_thunk_serialise, .-interp_thunk_serialise\n");

static bool map_code(struct interp_thunk *t)
{
	int fd = memfd_create("guise-interp", MFD_CLOEXEC);
	void *rw = MAP_FAILED, *rx = MAP_FAILED;

	if (fd < 0)
		return false;
	if (ftruncate(fd, CODE_SIZE) == 0) {
		rw = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		rx = mmap(NULL, CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	}
	close(fd);
	t->code_rw = rw == MAP_FAILED ? NULL : rw;
	t->code_rx = rx == MAP_FAILED ? NULL : rx;
	return t->code_rw && t->code_rx;
}

bool interp_thunk_init(struct interp *in, struct err *e)
{
	struct interp_thunk *t = aligned_alloc(64, sizeof(*t));

	if (!t) {
		err_set(e, ENOMEM, "no memory for the interpreter's vector unit: give the process more memory");
		return false;
	}
	memset(t, 0, sizeof(*t));
	in->thunk = t;
	if (!map_code(t)) {
		err_sys(e, errno,
			"cannot map %u KiB of executable memory for the interpreter (memfd, mmap with PROT_EXEC): allow it for this "
			"process",
			CODE_SIZE / 1024);
		return false;
	}
	interp_layout_init(&t->lay);
	return true;
}

void interp_thunk_free(struct interp *in)
{
	struct interp_thunk *t = in->thunk;

	if (!t)
		return;
	if (t->code_rw)
		munmap(t->code_rw, CODE_SIZE);
	if (t->code_rx)
		munmap(t->code_rx, CODE_SIZE);
	free(t);
	in->thunk = NULL;
}

u64 interp_unit_components(const struct interp *in, enum interp_unit unit)
{
	u64 host = in->thunk->lay.host_xcr0;

	switch (unit) {
	case UNIT_X87:
	case UNIT_X87_NOWAIT:
	case UNIT_MMX:
		return XF_X87;
	case UNIT_SSE:
		return XF_SSE;
	case UNIT_SSE_MMX:
		return XF_X87 | XF_SSE;
	case UNIT_AVX: /* VEX instructions clear the upper half of ZMM registers, too */
		return XF_SSE | (host & (XF_AVX | XF_ZMM_HI));
	case UNIT_AVX512:
		return XF_SSE | (host & (XF_AVX | XF_AVX512));
	default:
		return 0;
	}
}

/* The slot that holds i's bytes. */
static const void *slot_for(struct interp_thunk *t, const struct interp_insn *i)
{
	u64 q[2];
	u32 at;
	u8 *rw;

	memcpy(q, i->tbytes, sizeof(q));
	at = (u32)(((q[0] ^ q[1] * 31) * 0x9e3779b97f4a7c15ull) >> 51) % SLOT_COUNT * SLOT_SIZE;
	rw = t->code_rw + at;
	/* tbytes is padded with zeros; the byte after the instruction is RET. */
	if (rw[i->tlen] != 0xc3 || memcmp(rw, i->tbytes, i->tlen) != 0) {
		memcpy(rw, i->tbytes, i->tlen);
		rw[i->tlen] = 0xc3;
		interp_thunk_serialise();
	}
	return t->code_rx + at;
}

static void load_registers(struct interp_thunk *t, const struct x86_cpu *c, const struct interp_insn *i)
{
	memcpy(t->ctx.gpr, c->gpr, sizeof(t->ctx.gpr));
	if (i->rsp_reg < 16)
		t->ctx.gpr[i->rsp_reg] = c->gpr[R_RSP];
	if (i->mem != 0xff)
		t->ctx.gpr[i->base_reg] = (u64)t->bounce;
	t->ctx.flags = (c->rflags & FL_ARITH) | FL_IF | FL_ONE;
}

static void store_registers(const struct interp_thunk *t, struct x86_cpu *c, const struct interp_insn *i)
{
	for (u32 r = 0; r < 16; r++) {
		if (r == R_RSP || (i->mem != 0xff && r == i->base_reg) || r == i->rsp_reg)
			continue;
		c->gpr[r] = t->ctx.gpr[r];
	}
	if (i->rsp_reg < 16)
		c->gpr[R_RSP] = t->ctx.gpr[i->rsp_reg];
	c->rflags = (c->rflags & ~(u64)FL_ARITH) | (t->ctx.flags & FL_ARITH);
}

/* The header as XRSTOR wants it: standard format. */
static void clean_header(const struct interp_layout *l, struct x86_cpu *c)
{
	fx_set64(c, XS_HEADER, fx_get64(c, XS_HEADER) & l->host_xcr0);
	memset(c->fpu.bytes + XS_HEADER + 8, 0, XS_HEADER_SIZE - 8);
	fx_set32(c, FX_MXCSR, fx_get32(c, FX_MXCSR) & l->mxcsr_mask);
}

static bool host_fault(struct x86_cpu *c, int sig)
{
	switch (sig) {
	case SIGFPE:
		return x86_raise(c, c->cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
	case SIGSEGV:
	case SIGBUS:
		return x86_raise_err(c, VEC_GP, 0);
	default:
		return x86_raise(c, VEC_UD);
	}
}

bool interp_thunk_run(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	struct interp_thunk *t = in->thunk;

	t->ctx.rfbm = interp_unit_components(in, (enum interp_unit)i->unit);
	interp_fpu_own(in, c, t->ctx.rfbm);
	clean_header(&t->lay, c);
	t->ctx.fpu = c->fpu.bytes;
	t->ctx.slot = slot_for(t, i);
	load_registers(t, c, i);
	t->sig = 0;
	t->active = true;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	interp_thunk_enter(t);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	t->active = false;
	if (unlikely(t->sig))
		return host_fault(c, t->sig);
	store_registers(t, c, i);
	return true;
}

/* The instruction was called: the return address is on top of the stack. */
bool interp_host_signal(struct interp *in, int sig, void *ucontext)
{
	struct interp_thunk *t = in->thunk;
	greg_t *r = ((ucontext_t *)ucontext)->uc_mcontext.gregs;
	u64 rip = (u64)r[REG_RIP];

	if (!t->active || rip < (u64)t->code_rx || rip >= (u64)t->code_rx + CODE_SIZE)
		return false;
	t->sig = sig;
	memcpy(&r[REG_RIP], (const void *)r[REG_RSP], 8);
	r[REG_RSP] += 8;
	return true;
}
