/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio memory balloon (virtio 1.2, 5.5): the guest reports pages that it does not use, and gives up as many as the host wants; the host gets their
 * memory back. Free page hinting, which serves migration, is not offered, and nor is MUST_TELL_HOST: pages may be used again at once, since their
 * memory comes back when they are touched.
 *
 * A page that was given back reads as zeroes. The guest has promised not to look (5.5.6.7), but for one case: with PAGE_POISON it expects its free
 * pages to hold a value, and when that is not 0, those that it reports stay as they are.
 *
 * Threading: doorbells only post work. The event loop does it in steps of STEP bytes of guest memory, some 0.5 ms where the host gives the memory to
 * its own host, so that neither a vCPU nor a timer waits for longer.
 */
#include "virtio/balloon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BALLOON_QUEUE_SIZE 64 /* Linux reports 32 ranges at once and refuses smaller queues */
#define STEP MiB
#define STEP_PAGES (STEP / PAGE_SIZE)
#define STATS_MAX_S 86400u

static struct virtio_balloon *of(struct virtio_device *vd)
{
	return container_of(vd, struct virtio_balloon, vd);
}

static void count(u64 *counter, u64 n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* ---- giving back ---- */

static void give_back(struct virtio_balloon *b, gpa_t gpa, u64 len)
{
	struct err e;

	if (gm_discard(b->vd.dev.env->mem, gpa, len, &e) < 0)
		log_limited(&b->log, LOG_WARN, "virtio-balloon: %s", e.msg);
}

/* Drivers take page after page, so their numbers follow each other, up or down: fewer and larger pieces. */
static void give_back_pages(struct virtio_balloon *b, const u32 *pfn, u32 n)
{
	for (u32 i = 0; i < n;) {
		u64 first = pfn[i], end = first + 1;

		for (i++; i < n && (pfn[i] == end || pfn[i] + 1ull == first); i++) {
			first -= pfn[i] != end;
			end += pfn[i] == end;
		}
		give_back(b, first << VIRTIO_BALLOON_PFN_SHIFT, (end - first) << VIRTIO_BALLOON_PFN_SHIFT);
	}
}

static bool in_ram(const struct virtio_balloon *b, const u32 *pfn, u32 n)
{
	for (u32 i = 0; i < n; i++)
		if (!gm_ptr(b->vd.dev.env->mem, (gpa_t)pfn[i] << VIRTIO_BALLOON_PFN_SHIFT, PAGE_SIZE))
			return false;
	return true;
}

/* ---- one step of a request: NULL, or how the driver broke the protocol ---- */

/* An array of page numbers. Nothing is to be done when they leave the balloon: their memory comes when they are touched. */
static const char *step_pages(struct virtio_balloon *b, struct balloon_task *t, bool inflate)
{
	u32 pfn[STEP_PAGES], n = (u32)(iov_read(t->r->read, t->r->nread, t->done, pfn, sizeof(pfn)) / sizeof(pfn[0]));

	if (t->r->read_len % sizeof(pfn[0]))
		return "a list of pages ends within a number";
	if (!in_ram(b, pfn, n))
		return "a page of the balloon is not in RAM";
	if (inflate)
		give_back_pages(b, pfn, n);
	count(inflate ? &b->inflated : &b->deflated, n);
	t->done += n * (u32)sizeof(pfn[0]);
	return NULL;
}

static bool contents_count(const struct virtio_balloon *b)
{
	return virtio_has(&b->vd, VIRTIO_BALLOON_F_PAGE_POISON) && __atomic_load_n(&b->poisoned, __ATOMIC_RELAXED);
}

/* The buffers themselves are the pages. Of one that is no multiple of a page a page may stay at each step. */
static const char *step_report(struct virtio_balloon *b, struct balloon_task *t)
{
	struct iovec iov[VQ_IOV_MAX];
	u32 n = iov_slice(t->r->write, t->r->nwrite, t->done, STEP, iov), len = 0;

	if (!virtio_has(&b->vd, VIRTIO_BALLOON_F_REPORTING))
		return "this queue was not negotiated";
	for (u32 i = 0; i < n; i++) {
		if (!contents_count(b))
			give_back(b, gm_gpa_of(b->vd.dev.env->mem, iov[i].iov_base), iov[i].iov_len);
		len += (u32)iov[i].iov_len;
	}
	count(&b->reported, len);
	t->done += len;
	return NULL;
}

/* Inflation, deflation; the others' numbers depend: the specification's reporting queue is 4 (5.5.2), but Linux leaves out those that were not
 * negotiated when it counts, so there it may be 2 or 3, which are no other's then. */
static bool is_report(const struct virtqueue *q)
{
	return q->index > 1;
}

static bool is_stats(const struct virtio_balloon *b, const struct virtqueue *q)
{
	return q->index == BALLOON_STATSQ && virtio_has(&b->vd, VIRTIO_BALLOON_F_STATS_VQ);
}

static const char *step_request(struct virtio_balloon *b, struct virtqueue *q, struct balloon_task *t)
{
	const struct guest_memory *mem = b->vd.dev.env->mem;
	u64 before = gm_resident(mem), after;
	const char *breach = is_report(q) ? step_report(b, t) : step_pages(b, t, q->index == 0);

	/* vCPUs may touch new pages meanwhile, so this is not exact. */
	after = gm_resident(mem);
	count(&b->returned, after < before ? before - after : 0);
	return breach;
}

/* ---- queues ---- */

static bool is_done(const struct virtqueue *q, const struct balloon_task *t)
{
	return t->done == (is_report(q) ? t->r->write_len : t->r->read_len);
}

/* The used length is 0: so much of the buffers was written for the driver to read. */
static const char *serve_memory(struct virtio_balloon *b, struct virtqueue *q)
{
	struct balloon_task *t = &b->task[q->index];
	const char *breach;

	if (!t->r)
		*t = (struct balloon_task){vq_pop(q), 0};
	if (!t->r)
		return NULL;
	breach = is_done(q, t) ? NULL : step_request(b, q, t);
	if (breach || !is_done(q, t))
		return breach;
	vq_push(t->r, 0);
	t->r = NULL;
	vq_flush(q);
	return NULL;
}

static void drop_task(struct balloon_task *t)
{
	if (t->r)
		vq_forget(t->r);
	t->r = NULL;
}

/* Locked. True when there is more to do. */
static bool serve(struct virtio_balloon *b, struct virtqueue *q)
{
	struct balloon_task *t = &b->task[q->index];
	bool stats = is_stats(b, q);
	const char *breach = stats ? balloon_stats_step(b, q) : serve_memory(b, q);

	if (breach) {
		vq_breach(q, breach);
		drop_task(t);
		return false;
	}
	return (t->r && !stats) || vq_notify_on(q);
}

static void serve_all(struct virtio_device *vd)
{
	bool more = false;

	for (u32 i = 0; i < vd->nqueues; i++) {
		pthread_mutex_lock(&vd->queue[i].lock);
		more |= virtio_running(vd) && serve(of(vd), &vd->queue[i]);
		pthread_mutex_unlock(&vd->queue[i].lock);
	}
	if (more)
		virtio_work_post(&of(vd)->work);
}

/* ---- device ---- */

static void balloon_notify(struct virtio_device *vd, u16 queue)
{
	virtio_work_post(&of(vd)->work);
}

static void note_poison(struct virtio_balloon *b)
{
	__atomic_store_n(&b->poisoned, b->config.poison_val != 0, __ATOMIC_RELAXED);
}

/* `actual` and the poison value are the driver's (5.5.4). */
static void balloon_config_written(struct virtio_device *vd, u32 off, u32 len, const u8 *old)
{
	struct virtio_balloon *b = of(vd);
	struct virtio_balloon_config written = b->config;

	memcpy(vd->config + off, old, len);
	b->config.actual = written.actual;
	b->config.poison_val = written.poison_val;
	note_poison(b);
}

/* Whoever has a queue's lock after this finds the device not running, and takes nothing. */
static void balloon_reset(struct virtio_device *vd)
{
	struct virtio_balloon *b = of(vd);

	for (u32 i = 0; i < vd->nqueues; i++) {
		pthread_mutex_lock(&vd->queue[i].lock);
		drop_task(&b->task[i]);
		pthread_mutex_unlock(&vd->queue[i].lock);
	}
	pthread_mutex_lock(&vd->lock);
	b->config.actual = b->config.poison_val = 0;
	note_poison(b);
	pthread_mutex_unlock(&vd->lock);
	virtio_reset_done(vd);
}

void balloon_set_target(struct virtio_balloon *b, u64 bytes)
{
	pthread_mutex_lock(&b->vd.lock);
	b->config.num_pages = (u32)(bytes >> VIRTIO_BALLOON_PFN_SHIFT);
	pthread_mutex_unlock(&b->vd.lock);
	virtio_config_changed(&b->vd);
}

static const struct virtio_ops balloon_ops = {
	.name = "virtio-balloon",
	.id = VIRTIO_ID_BALLOON,
	.pci_class = 0xff,
	.posts = ~0u,
	.notify = balloon_notify,
	.config_written = balloon_config_written,
	.reset = balloon_reset,
};

/* ---- creation ---- */

static const char *const switches[] = {"on", "off", NULL};

static const struct opt_key balloon_keys[] = {
	{.name = "", .type = OPT_CHOICE, .help = "off: no balloon, as without the option", .def = "on", .choices = switches},
	{.name = "target", .type = OPT_SIZE, .help = "how much memory the guest is asked to give up", .def = "0"},
	{.name = "stats", .type = OPT_UINT, .help = "ask the guest for its memory statistics, every so many seconds; for --stats"},
	{0},
};

static bool is_off(const struct opts *opts)
{
	return strcmp(opts_str(opts, ""), "off") == 0;
}

static int balloon_check(const struct opts *opts, struct err *e)
{
	if (is_off(opts) && opts->n > 1)
		return err_set(e, EINVAL, "--balloon: off is no balloon, and takes nothing else");
	if (opts_num(opts, "target") % PAGE_SIZE)
		return err_set(e, EINVAL, "--balloon: a target of %s is not a multiple of 4K", opts_str(opts, "target"));
	if (opts_has(opts, "stats") && (opts_num(opts, "stats") < 1 || opts_num(opts, "stats") > STATS_MAX_S))
		return err_set(e, EINVAL, "--balloon: statistics are asked for every 1 to %u seconds", STATS_MAX_S);
	return 0;
}

static int set_target(struct virtio_balloon *b, const struct device_env *env, const struct opts *opts, struct err *e)
{
	u64 target = opts_num(opts, "target");

	if (target >= env->mem->size)
		return err_set(e, EINVAL, "--balloon: a target of %s leaves nothing of the guest's memory of %llu MiB",
			       opts_str(opts, "target"), (unsigned long long)(env->mem->size / MiB));
	b->config.num_pages = (u32)(target >> VIRTIO_BALLOON_PFN_SHIFT);
	return 0;
}

static const struct device_class balloon_class;

static u64 features(const struct opts *opts)
{
	u64 f = VIRTIO_BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) | VIRTIO_BIT(VIRTIO_BALLOON_F_PAGE_POISON) |
		VIRTIO_BIT(VIRTIO_BALLOON_F_REPORTING);

	return opts_has(opts, "stats") ? f | VIRTIO_BIT(VIRTIO_BALLOON_F_STATS_VQ) : f;
}

static int balloon_assemble(struct virtio_balloon *b, struct device_env *env, const struct opts *opts, struct err *e)
{
	struct virtio_setup setup = {.ops = &balloon_ops,
				     .cls = &balloon_class,
				     .features = features(opts),
				     .nqueues = BALLOON_QUEUES,
				     .queue_size = BALLOON_QUEUE_SIZE,
				     .config = &b->config,
				     .config_len = sizeof(b->config)};
	int r = set_target(b, env, opts, e);

	if (r)
		return r;
	virtio_work_init(&b->work, &b->vd, serve_all);
	balloon_stats_init(b, env->loop, opts_num(opts, "stats") * NS_PER_SEC);
	return virtio_init(&b->vd, env, &setup, e);
}

/* "off" makes no device: *out stays NULL. */
static int balloon_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct virtio_balloon *b;
	int r = balloon_check(opts, e);

	*out = NULL;
	if (r || is_off(opts))
		return r;
	b = calloc(1, sizeof(*b));
	if (!b)
		return err_set(e, ENOMEM, "virtio-balloon: out of memory");
	r = balloon_assemble(b, env, opts, e);
	if (r) {
		free(b);
		return r;
	}
	env->publish(env->registry_opaque, "balloon", b);
	*out = &b->vd.dev;
	return 0;
}

static void balloon_destroy(struct device *d)
{
	struct virtio_balloon *b = container_of(d, struct virtio_balloon, vd.dev);

	virtio_fini(&b->vd);
	balloon_stats_fini(b);
	free(b);
}

/* What had been taken and not answered when the state was saved is taken again: doing a part of it twice does no harm. */
static void balloon_loaded(struct device *d)
{
	struct virtio_balloon *b = container_of(d, struct virtio_balloon, vd.dev);

	note_poison(b);
	for (u32 i = 0; i < b->vd.nqueues; i++)
		b->vd.queue[i].last_avail = b->vd.queue[i].used_idx;
	virtio_class_loaded(d);
}

static const struct field balloon_fields[] = {
	VIRTIO_FIELDS(struct virtio_balloon),
	FIELD(struct virtio_balloon, config.num_pages, FIELD_U32),
	FIELD(struct virtio_balloon, config.actual, FIELD_U32),
	FIELD(struct virtio_balloon, config.poison_val, FIELD_U32),
};

static const struct counter balloon_counters[] = {
	{"balloon_pages_inflated", offsetof(struct virtio_balloon, inflated)},
	{"balloon_pages_deflated", offsetof(struct virtio_balloon, deflated)},
	{"balloon_bytes_reported", offsetof(struct virtio_balloon, reported)},
	{"balloon_bytes_returned", offsetof(struct virtio_balloon, returned)},
	{"guest_bytes_total", offsetof(struct virtio_balloon, stats.values[VIRTIO_BALLOON_S_MEMTOT])},
	{"guest_bytes_free", offsetof(struct virtio_balloon, stats.values[VIRTIO_BALLOON_S_MEMFREE])},
	{"guest_bytes_available", offsetof(struct virtio_balloon, stats.values[VIRTIO_BALLOON_S_AVAIL])},
	{"guest_bytes_cached", offsetof(struct virtio_balloon, stats.values[VIRTIO_BALLOON_S_CACHES])},
};

static const struct device_class balloon_class = {
	.name = "vballoon", /* behind the others: a card's slot, and so its name in Linux, does not depend on it */
	.stage = STAGE_PCI,
	.option = "balloon",
	.once = true,
	.summary = "gives memory that the guest does not use back to the host",
	.keys = balloon_keys,
	.version = 1,
	.check = balloon_check,
	.create = balloon_create,
	.reset = virtio_class_reset,
	.destroy = balloon_destroy,
	.loaded = balloon_loaded,
	.fields = balloon_fields,
	.nfields = ARRAY_SIZE(balloon_fields),
	.counters = balloon_counters,
	.ncounters = ARRAY_SIZE(balloon_counters),
};
DEVICE_REGISTER(balloon_class);
