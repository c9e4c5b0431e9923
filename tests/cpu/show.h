/* SPDX-License-Identifier: Apache-2.0 */
/* Cases and results as text on stdout. */
#pragma once

#include "case.h"
#include "forms.h"

void show_case(const struct forms *forms, const struct cpu_case *c);
void show_result(const char *who, const struct cpu_result *r);
