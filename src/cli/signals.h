/* SPDX-License-Identifier: Apache-2.0 */
/* Signals of the process, for the one VM that a command line runs. */
#pragma once

struct vm;

/* SIGTERM, SIGINT and SIGHUP press the VM's power button, a second one ends it; crashes restore the terminal first. */
void signals_install(void);
void signals_watch(struct vm *vm); /* NULL: none any more */
int signals_ended_by(void);	   /* the signal that ended the VM, 0: none did */
