/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI fixed hardware: PM1a event block, PM1a control with S5, the 3.579545 MHz PM timer (32 bits), a GPE0 block without sources. SCI is
 * GSI 9, level. Source: ACPI 6.4 section 4.8.
 *
 * The machine is always in ACPI mode: FADT names no SMI command port, so SCI_EN is read as 1.
 *
 * Threading: one lock; the timer runs on the event loop's thread.
 */
#include "hw/acpi_pm.h"

#include "hw/layout.h"
#include "hw/vtime.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define PM_TIMER_HZ 3579545ull

enum { PM1_TMR = 1 << 0, PM1_GBL = 1 << 5, PM1_PWRBTN = 1 << 8, PM1_SLPBTN = 1 << 9, PM1_RTC = 1 << 10, PM1_WAK = 1 << 15 };
#define PM1_EVENTS (PM1_TMR | PM1_GBL | PM1_PWRBTN)
enum { CNT_SCI_EN = 1 << 0, CNT_BM_RLD = 1 << 1, CNT_GBL_RLS = 1 << 2, CNT_SLP_TYP_SHIFT = 10, CNT_SLP_EN = 1 << 13 };
#define GPE_BYTES 2 /* status, then as many of enable */

struct acpi_pm {
	struct device dev;
	pthread_mutex_t lock;
	struct bus_region evt, cnt, tmr, gpe;
	struct irq_line sci;
	struct evtimer timer;
	u16 status, enable, control;
	u64 seen_half; /* half periods of the PM timer that the status bit knows of */
	u8 gpe_enable[GPE_BYTES];
};

static u64 pm_ticks(const struct acpi_pm *pm)
{
	return vtime_muldiv(vclock_now(pm->dev.env->clock), PM_TIMER_HZ, NS_PER_SEC);
}

/* TMR_STS is set each time the timer's top bit changes. */
static void timer_status(struct acpi_pm *pm)
{
	u64 half = pm_ticks(pm) >> 31;

	if (half != pm->seen_half)
		pm->status |= PM1_TMR;
	pm->seen_half = half;
}

static void update(struct acpi_pm *pm)
{
	timer_status(pm);
	irq_set(&pm->sci, (pm->status & pm->enable & PM1_EVENTS) != 0);
	if (pm->enable & PM1_TMR && !(pm->status & PM1_TMR))
		vtime_arm(&pm->timer, pm->dev.env->clock, vtime_muldiv((pm->seen_half + 1) << 31, NS_PER_SEC, PM_TIMER_HZ) + 1);
	else
		timer_disarm(&pm->timer);
}

static void expired(void *opaque)
{
	struct acpi_pm *pm = opaque;

	pthread_mutex_lock(&pm->lock);
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

void acpi_pm_press_power(struct acpi_pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	pm->status |= PM1_PWRBTN;
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

/* Registers are 16 bits wide and may be accessed by bytes. */
static u16 lanes(u64 off, u32 size)
{
	return (u16)(size == 2 ? 0xffff : 0xff << 8 * (off & 1));
}

static u64 evt_read(void *opaque, u64 off, u32 size)
{
	struct acpi_pm *pm = opaque;
	u16 v;

	pthread_mutex_lock(&pm->lock);
	update(pm);
	v = off & 2 ? pm->enable : pm->status;
	pthread_mutex_unlock(&pm->lock);
	return v >> 8 * (off & 1);
}

static void evt_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct acpi_pm *pm = opaque;
	u16 mask = lanes(off, size), v = (u16)(value << 8 * (off & 1));

	pthread_mutex_lock(&pm->lock);
	timer_status(pm);
	if (off & 2)
		pm->enable = (u16)((pm->enable & ~mask) | (v & mask & (PM1_EVENTS | PM1_SLPBTN | PM1_RTC)));
	else
		pm->status &= (u16) ~(v & mask);
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

static u64 cnt_read(void *opaque, u64 off, u32 size)
{
	struct acpi_pm *pm = opaque;
	u16 v;

	pthread_mutex_lock(&pm->lock);
	v = pm->control | CNT_SCI_EN;
	pthread_mutex_unlock(&pm->lock);
	return v >> 8 * (off & 1);
}

/* Sleep states other than S5 are not announced; asking for one does nothing. */
static void cnt_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct acpi_pm *pm = opaque;
	u16 mask = lanes(off, size), v = (u16)(value << 8 * (off & 1)) & mask;
	bool sleep;

	pthread_mutex_lock(&pm->lock);
	pm->control = (u16)((pm->control & ~mask) | (v & (CNT_BM_RLD | 7u << CNT_SLP_TYP_SHIFT)));
	sleep = v & CNT_SLP_EN && (pm->control >> CNT_SLP_TYP_SHIFT & 7) == LAYOUT_SLP_TYP_S5;
	pthread_mutex_unlock(&pm->lock);
	if (sleep)
		pm->dev.env->request(pm->dev.env->request_opaque, VM_REQ_POWEROFF, 0);
}

static u64 tmr_read(void *opaque, u64 off, u32 size)
{
	return (u32)pm_ticks(opaque);
}

/* Nothing raises a general-purpose event: status reads as 0, the enable bits are kept for the guest. */
static u64 gpe_read(void *opaque, u64 off, u32 size)
{
	struct acpi_pm *pm = opaque;

	return off < GPE_BYTES ? 0 : __atomic_load_n(&pm->gpe_enable[off - GPE_BYTES], __ATOMIC_RELAXED);
}

static void gpe_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct acpi_pm *pm = opaque;

	if (off >= GPE_BYTES)
		__atomic_store_n(&pm->gpe_enable[off - GPE_BYTES], (u8)value, __ATOMIC_RELAXED);
}

static const struct bus_ops evt_ops = {.read = evt_read, .write = evt_write, .min_size = 1, .max_size = 2};
static const struct bus_ops cnt_ops = {.read = cnt_read, .write = cnt_write, .min_size = 1, .max_size = 2};
static const struct bus_ops tmr_ops = {.read = tmr_read, .min_size = 4, .max_size = 4};
static const struct bus_ops gpe_ops = {.read = gpe_read, .write = gpe_write, .min_size = 1, .max_size = 1};

static void acpi_pm_reset(struct device *d)
{
	struct acpi_pm *pm = container_of(d, struct acpi_pm, dev);

	pthread_mutex_lock(&pm->lock);
	pm->seen_half = pm_ticks(pm) >> 31;
	pm->status = pm->enable = pm->control = 0;
	pm->gpe_enable[0] = pm->gpe_enable[1] = 0;
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

static void acpi_pm_loaded(struct device *d)
{
	struct acpi_pm *pm = container_of(d, struct acpi_pm, dev);

	pthread_mutex_lock(&pm->lock);
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

static void acpi_pm_destroy(struct device *d)
{
	struct acpi_pm *pm = container_of(d, struct acpi_pm, dev);

	bus_remove(d->env->pio, &pm->evt);
	bus_remove(d->env->pio, &pm->cnt);
	bus_remove(d->env->pio, &pm->tmr);
	bus_remove(d->env->pio, &pm->gpe);
	timer_disarm(&pm->timer);
	irq_set(&pm->sci, false);
	pthread_mutex_destroy(&pm->lock);
	free(pm);
}

static int add(struct acpi_pm *pm, struct bus_region *r, u64 base, u64 len, const struct bus_ops *ops, const char *name, struct err *e)
{
	*r = (struct bus_region){.base = base, .len = len, .ops = ops, .opaque = pm, .name = name};
	return bus_add(pm->dev.env->pio, r, e);
}

static int add_ports(struct acpi_pm *pm, struct err *e)
{
	int ret = add(pm, &pm->evt, LAYOUT_PM1_EVT, 4, &evt_ops, "pm1 event", e);

	if (!ret)
		ret = add(pm, &pm->cnt, LAYOUT_PM1_CNT, 2, &cnt_ops, "pm1 control", e);
	if (!ret)
		ret = add(pm, &pm->tmr, LAYOUT_PM_TIMER, 4, &tmr_ops, "pm timer", e);
	if (!ret)
		ret = add(pm, &pm->gpe, LAYOUT_GPE0, 2 * GPE_BYTES, &gpe_ops, "gpe0", e);
	return ret;
}

static const struct device_class acpi_pm_class;

static int acpi_pm_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct acpi_pm *pm = calloc(1, sizeof(*pm));
	int ret;

	if (!pm)
		return err_set(e, ENOMEM, "power management: out of memory; free memory on the host");
	pm->dev.cls = &acpi_pm_class;
	pm->dev.env = env;
	pthread_mutex_init(&pm->lock, NULL);
	irq_line_init(&pm->sci, env->irq, LAYOUT_GSI_SCI);
	timer_init(&pm->timer, env->loop, expired, pm);
	acpi_pm_reset(&pm->dev);
	ret = add_ports(pm, e);
	if (ret) {
		acpi_pm_destroy(&pm->dev);
		return ret;
	}
	env->publish(env->registry_opaque, "power", pm);
	*out = &pm->dev;
	return 0;
}

static const struct field acpi_pm_fields[] = {
	FIELD(struct acpi_pm, status, FIELD_U16),
	FIELD(struct acpi_pm, enable, FIELD_U16),
	FIELD(struct acpi_pm, control, FIELD_U16),
	FIELD(struct acpi_pm, seen_half, FIELD_U64),
	FIELD_ARRAY(struct acpi_pm, gpe_enable, FIELD_BYTES, GPE_BYTES),
};

static const struct device_class acpi_pm_class = {
	.name = "acpi-pm",
	.stage = STAGE_CHIPSET,
	.summary = "ACPI power management registers",
	.version = 1,
	.create = acpi_pm_create,
	.reset = acpi_pm_reset,
	.destroy = acpi_pm_destroy,
	.loaded = acpi_pm_loaded,
	.fields = acpi_pm_fields,
	.nfields = ARRAY_SIZE(acpi_pm_fields),
};
DEVICE_REGISTER(acpi_pm_class);
