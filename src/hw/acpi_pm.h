/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI power management registers: PM1 event and control, PM timer, GPE0. Published as "power".
 *
 * Threading: any thread.
 */
#pragma once

#include "hw/device.h"

struct acpi_pm;

/* As if somebody pressed the power button: the guest gets an SCI and, if it listens, shuts down. Takes a lock: not for signal handlers. */
void acpi_pm_press_power(struct acpi_pm *pm);
