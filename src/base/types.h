/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The short integer names, the address kinds and the few macros that every file uses.
 * Contract: no function here allocates, blocks or keeps state.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t i8;
typedef int16_t i16;
typedef int32_t i32;
typedef int64_t i64;

/* Guest virtual (linear) and guest physical addresses. A host address is always a pointer, so the three cannot be mixed silently. */
typedef u64 gva_t;
typedef u64 gpa_t;

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096ul
#define PAGE_OFFSET(a) ((a)&4095u)
#define PAGE_BASE(a) ((a) & ~(u64)4095)

#define KiB 1024ull
#define MiB (1024ull * KiB)
#define GiB (1024ull * MiB)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define must_check __attribute__((warn_unused_result))
#define printf_like(f, a) __attribute__((format(printf, f, a)))
