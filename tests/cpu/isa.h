/* SPDX-License-Identifier: Apache-2.0 */
/* Which CPUID bit announces an instruction, which class it belongs to, and which instructions cannot be compared. */
#pragma once

#include "forms.h"

enum form_class isa_class(const ZydisDecodedInstruction *in);
