/* SPDX-License-Identifier: Apache-2.0 */
/* What the manuals leave undefined. Source: SDM vol. 2 and APM vol. 3, "Flags Affected" of each instruction. */
#pragma once

#include "base/types.h"

#include <Zydis/Zydis.h>

/* RFLAGS bits without a defined value after the instruction, given those before it. */
u64 undefined_flags_after(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op, const u64 gpr[16], u64 before);

/* Is a register or memory result undefined? */
bool undefined_result(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op, const u64 gpr[16]);
