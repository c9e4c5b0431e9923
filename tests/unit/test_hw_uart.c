/* SPDX-License-Identifier: Apache-2.0 */
/* 16550A: FIFO, interrupts and their order, loopback, divisor latch, output to the console. */
#include "hw_machine.h"

#include "char/char.h"

#include <fcntl.h>
#include <unistd.h>

enum { RBR = 0x3f8, THR = 0x3f8, IER = 0x3f9, IIR = 0x3fa, FCR = 0x3fa, LCR = 0x3fb, MCR = 0x3fc, LSR = 0x3fd, MSR = 0x3fe, SCR = 0x3ff };
#define LINE LAYOUT_GSI_UART

static int setup(void **state)
{
	struct machine *m = machine_new();

	machine_plug(m, "uart", NULL);
	machine_run_clock(m);
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	machine_free(*state);
	return 0;
}

static void power_on_values(void **state)
{
	struct machine *m = *state;

	assert_int_equal(inb(m, IER), 0);
	assert_int_equal(inb(m, IIR), 0x01);
	assert_int_equal(inb(m, LSR), 0x60);
	assert_int_equal(inb(m, MSR), 0xb0);
	assert_int_equal(inb(m, RBR), 0);
	for (u32 i = 0; i < 256; i++) {
		outb(m, SCR, i);
		assert_int_equal(inb(m, SCR), i);
	}
	outb(m, IER, 0xff);
	assert_int_equal(inb(m, IER), 0x0f);
	outb(m, IER, 0);
	outb(m, MCR, 0xff);
	assert_int_equal(inb(m, MCR), 0x1f);
}

static void divisor_latch(void **state)
{
	struct machine *m = *state;

	outb(m, LCR, 0x83);
	outb(m, RBR, 0x34);
	outb(m, IER, 0x12);
	assert_int_equal(inb(m, RBR), 0x34);
	assert_int_equal(inb(m, IER), 0x12);
	outb(m, LCR, 0x03);
	assert_int_equal(inb(m, IER), 0);
	assert_int_equal(inb(m, LCR), 0x03);
}

static void fifo_is_found(void **state)
{
	struct machine *m = *state;

	outb(m, FCR, 0x01);
	assert_int_equal(inb(m, IIR) & 0xc0, 0xc0);
	outb(m, FCR, 0x00);
	assert_int_equal(inb(m, IIR) & 0xc0, 0);
}

static void transmitter_interrupt(void **state)
{
	struct machine *m = *state;

	outb(m, MCR, 0x08);
	outb(m, IER, 0x02); /* empty already: at once */
	assert_true(m->line[LINE]);
	assert_int_equal(inb(m, IIR), 0x02);
	assert_false(m->line[LINE]); /* reading IIR ends it */
	assert_int_equal(inb(m, IIR), 0x01);
	outb(m, THR, 'a');
	assert_true(m->line[LINE]);
	assert_int_equal(inb(m, LSR), 0x60);
	outb(m, MCR, 0); /* OUT2 gates */
	assert_false(m->line[LINE]);
	outb(m, MCR, 0x08);
	assert_true(m->line[LINE]);
	outb(m, IER, 0);
	assert_false(m->line[LINE]);
}

static void a_full_fifo_interrupts_at_once(void **state)
{
	struct machine *m = *state;

	outb(m, FCR, 0x01);
	outb(m, MCR, 0x08);
	outb(m, IER, 0x02);
	assert_int_equal(inb(m, IIR), 0xc2);
	for (u32 i = 0; i < 16; i++) {
		assert_false(m->line[LINE]);
		outb(m, THR, 'a');
	}
	assert_true(m->line[LINE]);
	/* One that looks by itself need not wait. */
	assert_int_equal(inb(m, IIR), 0xc2);
	outb(m, THR, 'b');
	assert_int_equal(inb(m, IIR), 0xc2);
	assert_int_equal(inb(m, IIR), 0xc1);
	machine_loop(m, 20000000);
	assert_false(m->line[LINE]); /* it was answered */
	outb(m, THR, 'c');
	assert_false(m->line[LINE]);
	machine_loop(m, 20000000);
	assert_true(m->line[LINE]); /* one that does not look hears of it after the time that a part of a FIFO takes */
}

/* Line by line output starts the transmitter for a few bytes each: the second start waits, until something worthwhile has come together. */
static void starts_in_succession_are_held_back(void **state)
{
	struct machine *m = *state;

	machine_time(m, 5 * NS_PER_SEC); /* stands still */
	outb(m, FCR, 0x01);
	outb(m, MCR, 0x08);
	outb(m, IER, 0x02);
	assert_true(m->line[LINE]);
	assert_int_equal(inb(m, IIR), 0xc2);
	outb(m, THR, 'a');
	outb(m, IER, 0);
	outb(m, IER, 0x02);
	assert_false(m->line[LINE]);
	assert_int_equal(inb(m, IIR), 0xc2); /* to one that looks it is there */
	for (u32 i = 0; i < 64; i++)
		outb(m, THR, 'a');
	inb(m, IIR);
	outb(m, IER, 0);
	outb(m, IER, 0x02);
	assert_true(m->line[LINE]); /* the start before was worth an interrupt */
	inb(m, IIR);
	outb(m, IER, 0);
	outb(m, IER, 0x02);
	assert_false(m->line[LINE]);
	machine_time(m, 5 * NS_PER_SEC + 1000000);
	machine_loop(m, 20000000);
	assert_true(m->line[LINE]);
	outb(m, IER, 0);
	outb(m, IER, 0x02);
	assert_true(m->line[LINE]); /* the last was long ago */
}

static void loopback_modem_lines(void **state)
{
	struct machine *m = *state;

	outb(m, MCR, 0x10);
	assert_int_equal(inb(m, MSR), 0x0b); /* all went away: deltas of CTS, DSR, DCD */
	assert_int_equal(inb(m, MSR), 0x00);
	outb(m, MCR, 0x1a);
	assert_int_equal(inb(m, MSR) & 0xf0, 0x90); /* as Linux looks for it */
	outb(m, MCR, 0x14); /* OUT1 -> RI, rising: no delta */
	assert_int_equal(inb(m, MSR) & 0xf4, 0x40);
	outb(m, MCR, 0x10);
	assert_int_equal(inb(m, MSR) & 0xf4, 0x04); /* trailing edge */
}

static void loopback_data(void **state)
{
	struct machine *m = *state;

	outb(m, FCR, 0x07);
	outb(m, MCR, 0x10);
	for (u32 i = 0; i < 16; i++)
		outb(m, THR, 'a' + i);
	assert_int_equal(inb(m, LSR), 0x61);
	outb(m, THR, 'z'); /* overrun */
	assert_int_equal(inb(m, LSR), 0x63);
	assert_int_equal(inb(m, LSR), 0x61); /* reading clears the error */
	for (u32 i = 0; i < 16; i++)
		assert_int_equal(inb(m, RBR), 'a' + i);
	assert_int_equal(inb(m, LSR), 0x60);
	assert_int_equal(inb(m, RBR), 0);
	/* Without FIFO there is room for one. */
	outb(m, FCR, 0);
	outb(m, THR, 'x');
	outb(m, THR, 'y');
	assert_int_equal(inb(m, LSR), 0x63);
	assert_int_equal(inb(m, RBR), 'x');
}

static void receive_interrupts(void **state)
{
	struct machine *m = *state;

	outb(m, FCR, 0x87); /* trigger level 8 */
	outb(m, IER, 0x05);
	outb(m, LCR, 0x83); /* 115200 */
	outb(m, RBR, 1);
	outb(m, IER, 0);
	outb(m, LCR, 0x03);
	outb(m, MCR, 0x18);
	for (u32 i = 0; i < 8; i++) {
		assert_int_equal(inb(m, IIR), 0xc1);
		outb(m, THR, 'a' + i);
	}
	assert_int_equal(inb(m, IIR), 0xc4);
	assert_false(m->line[LINE]); /* loopback cuts OUT2 */
	inb(m, RBR);
	assert_int_equal(inb(m, IIR), 0xc1); /* below the level */
	machine_loop(m, 20000000);
	assert_int_equal(inb(m, IIR), 0xcc); /* time-out */
	outb(m, MCR, 0x08);
	assert_true(m->line[LINE]);
	inb(m, RBR);
	assert_int_equal(inb(m, IIR) & 0x0f, 0x01);
	machine_loop(m, 20000000);
	assert_int_equal(inb(m, IIR), 0xcc);
	outb(m, FCR, 0x83); /* clear */
	assert_int_equal(inb(m, IIR), 0xc1);
	assert_int_equal(inb(m, LSR), 0x60);
	assert_false(m->line[LINE]);
}

static void priorities(void **state)
{
	struct machine *m = *state;

	outb(m, IER, 0x0f);
	outb(m, MCR, 0x10);
	outb(m, THR, 'x');
	outb(m, THR, 'y'); /* overrun */
	assert_int_equal(inb(m, IIR), 0x06);
	inb(m, LSR);
	assert_int_equal(inb(m, IIR), 0x04);
	inb(m, RBR);
	assert_int_equal(inb(m, IIR), 0x02);
	assert_int_equal(inb(m, IIR), 0x00);
	inb(m, MSR);
	assert_int_equal(inb(m, IIR), 0x01);
}

static void output_reaches_the_console(void **state)
{
	struct machine *m = machine_new();
	char path[] = "/tmp/guise-uart-XXXXXX", spec[64], text[16] = "";
	struct char_backend *console;
	struct err e;
	int fd = mkstemp(path);

	snprintf(spec, sizeof(spec), "file=%s", path);
	assert_int_equal(char_open(&console, m->env.loop, spec, NULL, NULL, &e), 0);
	machine_publish(m, "console", console);
	machine_plug(m, "uart", NULL);
	outb(m, MCR, 0x10);
	outb(m, THR, 'X'); /* loopback: stays inside */
	outb(m, MCR, 0x00);
	outb(m, THR, 'h');
	outb(m, THR, 'i');
	machine_loop(m, 20000000);
	m->dev[0]->cls->destroy(m->dev[0]);
	m->ndev = 0;
	char_close(console);
	assert_int_equal(read(fd, text, sizeof(text)), 2);
	assert_string_equal(text, "hi");
	close(fd);
	unlink(path);
	machine_free(m);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(power_on_values), T(divisor_latch),	   T(fifo_is_found), T(transmitter_interrupt), T(loopback_modem_lines),
		T(a_full_fifo_interrupts_at_once), T(starts_in_succession_are_held_back),
		T(loopback_data),   T(receive_interrupts), T(priorities),    cmocka_unit_test(output_reaches_the_console),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
