/* SPDX-License-Identifier: Apache-2.0 */
/* Recording of traps, and where to go on after one. See lib.h. */
#include "lib.h"
#include "private.h"

struct extable_entry {
	u64 insn, next;
};

extern const u8 trap_entries[], trap_recover[];
extern const struct extable_entry extable_start[], extable_end[];
void trap_dispatch(struct trap_frame *f);

struct trap_record trap;
u64 trap_recover_rsp; /* not 0: trap_guarded or user_enter waits there */
static trap_handler handlers[256];

void trap_clear(void)
{
	memset(&trap, 0, sizeof(trap));
	trap.vector = NO_TRAP;
}

void trap_set_handler(u32 vector, trap_handler fn)
{
	handlers[vector] = fn;
}

void trap_print(void)
{
	print("vector ");
	print_hex(trap.vector);
	print(" error ");
	print_hex(trap.error);
	print(" rip ");
	print_hex(trap.frame.rip);
	print(" cr2 ");
	print_hex(trap.cr2);
	print(" cs ");
	print_hex(trap.frame.cs);
	print(" rflags ");
	print_hex(trap.frame.rflags);
	print(" rsp ");
	print_hex(trap.frame.rsp);
	print(" dr6 ");
	print_hex(trap.dr6);
	print("\n");
}

static void record(const struct trap_frame *f)
{
	trap.vector = f->vector;
	trap.error = f->error;
	trap.cr2 = read_cr2();
	trap.dr6 = read_dr6();
	trap.count++;
	trap.frame = *f;
}

static bool is_trap_class(u64 vector)
{
	return vector == BP || vector == OF || vector == DB;
}

static bool goes_on(struct trap_frame *f)
{
	for (const struct extable_entry *e = extable_start; e < extable_end; e++) {
		if (f->rip != e->insn && !(is_trap_class(f->vector) && f->rip == e->next))
			continue;
		f->rip = e->next;
		return true;
	}
	return false;
}

static bool recover(struct trap_frame *f)
{
	if (!trap_recover_rsp)
		return false;
	f->rip = (u64)trap_recover;
	f->cs = SEL_CODE64;
	f->ss = SEL_DATA;
	f->rsp = trap_recover_rsp;
	f->rflags = 2;
	return true;
}

void trap_dispatch(struct trap_frame *f)
{
	if (handlers[f->vector] && handlers[f->vector](f))
		return;
	if (f->vector == USER_EXIT && recover(f))
		return;
	record(f);
	if (goes_on(f) || recover(f))
		return;
	print("FAIL: unexpected trap: ");
	trap_print();
	if (loop_name) {
		print("  in ");
		print(loop_name);
		print(", round ");
		print_hex(loop_count);
		print("\n");
	}
	guest_exit(EXIT_FAIL);
}

void trap_init(void)
{
	for (u32 v = 0; v < 256; v++)
		idt_set(v, trap_entries + 16 * v, v == BP || v == OF || v == USER_EXIT ? 0xee : 0x8e, v == DF ? 1 : 0);
	trap_clear();
}

u64 call_address(u64 at)
{
	return ((u64(*)(void))at)();
}
