/* SPDX-License-Identifier: Apache-2.0 */
/* What the library's files offer each other. */
#pragma once

void lib_main(void);
void trap_init(void);
void trap_print(void);
void paging_init(void);
