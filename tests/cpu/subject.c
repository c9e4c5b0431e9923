/* SPDX-License-Identifier: Apache-2.0 */
/* The list of subjects. */
#include "subject.h"

extern const struct subject subject_native, subject_interp, subject_bt, subject_tiny, subject_direct;

const struct subject *const subjects[] = {&subject_interp, &subject_bt, &subject_tiny, &subject_direct, &subject_native, NULL};
