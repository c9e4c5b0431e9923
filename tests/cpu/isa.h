/* SPDX-License-Identifier: Apache-2.0 */
/* Which CPUID bit announces an instruction, which class it belongs to, and which instructions cannot be compared. */
#pragma once

#include "forms.h"

enum form_class isa_class(const ZydisDecodedInstruction *in);

/* Does it do in ring 0 what it does in ring 3? Not so what is privileged, POPF, and what reads CS or SS. */
bool isa_same_in_ring0(const ZydisDecodedInstruction *in);
