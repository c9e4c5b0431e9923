/* SPDX-License-Identifier: Apache-2.0 */
/* Make a failing case small: fewer instructions first, then a plainer start state. */
#pragma once

#include "case.h"

/* Does the case still fail? Called many times. */
typedef bool (*shrink_fails_fn)(void *opaque, const struct cpu_case *c);

void shrink_case(struct cpu_case *c, shrink_fails_fn fails, void *opaque);
