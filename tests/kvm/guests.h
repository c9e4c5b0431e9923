/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the guests of smoke.c and those who run them agree upon: where things are, and what is written where. Read by the assembler, too.
 */
#pragma once

#define PORT 0x3f8
#define DONE 0x80
#define VECTOR 0x40
#define EXITS 5000
#define STORED 0x12345678
#define HOLE 0xd0000000 /* between RAM and the local APIC */
#define LAPIC 0xfee00000
/* LSTAR: the CPU reads it without an exit unless it is filtered, so the permission map is tried, too. */
#define FILTERED 0xc0000082

#define REAL_START 0x1000
#define LONG_START 0x2000

#ifndef __ASSEMBLER__
#include "base/types.h"

extern const u8 real_code[], real_end[], long_code[], long_second[], long_handler[], xcr_code[], trap_code[], long_end[];
#endif
