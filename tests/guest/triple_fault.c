/* SPDX-License-Identifier: Apache-2.0 */
/* A fault with an empty IDT resets the machine (the VMM ends or restarts it; with --no-reboot it ends). Nothing is written to the exit
 * port. */
#include "lib.h"

void guest_main(void)
{
	struct dtr none = {0, 0};

	print("about to triple-fault\n");
	__asm__ volatile("lidt %0; ud2" ::"m"(none));
}
