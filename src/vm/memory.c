/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the process's memory is used for: every mapping of /proc/self/smaps, by its share of the host's memory (Pss), belongs to guest RAM, to what the
 * engine names, to files (this program and its libraries), or to the rest. The overhead is all of it but guest RAM. Several machines in one
 * process share what is not the engine's.
 *
 * Threading: any thread, while no vCPU is created or destroyed.
 */
#include "vm/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OWNERS_MAX 16

struct mapping {
	u64 start, end;
	u64 used, anonymous; /* bytes */
	bool file;
};

struct account {
	struct mapping *map;
	u32 n, room;
	u32 nowners;
	struct engine_stats_item owner[OWNERS_MAX];
};

/* ---- reading smaps */

static void begin_mapping(struct account *a, u64 start, u64 end, const char *path)
{
	if (a->n == a->room) {
		u32 room = a->room ? a->room * 2 : 256;
		struct mapping *bigger = realloc(a->map, room * sizeof(*bigger));

		if (!bigger)
			return; /* what follows is added to the last one: the sum is right */
		a->map = bigger;
		a->room = room;
	}
	a->map[a->n++] = (struct mapping){.start = start, .end = end, .file = path[0] == '/' && !strstr(path, " (deleted)")};
}

static void read_line(struct account *a, const char *line)
{
	unsigned long long start, end, kib;
	int path = 0;

	if (sscanf(line, "%llx-%llx %*s %*s %*s %*s %n", &start, &end, &path) == 2 && path)
		begin_mapping(a, start, end, line + path);
	else if (a->n && sscanf(line, "Pss: %llu", &kib) == 1)
		a->map[a->n - 1].used += kib * KiB;
	else if (a->n && sscanf(line, "Anonymous: %llu", &kib) == 1)
		a->map[a->n - 1].anonymous += kib * KiB;
}

static void read_mappings(struct account *a)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		read_line(a, line);
	if (f)
		fclose(f);
}

static u64 page_tables(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long long kib = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmPTE: %llu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib * KiB;
}

/* ---- whose it is */

static u64 *owned(struct account *a, const char *name)
{
	u32 i = 0;

	while (i < a->nowners && strcmp(a->owner[i].name, name) != 0)
		i++;
	if (i == OWNERS_MAX)
		return &a->owner[OWNERS_MAX - 1].value;
	if (i == a->nowners)
		a->owner[a->nowners++] = (struct engine_stats_item){name, 0};
	return &a->owner[i].value;
}

/* Whole mappings change hands with all that is in use of them; a piece of one is in use whole. */
static void give(void *opaque, const char *name, const void *at, u64 bytes)
{
	struct account *a = opaque;
	u64 start = (u64)at, end = start + bytes, *sum = owned(a, name);

	for (u32 i = 0; i < a->n; i++) {
		struct mapping *m = &a->map[i];
		bool whole = m->start >= start && m->end <= end, piece = m->start <= start && m->end >= end;
		u64 part = whole || (piece && bytes > m->used) ? m->used : piece ? bytes : 0;

		*sum += part;
		m->used -= part;
	}
}

static void give_rest(struct account *a)
{
	u64 *files = owned(a, "memory_files"), *rest = owned(a, "memory_rest");

	for (u32 i = 0; i < a->n; i++) {
		const struct mapping *m = &a->map[i];
		u64 of_file = m->file && m->used > m->anonymous ? m->used - m->anonymous : 0;

		*files += of_file;
		*rest += m->used - of_file;
	}
}

static u64 overhead(const struct account *a)
{
	u64 sum = 0;

	for (u32 i = 0; i < a->nowners; i++)
		sum += a->owner[i].value;
	return sum;
}

u32 memory_stats(const struct vm *vm, struct engine_stats_item *items, u32 max)
{
	struct account ram = {0}, a = {0};
	u32 n = 0;

	read_mappings(&a);
	ram.map = a.map;
	ram.n = a.n;
	give(&ram, "memory_guest_ram", vm->mem.map, vm->mem.size);
	if (vm->ops->memory)
		vm->ops->memory(vm->engine, give, &a);
	give_rest(&a);
	const struct engine_stats_item first[] = {
		{"memory_guest_ram", gm_resident(&vm->mem)}, {"memory_page_tables", page_tables()}, {"memory_overhead", overhead(&a)}};
	for (; n < ARRAY_SIZE(first) && n < max; n++)
		items[n] = first[n];
	for (u32 i = 0; i < a.nowners && n < max; i++)
		items[n++] = a.owner[i];
	free(a.map);
	return n;
}
