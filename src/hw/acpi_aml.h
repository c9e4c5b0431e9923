/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The little of AML that is written at run time: scopes, devices and names with constant values (ACPI 6.4 chapter 20).
 *
 * Contract: writes stop at the end of the buffer; `overflow` tells. Blocks must be closed in reverse order.
 * Threading: none.
 */
#pragma once

#include "base/types.h"

struct aml {
	u8 *buf;
	u32 len, size;
	bool overflow;
};

/* A block whose length is filled in when it is closed. Returns the place to give to aml_close. `path` has the root's backslash or is a
 * four-character segment. */
u32 aml_scope(struct aml *a, const char *path);
u32 aml_device(struct aml *a, const char *segment);
void aml_close(struct aml *a, u32 place);

void aml_name_string(struct aml *a, const char *segment, const char *value);
void aml_name_byte(struct aml *a, const char *segment, u8 value);
