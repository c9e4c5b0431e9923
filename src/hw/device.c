/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry of device classes: pointers that DEVICE_REGISTER put into one linker section, sorted once.
 */
#include "hw/device.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CLASSES 128

/* Weak: a program may link no device at all. */
extern const struct device_class *const __start_guise_devices[] __attribute__((weak, visibility("hidden")));
extern const struct device_class *const __stop_guise_devices[] __attribute__((weak, visibility("hidden")));

/* The program's list of classes, the same for every VM in the process; constant once made. */
static const struct device_class *sorted[MAX_CLASSES];
static u32 nsorted;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int compare(const void *a, const void *b)
{
	const struct device_class *x = *(const struct device_class *const *)a, *y = *(const struct device_class *const *)b;

	return x->stage != y->stage ? (int)x->stage - (int)y->stage : strcmp(x->name, y->name);
}

static void sort_classes(void)
{
	for (const struct device_class *const *p = __start_guise_devices; p != __stop_guise_devices && nsorted < MAX_CLASSES; p++)
		sorted[nsorted++] = *p;
	qsort(sorted, nsorted, sizeof(const struct device_class *), compare);
}

u32 device_classes(const struct device_class ***out)
{
	pthread_once(&once, sort_classes);
	*out = sorted;
	return nsorted;
}

const struct device_class *device_class_by_option(const char *option)
{
	const struct device_class **classes;
	u32 n = device_classes(&classes);

	for (u32 i = 0; i < n; i++) {
		if (classes[i]->option && !strcmp(classes[i]->option, option))
			return classes[i];
	}
	return NULL;
}
