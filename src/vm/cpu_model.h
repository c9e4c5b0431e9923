/* SPDX-License-Identifier: Apache-2.0 */
/* CPU models as a machine's configuration names them (NULL: the default). Threading: main thread. */
#pragma once

#include "vm/vm.h"

struct x86_cpuid;

/* What the vCPUs announce. Errors: EINVAL for an unknown model, ENOTSUP for a level that this host or engine cannot give. */
int vm_cpu_build(struct x86_cpuid *p, const char *model, const struct engine_ops *ops, u32 ncpus, u64 tsc_hz, struct err *e) must_check;
