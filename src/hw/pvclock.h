/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The paravirtual clock that Linux knows as kvm-clock: per vCPU, a structure in guest RAM from which the guest computes the virtual clock
 * out of its TSC. Published as "pvclock".
 *
 * The guest's TSC is the virtual clock scaled plus an offset, so the parameters never drift: they are written when the guest asks for them
 * and when the offset changes, not periodically.
 *
 * Threading: MSR functions on the vCPU's thread, pvclock_update from any thread.
 */
#pragma once

#include "hw/device.h"

struct pvclock;

/* MSRs 0x11, 0x12, 0x4b564d00, 0x4b564d01. False: not one of them, or (write) a value that must fault. */
bool pvclock_msr_read(struct pvclock *p, u32 cpu, u32 msr, u64 *value);
bool pvclock_msr_write(struct pvclock *p, u32 cpu, u32 msr, u64 value);

/* The guest stood still while its time went on: tell it, so that its watchdogs forgive what they did not see. Any thread. */
void pvclock_stood_still(struct pvclock *p);

/* This vCPU's TSC offset (x86_cpu.tsc_offset) is now so: the structure in guest RAM is written again if it changed. */
void pvclock_update(struct pvclock *p, u32 cpu, u64 tsc_offset);
