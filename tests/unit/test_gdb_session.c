/* SPDX-License-Identifier: Apache-2.0 */
/* A debugger's commands against a target that notes what it is asked. */
#include "gdb_client.h"

static struct client *c;
static struct gdb_target target;

static int open_session(void **state)
{
	c = aligned_alloc(64, (sizeof(*c) + 63) & ~63ul);
	client_open(c, &target);
	return 0;
}

static int close_session(void **state)
{
	client_close(c);
	free(c);
	return 0;
}

#define ASK(packet, answer) assert_string_equal(client_ask(c, packet), answer)

/* ---- the conversation ---- */

static void acknowledgements(void **state)
{
	ASK("qC", "QC1");
	assert_int_equal(c->sent[0], '+');
	c->nsent = 0;
	client_feed(c, "$qC#00", 6);
	assert_int_equal(c->nsent, 1);
	assert_int_equal(c->sent[0], '-');
	c->nsent = 0;
	client_feed(c, "-", 1);
	assert_int_equal(client_decode(c->sent, c->nsent, c->reply), 3);
	assert_string_equal(c->reply, "QC1");
	ASK("QStartNoAckMode", "OK");
	assert_int_equal(c->sent[0], '+');
	ASK("qC", "QC1");
	assert_int_equal(c->sent[0], '$');
}

static void unknown_commands_get_nothing(void **state)
{
	static const char *const unknown[] = {"vMustReplyEmpty", "!", "qTStatus", "vAttach;1", "x10,4", "", "QNonStop:1", "gg", "?x"};

	for (u32 i = 0; i < ARRAY_SIZE(unknown); i++) {
		ASK(unknown[i], "");
		assert_true(memchr(c->sent, '$', c->nsent));
	}
}

static void features_are_announced(void **state)
{
	const char *r = client_ask(c, "qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");

	assert_true(strstr(r, "PacketSize=4000"));
	assert_true(strstr(r, "PhyMemMode+"));
	assert_true(strstr(r, "qXfer:features:read+") && strstr(r, "QStartNoAckMode+") && strstr(r, "swbreak+") && strstr(r, "hwbreak+"));
	ASK("vCont?", "vCont;c;C;s;S");
}

static void description_in_pieces(void **state)
{
	static char all[64 * 1024];
	char ask[64];
	u32 at = 0;

	do {
		snprintf(ask, sizeof(ask), "qXfer:features:read:target.xml:%x,3fb", at);
		client_ask(c, ask);
		assert_true(c->reply[0] == 'm' || c->reply[0] == 'l');
		memcpy(all + at, c->reply + 1, c->len);
		at += c->len - 1;
	} while (c->reply[0] == 'm');
	assert_true(strstr(all, "<architecture>i386:x86-64</architecture>"));
	assert_true(strstr(all, "name=\"rip\" bitsize=\"64\" type=\"code_ptr\" regnum=\"16\""));
	assert_true(strstr(all, "name=\"k_gs_base\"") && strstr(all, "name=\"cr3\""));
	assert_string_equal(all + at - 10, "</target>\n");
	ASK("qXfer:features:read:target.xml:ffffff,10", "E16");
	ASK("qXfer:features:read:other.xml:0,10", "E00");
	ASK("qXfer:features:read:target.xml:0", "E16");
}

static void threads(void **state)
{
	ASK("qfThreadInfo", "m1,2,3");
	ASK("qsThreadInfo", "l");
	ASK("T3", "OK");
	ASK("T4", "E16");
	ASK("T", "E16");
	ASK("Hg2", "OK");
	ASK("qC", "QC2");
	ASK("Hg0", "OK");
	ASK("Hg-1", "OK");
	ASK("qC", "QC2");
	ASK("Hg4", "E16");
	ASK("Hx1", "E16");
	ASK("Hc2", "OK");
	c->cpu[1].halted = true;
	client_ask(c, "qThreadExtraInfo,2");
	ASK("qThreadExtraInfo,2", "43505520312c2068616c746564"); /* CPU 1, halted */
	ASK("qAttached", "1");
}

/* ---- registers ---- */

static u32 number_of(const char *name)
{
	char found[16];

	for (u32 i = 0; i < c->session->regs.n; i++) {
		gdb_reg_name(&c->session->regs.reg[i], found, sizeof(found));
		if (strcmp(found, name) == 0)
			return i;
	}
	return ~0u;
}

static const char *read_reg(const char *name)
{
	char ask[32];

	snprintf(ask, sizeof(ask), "p%x", number_of(name));
	return client_ask(c, ask);
}

static const char *write_reg(const char *name, const char *value)
{
	char ask[128];

	snprintf(ask, sizeof(ask), "P%x=%s", number_of(name), value);
	return client_ask(c, ask);
}

static void registers_are_read(void **state)
{
	c->cpu[0].gpr[R_RBX] = 0x1122334455667788;
	c->cpu[0].rip = 0xffffffff81000000;
	c->cpu[0].cr3 = 0x1000;
	c->cpu[2].msr.kernel_gs_base = 7;
	assert_string_equal(read_reg("rbx"), "8877665544332211");
	assert_string_equal(read_reg("rip"), "00000081ffffffff");
	assert_string_equal(read_reg("cr3"), "0010000000000000");
	ASK("Hg3", "OK");
	assert_string_equal(read_reg("k_gs_base"), "0700000000000000");
	assert_string_equal(read_reg("cr8"), "0200000000000000");
	ASK("pffff", "E16");
	ASK("p", "E16");
}

static void registers_are_written(void **state)
{
	assert_string_equal(write_reg("r15", "0100000000000080"), "OK");
	assert_true(c->cpu[0].gpr[R_R15] == 0x8000000000000001);
	assert_string_equal(c->log, "changed 0;");
	c->cpu[0].rflags = FL_ONE | FL_VM;
	assert_string_equal(write_reg("eflags", "d58afdff"), "OK");
	assert_true(c->cpu[0].rflags & FL_ONE && c->cpu[0].rflags & FL_VM); /* not a debugger's to change */
	assert_string_equal(write_reg("gs_base", "0000000000ff0000"), "E01");
	assert_string_equal(write_reg("gs_base", "00000000008affff"), "OK");
	assert_string_equal(write_reg("cs", "10000000"), "E01");
	assert_string_equal(write_reg("cs", "00000000"), "OK"); /* as it is */
	assert_string_equal(write_reg("mxcsr", "ffff0100"), "E01");
	assert_string_equal(write_reg("rip", "00"), "E16");
	assert_string_equal(write_reg("rip", "0000000000000g00"), "E16");
	ASK("P", "E16");
	ASK("P0", "E16");
}

static const char *write_number(const char *name, u64 v)
{
	char text[17];

	snprintf(text, sizeof(text), "%016llx", (unsigned long long)__builtin_bswap64(v));
	return write_reg(name, text);
}

/* In 64-bit mode of ring 3: the debugger's rights are those of ring 0. */
static void enter_long_mode(struct x86_cpu *cpu)
{
	x86_reset(cpu, true, false);
	cpu->cr0 = CR0_PE | CR0_ET | CR0_PG;
	cpu->cr4 = CR4_PAE;
	cpu->cr3 = 0x1000;
	cpu->msr.efer = EFER_LME | EFER_LMA;
	cpu->seg[SEG_CS].attr |= SEGA_L;
	cpu->seg[SEG_SS].attr |= SEGA_DPL;
}

static void control_registers_are_written(void **state)
{
	struct x86_cpu *cpu = &c->cpu[0];

	enter_long_mode(cpu);
	assert_string_equal(write_number("cr3", 0x2000), "OK");
	assert_string_equal(c->log, "changed 0;");
	assert_true(cpu->cr3 == 0x2000);
	assert_string_equal(write_number("cr2", 0xfedcba9876543210), "OK");
	assert_true(cpu->cr2 == 0xfedcba9876543210);
	assert_string_equal(write_number("cr0", CR0_PE | CR0_PG | CR0_WP), "OK");
	assert_true(cpu->cr0 == (CR0_PE | CR0_PG | CR0_WP | CR0_ET));
	assert_string_equal(write_number("cr4", CR4_PAE | CR4_PGE | CR4_PCIDE), "OK");
	assert_string_equal(write_number("cr3", 1ull << 63 | 0x3007), "OK");
	assert_true(cpu->cr3 == 0x3007);
	assert_string_equal(write_number("efer", EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE), "OK");
	assert_true(cpu->msr.efer & EFER_NXE);
	assert_string_equal(write_number("cr8", 9), "OK");
	assert_true(c->cr8[0] == 9 && c->cr8[1] == 1);
	assert_string_equal(write_number("k_gs_base", 0xffff800000000000), "OK");
	assert_true(x86_cpl(cpu) == 3 && cpu->env == &c->env && !cpu->fault.pending);
}

static void control_registers_refuse(void **state)
{
	static const struct {
		const char *name;
		u64 value;
	} rows[] = {
		{"cr0", CR0_PE | CR0_ET},		 /* paging ends in compatibility mode only */
		{"cr0", CR0_PE | CR0_PG | CR0_NW},	 /* NW without CD */
		{"cr0", CR0_PE | CR0_PG | 1ull << 32},	 /* reserved */
		{"cr0", CR0_PG},			 /* paging without protection */
		{"cr3", 1ull << 52},			 /* beyond the physical addresses */
		{"cr3", 1ull << 63},			 /* no PCIDs to keep */
		{"cr4", 0},				 /* PAE belongs to long mode */
		{"cr4", CR4_PAE | CR4_LA57},		 /* not announced */
		{"cr4", CR4_PAE | 1ull << 31},		 /* reserved */
		{"cr8", 16},				 /* four bits */
		{"efer", EFER_LME},			 /* LMA follows from LME and PG */
		{"efer", EFER_LMA},			 /* LME changes while paging is off */
		{"efer", EFER_LME | EFER_LMA | 1u << 1}, /* reserved */
		{"fs_base", 1ull << 47},
		{"k_gs_base", 1ull << 47},
	};
	static struct x86_cpu before;

	enter_long_mode(&c->cpu[0]);
	before = c->cpu[0];
	for (u32 i = 0; i < ARRAY_SIZE(rows); i++)
		assert_string_equal(write_number(rows[i].name, rows[i].value), "E01");
	assert_memory_equal(&before, &c->cpu[0], sizeof(before));
	assert_string_equal(c->log, "");
	assert_true(c->cr8[0] == 0);
}

/* PAE's four entries are looked at, in RAM; from ring 3 no way leads to real mode. */
static void other_modes_are_checked(void **state)
{
	struct x86_cpu *cpu = &c->cpu[0];

	x86_reset(cpu, true, false);
	assert_string_equal(write_number("efer", EFER_LMA), "E01");
	assert_string_equal(write_number("cr4", CR4_PAE), "OK");
	assert_string_equal(write_number("cr3", 0x1000), "OK");
	c->ram[0x1008] = 3; /* present, with a reserved bit */
	assert_string_equal(write_number("cr0", CR0_PE | CR0_PG), "E01");
	c->ram[0x1008] = 1;
	assert_string_equal(write_number("cr0", CR0_PE | CR0_PG), "OK");
	assert_string_equal(write_number("cr3", 0x10000000), "E01"); /* no RAM */
	cpu->seg[SEG_SS].attr |= SEGA_DPL;
	assert_string_equal(write_number("cr0", 0), "E01");
	cpu->seg[SEG_SS].attr &= ~SEGA_DPL;
	assert_string_equal(write_number("cr0", 0), "OK");
	assert_true(cpu->cr0 == CR0_ET);
	assert_string_equal(write_number("efer", EFER_LME), "OK");
	assert_string_equal(write_number("cr0", CR0_PE | CR0_PG), "OK");
	assert_true(x86_long_mode(cpu));
}

/* One register that G cannot write keeps all of them as they are. */
static void all_or_none(void **state)
{
	static char packet[sizeof(c->reply) + 8];
	static struct x86_cpu before;

	enter_long_mode(&c->cpu[0]);
	before = c->cpu[0];
	client_ask(c, "g");
	snprintf(packet, sizeof(packet), "G%s", c->reply);
	packet[1] = '7';		   /* rax */
	packet[strlen(packet) - 16] = '2'; /* efer, which comes last: a reserved bit */
	ASK(packet, "E01");
	assert_memory_equal(&before, &c->cpu[0], sizeof(before));
	assert_string_equal(c->log, "");
	packet[strlen(packet) - 16] = '0';
	ASK(packet, "OK");
	assert_true(c->cpu[0].gpr[R_RAX] == 0x70);
}

static void vectors_follow_xstate(void **state)
{
	u8 *image = c->cpu[0].fpu.bytes;

	memset(image + 160, 0xaa, 16);
	assert_string_equal(read_reg("xmm0"), "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
	image[512] = 1; /* SSE has its initial values */
	assert_string_equal(read_reg("xmm0"), "00000000000000000000000000000000");
	assert_string_equal(write_reg("xmm1", "01000000000000000000000000000002"), "OK");
	assert_int_equal(image[512], 3);
	assert_string_equal(read_reg("xmm0"), "00000000000000000000000000000000");
	assert_int_equal(image[176], 1);
	image[512] = 2;
	assert_string_equal(read_reg("fctrl"), "7f030000");
	assert_string_equal(read_reg("ftag"), "ffff0000");
	assert_string_equal(write_reg("ftag", "fcff0000"), "OK");
	assert_int_equal(image[4], 1);
	assert_string_equal(read_reg("fctrl"), "7f030000");
	assert_string_equal(read_reg("ftag"), "fdff0000"); /* register 0 holds zero */
	if (number_of("ymm0h") == ~0u)
		return;
	assert_string_equal(write_reg("ymm15h", "0f0e0d0c0b0a09080706050403020100"), "OK");
	assert_string_equal(read_reg("ymm15h"), "0f0e0d0c0b0a09080706050403020100");
	assert_int_equal(image[576 + 15 * 16], 0xf);
}

static void all_registers_survive(void **state)
{
	static char packet[sizeof(c->reply) + 8];
	static struct x86_cpu before;

	for (u32 i = 0; i < 16; i++)
		c->cpu[0].gpr[i] = 0x0123456789abcdef * i;
	c->cpu[0].fpu.bytes[512] = 0xe7;
	before = c->cpu[0];
	client_ask(c, "g");
	assert_true(c->len > 2 * 16 * 8);
	snprintf(packet, sizeof(packet), "G%s", c->reply);
	memset(c->cpu[0].gpr, 0, sizeof(c->cpu[0].gpr));
	ASK(packet, "OK");
	assert_memory_equal(before.gpr, c->cpu[0].gpr, sizeof(before.gpr));
	assert_memory_equal(before.fpu.bytes, c->cpu[0].fpu.bytes, 512);
	ASK("G12", "OK"); /* fewer are those at the beginning */
}

/* ---- memory and points ---- */

static void memory(void **state)
{
	memcpy(c->ram, "abc", 3);
	ASK("m1000,3", "616263");
	ASK("m3fff,2", "00"); /* as far as it goes */
	ASK("m4000,1", "E0e");
	ASK("mfff,1", "E0e");
	ASK("m1000,0", "");
	ASK("mffffffffffffffff,2", "E16");
	ASK("m1000", "E16");
	ASK("m1000,3x", "E16");
	ASK("m1000,ffffffff", client_ask(c, "m1000,ffffffff"));
	assert_int_equal(c->len, 2 * GDB_PACKET_MAX / 2);
	ASK("M1000,2:7a79", "OK");
	assert_memory_equal(c->ram, "zyc", 3);
	ASK("M1000,2:7a", "E16");
	ASK("M1000,2:7a79aa", "E16");
	ASK("M3fff,2:7a79", "E0e");
	assert_string_equal(client_ask_bytes(c, "X1001,3:}\x03\0x", 12), "OK");
	assert_memory_equal(c->ram, "z#\0x", 4);
	ASK("X1000,0:", "OK");
	ASK("X1000,5:ab", "E16");
}

static void physical_memory(void **state)
{
	memcpy(c->ram, "abc", 3);
	ASK("qqemu.PhyMemMode", "0");
	ASK("qqemu.Supported", "PhyMemMode");
	ASK("Qqemu.PhyMemMode:1", "OK");
	ASK("qqemu.PhyMemMode", "1");
	ASK("m0,3", "616263");
	ASK("m2fff,2", "00");
	ASK("m3000,1", "E0e");
	ASK("mfffffffffffff000,1", "E0e");
	ASK("M1,1:7a", "OK");
	ASK("M2fff,2:7a7a", "E0e");
	assert_string_equal(client_ask_bytes(c, "X2,1:y", 6), "OK");
	assert_memory_equal(c->ram, "azy", 3);
	ASK("Qqemu.PhyMemMode:", "E16");
	ASK("Qqemu.PhyMemMode:1x", "E16");
	ASK("qqemu.PhyMemMode", "1");
	ASK("Qqemu.PhyMemMode:0", "OK");
	ASK("m0,1", "E0e");
	ASK("m1000,3", "617a79");
}

static void points(void **state)
{
	ASK("Z0,1000,1", "OK");
	ASK("Z1,1000,1", "OK");
	ASK("z0,1000,1", "OK");
	ASK("Z2,2000,4", "OK");
	ASK("Z4,2000,100", "OK");
	assert_string_equal(c->log, "+0 1000 1;+1 1000 1;-0 1000 1;+2 2000 4;+4 2000 256;");
	ASK("Z0,bad,1", "E1c");
	ASK("Z5,1000,1", "E16");
	ASK("Z2,1000,0", "E16");
	ASK("Z3,ffffffffffffffff,2", "E16");
	ASK("Z2,0,100001", "E16");
	ASK("Z0,1000", "E16");
	ASK("Z0,1000,1;X1,22", "E16");
	ASK("Z", "E16");
}

/* ---- running ---- */

static void stop_with(const struct gdb_stop *stop, const char *packet)
{
	c->nsent = 0;
	gdb_session_stopped(c->session, stop);
	client_decode(c->sent, c->nsent, c->reply);
	assert_string_equal(c->reply, packet);
}

static void resuming(void **state)
{
	static const struct {
		const char *packet, *log;
	} rows[] = {
		{"c", "resume 111;"},
		{"s", "resume 211;"},
		{"C05", "resume 111;"},
		{"S05;2000", "changed 0;resume 211;"},
		{"c1000", "changed 0;resume 111;"},
		{"vCont;c", "resume 111;"},
		{"vCont;s:2", "resume 020;"},
		{"vCont;s:2;c", "resume 121;"},
		{"vCont;c:1;s:1;C05:3", "resume 101;"},
		{"vCont;S05:-1", "resume 222;"},
	};
	const struct gdb_stop step = {.signal = GDB_SIGTRAP};

	for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
		c->log[0] = '\0';
		ASK(rows[i].packet, "");
		assert_int_equal(c->nsent, 1); /* the acknowledgement alone */
		assert_string_equal(c->log, rows[i].log);
		stop_with(&step, "T05thread:1;");
	}
	assert_true(c->cpu[0].rip == 0x1000);
}

static void bad_resumes(void **state)
{
	static const char *const bad[] = {"cx",	     "s1g",	  "Cx",	      "S",	  "C05x",     "vCont", "vCont;",
					  "vCont;t", "vCont;c:9", "vCont;c:", "vCont;Cx", "vCont;c;", "vContx"};

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++)
		ASK(bad[i], "E16");
	assert_string_equal(c->log, "");
}

static void stop_reasons(void **state)
{
	ASK("?", "T05thread:1;");
	ASK("c", "");
	stop_with(&(struct gdb_stop){2, GDB_SIGTRAP, true, GDB_POINT_SOFT, 0}, "T05thread:3;");
	ASK("qC", "QC3");
	client_ask(c, "qSupported:swbreak+;hwbreak+");
	ASK("c", "");
	stop_with(&(struct gdb_stop){0, GDB_SIGTRAP, true, GDB_POINT_SOFT, 0}, "T05thread:1;swbreak:;");
	ASK("?", "T05thread:1;swbreak:;");
	ASK("c", "");
	stop_with(&(struct gdb_stop){0, GDB_SIGTRAP, true, GDB_POINT_HARD, 0}, "T05thread:1;hwbreak:;");
	ASK("c", "");
	stop_with(&(struct gdb_stop){1, GDB_SIGTRAP, true, GDB_POINT_WRITE, 0x1234}, "T05thread:2;watch:1234;");
	ASK("c", "");
	stop_with(&(struct gdb_stop){1, GDB_SIGTRAP, true, GDB_POINT_ACCESS, 0x1234}, "T05thread:2;awatch:1234;");
}

static void interrupt(void **state)
{
	client_feed(c, "\x03", 1); /* stopped already */
	assert_string_equal(c->log, "");
	ASK("c", "");
	c->nsent = 0;
	c->log[0] = '\0';
	client_feed(c, "\x03", 1);
	assert_string_equal(c->log, "stop;");
	client_decode(c->sent, c->nsent, c->reply);
	assert_string_equal(c->reply, "T02thread:1;");
}

/* A machine that runs has no state to look at. */
static void commands_while_running(void **state)
{
	static const char *const refused[] = {"g",	 "p0", "m1000,4",	 "M1000,1:00", "Z0,1,1",      "c",
					      "vCont;c", "?",  "qRcmd,696e666f", "Hg1",	       "qfThreadInfo"};

	ASK("c", "");
	c->log[0] = '\0';
	for (u32 i = 0; i < ARRAY_SIZE(refused); i++)
		ASK(refused[i], "E10");
	assert_string_equal(c->log, "");
	ASK("D", "OK");
	assert_string_equal(c->log, "detach;");
}

static void ends(void **state)
{
	ASK("D;1", "OK");
	ASK("g", "E10");
	ASK("k", "");
	assert_string_equal(c->log, "detach;quit;");
	c->nsent = 0;
	gdb_session_exited(c->session, 0);
	client_decode(c->sent, c->nsent, c->reply);
	assert_string_equal(c->reply, "W00");
	ASK("vKill;1", "OK");
}

static void monitor(void **state)
{
	ASK("qRcmd,696e666f", "612066616b650a");
	client_ask(c, "qRcmd,68656c70");
	assert_true(c->len > 100);
	client_ask(c, "qRcmd,7265736574");
	client_ask(c, "qRcmd,2071756974200a");
	assert_string_equal(c->log, "reset;quit;");
	assert_true(strlen(client_ask(c, "qRcmd,00")) > 0);
	ASK("qRcmd,zz", "E16");
	assert_true(strlen(client_ask(c, "qRcmd,")) > 0);
}

/* Every prefix of every packet, and every packet with one byte changed: some answer, nothing worse. */
static void mutilated_packets(void **state)
{
	static const char *const packets[] = {"m1000,10",
					      "M1000,2:7a79",
					      "X1000,2:ab",
					      "Z2,2000,4",
					      "vCont;s:2;C05:-1",
					      "P10=0000000000000000",
					      "qXfer:features:read:target.xml:0,100",
					      "qRcmd,68656c70",
					      "Qqemu.PhyMemMode:1",
					      "Hg1",
					      "qThreadExtraInfo,1"};
	char copy[64];

	for (u32 i = 0; i < ARRAY_SIZE(packets); i++) {
		u32 len = (u32)strlen(packets[i]);

		for (u32 n = 0; n <= len; n++)
			client_ask_bytes(c, packets[i], n);
		for (u32 at = 0; at < len; at++)
			for (u32 byte = 0; byte < 256; byte++) {
				if (strchr("#$}", (int)byte))
					continue;
				memcpy(copy, packets[i], len);
				copy[at] = (char)byte;
				client_ask_bytes(c, copy, len);
				c->session->running = false;
				c->log[0] = '\0';
			}
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, open_session, close_session)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(acknowledgements),
		TEST(unknown_commands_get_nothing),
		TEST(features_are_announced),
		TEST(description_in_pieces),
		TEST(threads),
		TEST(registers_are_read),
		TEST(registers_are_written),
		TEST(control_registers_are_written),
		TEST(control_registers_refuse),
		TEST(other_modes_are_checked),
		TEST(all_or_none),
		TEST(vectors_follow_xstate),
		TEST(all_registers_survive),
		TEST(memory),
		TEST(physical_memory),
		TEST(points),
		TEST(resuming),
		TEST(bad_resumes),
		TEST(stop_reasons),
		TEST(interrupt),
		TEST(commands_while_running),
		TEST(ends),
		TEST(monitor),
		TEST(mutilated_packets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
