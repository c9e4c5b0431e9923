/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The software engine's own structures: one translator per vCPU.
 *
 * Registers while translated code runs (decided once, see ARCHITECTURE.md):
 *   guest rax rdx rbx rbp rsi rdi r8 r9 r12 r13           the same host register
 *   guest rsp, rcx                                        host r15, r14
 *   guest r10 r11 r14 r15                                 cpu.gpr[] in memory
 *   host r10 (address), r11 (table base, homed operand), rcx (delta, shift count, jrcxz)   scratch
 *   flags and vector state                                the host's own
 *   host rsp                                              the return stack: host addresses behind the guest's calls, so that the host predicts returns
 *   host fs                                               thread pointer: struct bt_vcpu is thread-local, reached as fs:disp32
 *   host gs                                               the current address space's table for user reads
 *
 * Nothing between guest instructions may touch the arithmetic flags: address sequences use lea, mov, pext, shrx, rorx and jrcxz only.
 *
 * Threading: a bt_vcpu belongs to its thread. `go`, `jc_mask`, `irq_idle` and the request words are written by others, atomically. While the
 * world is stopped (world.c) it belongs to who stopped it.
 */
#pragma once

#include "engine/bt/interp.h"
#include "engine/engine.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/types.h>

#define BT_ZONES 16u /* of the code cache (zones.c) */
#define BT_ZONE_SIZE (16u * 1024 * 1024)
#define BT_ZONE_SIZE_TINY (128u * 1024) /* for tests */
#define BT_CACHE_RESERVE (64u * 1024)	/* room that must be left in a zone before a block is started */
#define BT_MAX_BLOCKS (1u << 19)
#define BT_ZONE_BLOCKS (BT_MAX_BLOCKS / BT_ZONES)
#define BT_ZONE_EXITS (BT_ZONE_BLOCKS * 4)
#define BT_ZONE_MAPS (BT_ZONE_BLOCKS * 16)
#define BT_ZONE_RELOCS (BT_ZONE_BLOCKS * 16)
#define BT_HASH_SIZE (1u << 18)
#define BT_HASH_FIRST (1u << 12) /* so large it is at first */
#define BT_MAX_INSNS 96
#define BT_JC_SIZE 8192u     /* entries of one jump cache */
#define BT_JC_MASK 0x7ffcull /* bits of the target that choose one: functions are aligned, returns are not */
#define BT_ITLB_SIZE 2048u
#define BT_CPAGES 65536u
#define BT_CPAGE_HASH 4096u
#define BT_ASPACES 8 /* at most; fewer with many vCPUs (engine.c) */
#define BT_MAX_VCPUS 64
#define BT_INVAL_MAX 64
#define BT_ORIGINS (1u << 17) /* chains of blocks that can be rebased */
#define BT_PENDING 32	      /* more than any access that stops the world makes; stores of one instruction that are remembered, by frame */
#define BT_SHARED 12	      /* look-ups that one block may share */
#define BT_SHARE_LINES 8      /* over how many 64-byte lines, at most */
#define BT_NO_GPR 0xff
#define BT_PIECE_SHIFT 20   /* a piece of guest RAM (ahead.c) */
#define BT_PIECE_IN_USE 32u /* pages of it that were entered in shadow tables */
#define BT_RAS_SIZE (64u * 1024)
#define BT_LIGHT_OPS 24 /* enum bt_light_op */
#define BT_STORES 16	/* so many stores to a frame that holds code are looked at one by one, then all of its code is dropped */
#define BT_PAUSES 128	/* some 5 us of waiting for another vCPU, then the host may run it */
#define BT_VPN_BITS 36
#define BT_PAGE_MASK ((1ull << (BT_VPN_BITS + 12)) - PAGE_SIZE)
#define BT_REGION_SHIFT 21 /* one page of a table maps 2 MiB */
#define BT_REGIONS (1ull << (48 - BT_REGION_SHIFT))

/* ThreadSanitizer's calls change vector registers and know nothing of addresses outside its layout (aspace.c). With it vector state is
 * saved at each event, and functions marked so have no such calls. */
#ifdef __SANITIZE_THREAD__
#define BT_ALL_HEAVY true
#define BT_UNCHECKED __attribute__((no_sanitize("thread"), noipa))
#define BT_UNCHECKED_INLINE static BT_UNCHECKED __attribute__((unused))
#else
#define BT_ALL_HEAVY false
#define BT_UNCHECKED
#define BT_UNCHECKED_INLINE static inline
#endif

/* What a block was translated for, besides its address. */
enum bt_mode {
	MODE_USER = 1u << 0,
	MODE_SSE = 1u << 1, /* SSE instructions may run natively */
	MODE_AVX = 1u << 2,
	MODE_AVX512 = 1u << 3,
	MODE_X87 = 1u << 4,
	MODE_DF = 1u << 5,
	MODE_CAREFUL = 1u << 6, /* no look-up is shared (tr_group.c): of blocks only, no vCPU is in it */
	MODE_COMPAT = 1u << 7,	/* 32-bit user code under a 64-bit kernel: interpreted when it does not run directly */
	MODE_VECTOR = MODE_SSE | MODE_AVX | MODE_AVX512 | MODE_X87,
	MODE_INTERP = 1u << 31 /* not translatable: 16- and 32-bit code, single step, code breakpoints, alignment checks */
};

/* Views of one address space: what user code, supervisor code, and supervisor code with EFLAGS.AC set may touch. */
enum bt_view { VIEW_USER, VIEW_SUPER, VIEW_SUPER_AC, VIEW_COUNT };

/* Bits 0-5: table page (view * 2 + write) is in use; from 8 on: it was, and keeps its memory. */
enum { META_TABLES = 0x3f, META_LARGE = 1u << 6, META_NONGLOBAL = 1u << 7, META_USED = 0xff, META_KEPT_SHIFT = 8 };

/* Code pages as they are mapped (itlb.c). */
struct bt_cpage {
	u64 vpn;
	u32 gpfn;
	u32 next;   /* of the chain by vpn, or of those that are free */
	u32 blocks; /* that know it by this number */
};

struct bt_itlb {
	u64 tag[BT_ITLB_SIZE]; /* vpn << 28 | frame */
	u32 nlist;	       /* one more than fits: too many to list */
	u32 list[1024];	       /* those that are known */
	u8 known[BT_CPAGES];   /* by number of the code page; read by translated code */
};

struct bt_aspace {
	u64 *table[VIEW_COUNT][2]; /* [view][write]: host address minus gva for each page, 0 = absent */
	u16 *meta;		   /* of each 2 MiB region */
	u32 *regions;		   /* those that are in use */
	u32 nregions, cap_regions;
	u32 huge[8]; /* gva >> 30 of those from which a 1 GiB page was entered */
	u32 nhuge;   /* 9: too many to remember */
	bool used;
	u16 pcid;
	u64 stamp;	     /* for eviction */
	u32 kept;	     /* pages of the tables, in the lower half, that were cleared and keep their memory */
	struct bt_itlb itlb; /* of user code */
};

/* An empty entry of the jump cache. Any tag is some address; this one is non-canonical, and the entry leads to EV_GOTO. Digits without a meaning:
 * programs have no such value by chance (c000000000000000h is -2.0). */
#define BT_JC_NOWHERE 0x5e1b9c7d3a2f4685ull

struct bt_jc_entry {
	u64 neg_gva; /* 0 - guest rip */
	u64 host;
};

struct bt_insn_map {
	u16 host; /* offset from the block's first byte */
	u16 guest;
	u8 flags;
	u8 r11; /* the guest register whose value host r11 holds here, or BT_NO_GPR */
};
enum {
	INSN_EXACT_FAULT = 1, /* a failed translation must be redone by the interpreter: masked vector accesses */
	INSN_CALL = 2,	      /* indirect call: EV_INDIRECT has yet to push */
	INSN_RET = 4,	      /* return: EV_INDIRECT has yet to pop */
	INSN_SHADOW = 8,      /* follows STI: no interrupt before it */
	INSN_CLOSED = 16,     /* relies on host registers: not to be entered from outside */
	INSN_END = 32,	      /* not an instruction: the block's own end */
	INSN_SHARES = 64,     /* look-ups made before are used here or behind: they must still hold */
	INSN_FIRST = 128      /* makes such a look-up: when it was carried out otherwise, there is none */
};

struct bt_exit {
	u32 patch;  /* cache offset of the rel32 */
	u32 stub;   /* cache offset of its stub */
	u32 next;   /* in the target's list of incoming exits (numbers from 1), 0 = end */
	u32 prev;   /* the same, 0 = first */
	u32 target; /* block it is linked to, 0 = none */
	u64 gva;
	bool checked; /* always by the target's checked entry */
	bool careful; /* to a block that shares no look-ups */
};

/* A place in a block's host code that depends on where the block lies, in the guest or in the cache (rebase.c). */
enum bt_reloc_kind {
	RELOC_EVENT,	   /* the 16 bytes of a jump to C: block number, site, distance */
	RELOC_EVENT_PLAIN, /* the same without a site */
	RELOC_EVENT_EXIT,  /* the same with the number of an exit */
	RELOC_EVENT_SELF,  /* the same with the block's number again */
	RELOC_SITE,	   /* 32 bits: the site */
	RELOC_OUT,	   /* 32 bits: the distance to something outside the block */
	RELOC_GVA,	   /* 64 bits: a guest address */
	RELOC_NEG_GVA,	   /* 64 bits: 0 minus a guest address */
	RELOC_CPAGE,	   /* 32 bits: counts on from the number of the code page */
};

struct bt_reloc {
	u16 at; /* from the block's start */
	u8 kind;
};

struct bt_block {
	u64 gva;
	u64 gpfn;
	u64 gpfn2; /* frame of the second page when the block is one instruction that crosses into it, else 0 */
	u32 mode;
	u32 start;   /* cache offset of its first byte: room for jumps, then: */
	u32 checked; /* cache offset of the entry that validates the code page's mapping */
	u32 entry;   /* cache offset of the first instruction */
	u32 end;
	u16 bytes; /* guest bytes */
	u16 ninsns;
	u32 map; /* index of the first bt_insn_map */
	u32 hash_next;
	u32 page_next;
	u32 crossing_next;
	u32 origin_next;
	u32 twin;	   /* the next in the ring of blocks that were made from one and the same, itself among them */
	u32 newest_twin;   /* of an origin: the one behind it was made or moved longest ago */
	u32 twins;	   /* of an origin: how many */
	u32 incoming;	   /* bt_exit list */
	u32 cpage, cpage2; /* of gpfn and gpfn2 */
	u32 first_exit, nexits;
	u32 relocs;	/* index of the first bt_reloc; blocks that were made from each other share them, and their map */
	u16 nrelocs;	/* 0: it stays where it is */
	u8 uses, lacks; /* of MODE_VECTOR: what its instructions rely on, and what others of them would have needed */
	bool origin;	/* in a chain of vcpu.origin: others are made from it */
	bool dead;
	bool listed; /* in the list of its frame */
};

/* How far a zone is in use: where the next of each goes. Numbers and offsets count through all zones. */
struct bt_used {
	u32 code, blocks, exits, maps, relocs;
};

/* One page frame of guest RAM, as all vCPUs of a VM share it. */
struct bt_frame {
	u64 lines;   /* 64-byte lines that some vCPU has translated, or had; set atomically, cleared with the world stopped */
	u64 writers; /* vCPUs through whose tables it is writable, one bit each; atomic */
	u16 stores;  /* looked at one by one */
};

/* The same frame in one vCPU's caches. Two writable gva pages are remembered so that write access can be taken away when the frame turns out to
 * hold code. */
struct bt_vframe {
	u32 blocks;	/* those that start here */
	u32 crossing;	/* those whose only instruction ends here */
	u64 lines;	/* 64-byte lines that hold translated bytes; read by others */
	u64 starts[2];	/* a bit for each hash of an offset at which a block may start */
	u64 wpage[2];	/* gva pages through which the frame is writable */
	u16 writers;	/* 0-2 known, 3: more */
	bool in_cells;	/* a cell of this vCPU may map it writable */
	u8 executed[2]; /* FRAME_: whether cells may execute it; [1]: as 32-bit code */
};
enum {
	FRAME_UNKNOWN,
	FRAME_CLEAN,
	FRAME_TSC,	/* when the guest's TSC is the host's */
	FRAME_WATCHED,	/* with breakpoints, should there be enough */
	FRAME_SENSITIVE /* never */
};

/* What --stats tells of a vCPU (stats.c); nothing but u64. */
struct bt_stats {
	u64 blocks, rebased, moved, guest_bytes, host_bytes, flushes, smc, misses, misses_failed, interp, indirect_misses, itlb_misses,
		dispatches, light, irqs, aspace_evictions, straddles, signals;
	u64 direct_runs;
	u64 too_large; /* blocks that could not be laid out: interpreted */
	u64 links, gotos, polls;
	u64 light_ops[BT_LIGHT_OPS];
	u64 blocks_dropped, zones_dropped;
	u64 tlb_flushes, tlb_page_flushes;
	u64 tables_given_back, trims;
};

struct bt_vm {
	struct guest_memory *gm;
	const struct x86_cpuid *cpuid;
	struct bt_frame *frames;
	u64 nframes;
	u8 *touched; /* pieces of guest RAM: how many entries in shadow tables were made for it, up to BT_PIECE_IN_USE; atomic */
	u32 max_vcpus;
	u32 zone_size;									    /* of the code caches */
	bool translate;									    /* false: interpret everything */
	enum bt_directly { DIRECTLY_NEVER, DIRECTLY_IF_IT_PAYS, DIRECTLY_ALWAYS } directly; /* when user code runs as it is (direct.c) */
	struct bt_vcpu *vcpus[64];
	struct bt_stats ended_stats; /* of vCPUs that are no more */
	u32 aspaces;		     /* of each vCPU */
	u64 page_mask;		     /* the bits of an address that choose the entry of a shadow table: 36, or 35 (shadow.c) */
	i64 tsc_offset;		     /* guest's from host's, before the guest writes its own; under the lock */

	/* Stopping the world (world.c) */
	pthread_mutex_t lock; /* vcpus[] too */
	pthread_cond_t quiet, go;
	u32 stops;    /* who has or wants the world stopped; changed under the lock, read without */
	bool stopped; /* by one of them, who owns every vCPU's structures */
};

/* RAM that was or is about to be stored to. */
struct bt_store {
	u64 gpfn, lines;
};

struct bt_vcpu;

/* A world that was stopped (world.c). */
struct bt_world {
	struct bt_vm *vm;
	struct bt_vcpu *self; /* the caller, when it was inside */
	bool alone;	      /* there is nobody to stop */
};

/* Words that nobody has a reason to write (bounds.c); none but in builds with bounds_checks. */
struct bt_canary {
	u64 word[GM_BOUNDS_CHECKS ? 8 : 0];
};

/* For the checks in translated code (bounds.c). */
struct bt_bounds {
	u64 ram, ram_size;
	u64 rax, rcx, flags;
	u64 address, size; /* under test */
};

struct bt_vcpu {
	struct x86_cpu cpu; /* first: gpr[] is at offset 0 */
	struct bt_canary behind_cpu;

	/* constants and pointers that translated code reads */
	u64 k_page;	/* pext mask of the page number; 0 after a kick: then every look-up misses */
	u64 k_align[4]; /* by log2 of the access size: shifted right, zero when misaligned */
	u64 k_not_if;	/* pext/pdep masks that clear a bit of rflags */
	u64 k_not_ac;
	u64 k_sysflags;
	u64 k_tsd;
	u64 k_fff, k_not_fff, k_1000, k_63, k_31;
	u64 k_beyond; /* bits that no address of a host's program has */
	/* [n]: shifted right by the number of a 64-byte line, 0 when 64 * (n + 1) bytes from there may leave the page */
	u64 k_line[BT_SHARE_LINES];
	u64 k_above[4]; /* [log]: masks of an address's bits that are zero when it lies in the first 2^log lines of its page */
	u64 jc_mask[2]; /* [user]; 0 makes every look-up miss */
	u64 go;		/* 0: leave at the next poll */
	u64 irq_idle;	/* 0: the interrupt controller has something */
	u64 *view[VIEW_COUNT][2];
	u64 *super[2]; /* the supervisor view in force (AC or not) */
	struct bt_itlb *itlb;
	u64 host_rsp;
	u64 ras;	/* host rsp of translated code: the return stack in force */
	u64 ras_top[2]; /* [user]: where it is empty; the word there leads to ras_bottom_off */
	u64 jump_to;
	u64 t1;	    /* scratch r10 at an event: the address */
	u64 t2;	    /* r11: the site */
	u64 t3;	    /* rcx: the block */
	u64 r11;    /* host r11 when a block is entered */
	u64 target; /* where an indirect jump wants to go; also spare storage inside one instruction */
	u64 spare;
	u64 shared[BT_SHARED]; /* deltas that the block has looked up and uses again (tr_group.c) */
	struct bt_canary behind_shared;
	struct bt_bounds bounds;
	u64 tsc_offset;
	struct bt_jc_entry jc[2][BT_JC_SIZE];
	struct bt_itlb kitlb; /* of supervisor code, in all address spaces: its pages are global */

	struct bt_canary behind_tables;

	/* the rest is C's */
	u32 mode;
	u32 jc_mode[2];
	u32 mode_misses;
	u32 pauses; /* PAUSE instructions */
	bool halted;
	bool fpu_saved;	     /* guest vector state is in cpu.fpu, not in the registers */
	bool running;	     /* inside the engine; atomic. False: others may stop the world without asking */
	u32 trim_above;	     /* bytes of code (trim.c) */
	bool patched;	     /* others have changed this vCPU's code meanwhile */
	bool interpret_next; /* bt_dispatch found nothing to run: the instruction at rip is the interpreter's */
	u64 paging_rules;
	struct engine_debug *debug; /* NULL: no debugger */
	bool debug_changed, stepped;
	struct bt_direct *direct;
	bool direct_on[2];     /* user code of the address space in force runs in a cell; [1]: 32-bit code */
	_Atomic pid_t in_cell; /* the cell that runs for this vCPU now, 0 = none */
	u64 crossings;	       /* from supervisor to user code */
	u64 guest_tsc_offset;  /* cpu.tsc_offset as the VM loop was last told of */
	u64 epoch;	       /* counts whatever made shadow entries go, for who keeps copies of them */
	bool kitlb_local;      /* kitlb holds a page that is not global */
	void *sigstack;
	stack_t old_stack;
	sigset_t old_mask;
	u64 xsave_mask;
	struct bt_vm *vm;
	u32 id;
	struct engine_machine machine;
	struct x86_env env;
	struct interp *interp;
	struct bt_aspace *as;
	struct bt_aspace *aspaces[BT_ASPACES];
	u64 stamp;

	u8 *cache_rw, *cache_rx;
	u32 cache_start;		       /* after the trampolines */
	struct bt_used zones[BT_ZONES], *used; /* used: where blocks are made */
	u32 random;			       /* chooses zones */
	u32 ahead_at;			       /* the code's end at which the host is asked for more memory (ahead.c) */
	u32 enter_off, leave_off, jc_miss_off;
	u32 ras_miss_off[2], ras_bottom_off[2];
	void *ras_memory;
	u64 ras_saved; /* user code's, while supervisor code runs */
	u32 ras_user;
	u32 ev_off[16];
	u32 bounds_off[2]; /* [write] */
	struct bt_decoder *decoder;
	struct bt_block *blocks;
	u32 nhashed;
	struct bt_cpage *cpages;
	u32 ncpages, free_cpage, nfree_cpages;
	u32 cpage_hash[BT_CPAGE_HASH];
	u32 *hash, hash_mask;
	struct bt_exit *exits;
	struct bt_insn_map *maps;
	struct bt_reloc *relocs;
	u32 *origin; /* chains of blocks that were translated and can be rebased, by a hash of frame and offset */

	_Atomic u32 kicked, nmi_req;
	struct bt_vframe *frames;
	struct bt_store pending[BT_PENDING];
	u32 npending; /* the instruction under way stores there from C */
	pthread_mutex_t inval_lock;
	_Atomic u32 ninval; /* what others have stored to, for this vCPU to drop */
	struct bt_store inval[BT_INVAL_MAX];
	struct bt_world exclusive;

	struct bt_stats st;
	struct err err;
	bool failed;
	struct bt_canary last;
};

/* Events: translated code calls C. Each handler returns the host address to continue at, or NULL to leave to vcpu_run. */
enum bt_event {
	EV_MISS_READ,
	EV_MISS_WRITE,
	EV_STRADDLE, /* or anything else that this one instruction must be interpreted for */
	EV_INTERP,   /* interpret the instruction at the site */
	EV_EXIT,     /* direct jump not linked yet: t2 = exit */
	EV_INDIRECT, /* indirect jump, call or return missed the jump cache: target */
	EV_GOTO,     /* dispatch at target */
	EV_ITLB,     /* a block's code page must be validated: t2 = block */
	EV_POLL,     /* t2 = site: look at interrupts before it */
	EV_LIGHT,    /* t2 = site: run a system instruction without saving vector state */
	EV_RET, /* a return did not go where its call came from: t1 = target, t2 = site and, above bit 32, what RET n added; it is carried out but for the jump */
	EV_SIGNAL,
	EV_SYSCALL, /* t1 = the next instruction: without C in most cases (crossing.c) */
	EV_SYSRET,  /* of 64 bits; t1 as for EV_LIGHT */
	EV_COUNT
};

/* ---- vcpu.c */
extern __thread struct bt_vcpu bt_self;
i32 bt_fs_offset(void);	   /* of bt_self from the thread pointer */
void bt_self_unused(void); /* this thread runs no vCPU: what the C library has written into its bt_self goes back */
int bt_vcpu_create(struct engine_vcpu **out, struct engine_vm *engine_vm, u32 id, const struct engine_machine *m, struct err *e);
void bt_vcpu_destroy(struct engine_vcpu *ev);
enum exit_kind bt_vcpu_run(struct engine_vcpu *ev, struct err *e);
struct x86_cpu *bt_vcpu_state(struct engine_vcpu *ev);
void bt_vcpu_sync_in(struct engine_vcpu *ev);
int bt_vcpu_sync_out(struct engine_vcpu *ev, struct err *e);
void bt_interpret_one(struct bt_vcpu *v); /* vector state saved */

/* ---- trim.c */
void bt_vcpu_idle(struct engine_vcpu *ev);

/* ---- requests.c */
void bt_vcpu_kick(struct engine_vcpu *ev);
void bt_vcpu_irq(struct engine_vcpu *ev);
void bt_vcpu_nmi(struct engine_vcpu *ev);
void bt_ram_written(struct engine_vm *engine_vm, gpa_t gpa, u64 len);
void bt_take_requests(struct bt_vcpu *v);
void bt_nudge(struct bt_vcpu *v); /* translated code goes to C at its next look-up or poll */

/* ---- world.c */
/* Enter waits while the world is stopped; between enter and leave nobody else touches the vCPU's structures, except while it stops the world
 * itself. */
void bt_enter(struct bt_vcpu *v);
void bt_leave(struct bt_vcpu *v);
void bt_let_others(struct bt_vcpu *v); /* enter again when somebody wants the world stopped */

/* Every other vCPU of the VM is outside the engine or waits in it, and its structures belong to the caller until bt_world_start. The caller is one of
 * the vCPUs or any other thread; it holds no lock that a device callback may wait for. A vCPU that was inside may find that others had the world
 * first, before it or behind it: blocks may be dead, write entries gone (epoch), lines of frames unmarked. */
struct bt_world bt_world_stop(struct bt_vm *vm);
void bt_world_start(const struct bt_world *w);

/* RAM was or will be stored to by this vCPU, or was by a device: forget what was translated from those lines. The first drops this vCPU's blocks and
 * has the others drop theirs before they can take notice of what this one does next; the second drops all at once. */
void bt_code_drop(struct bt_vcpu *v, u64 gpfn, u64 lines);
void bt_code_write(struct bt_vm *vm, gpa_t gpa, u32 len);
void bt_drop_asked(struct bt_vcpu *v); /* what others have asked for */
bool bt_frame_has_code(const struct bt_vm *vm, gpa_t gpa);
bool bt_may_write(struct bt_vcpu *v, u64 gpfn); /* a write entry for the frame may be made, before the next bt_world_stop */
void bt_protect(struct bt_vcpu *v, u64 gpfn);	/* the frame's lines are marked: nobody may write to it without being seen */
/* C code is about to store to RAM on this vCPU; bt_stores_done comes when the instruction is complete and before anything else runs. */
void bt_will_store(struct bt_vcpu *v, gpa_t gpa, u32 len);
void bt_settle_stores(struct bt_vcpu *v);
static inline void bt_stores_done(struct bt_vcpu *v)
{
	if (v->npending)
		bt_settle_stores(v);
}

/* ---- env.c */
extern const struct x86_env bt_env; /* opaque is the bt_vcpu, to be filled in */
void bt_mode_changed(struct bt_vcpu *v);
void bt_pause(struct bt_vcpu *v); /* PAUSE: now and then another thread's turn */

/* ---- direct.c: user code that runs as it is */
void bt_direct_init(struct bt_vcpu *v); /* without memory for it there is no direct execution */
void bt_direct_fini(struct bt_vcpu *v);
void bt_direct_give_back(struct bt_vcpu *v); /* all cells; who computes gets one again */
void bt_direct_switch(struct bt_vcpu *v);    /* CR3 was loaded */
void bt_direct_sample(struct bt_vcpu *v);    /* an interrupt finds user code running */
void bt_direct_compat(struct bt_vcpu *v);    /* 32-bit user code is about to be interpreted */
void bt_direct_run(struct bt_vcpu *v);	     /* bt_direct_fits: until something has to be done outside */
bool bt_direct_may(const struct bt_vcpu *v);
void bt_direct_flush(struct bt_vcpu *v, int pcid /* -1: all */);
void bt_direct_flush_page(struct bt_vcpu *v, gva_t gva, int pcid /* -1: all */);
void bt_direct_rest(struct bt_vcpu *v);		       /* the vCPU's thread leaves the engine */
void bt_direct_unwrite(struct bt_vcpu *v, u64 gpfn);   /* no cell of this vCPU may write to the frame */
void bt_direct_unexecute(struct bt_vcpu *v, u64 gpfn); /* nor execute it */
static inline bool bt_direct_fits(const struct bt_vcpu *v)
{
	return v->direct_on[(v->mode & MODE_COMPAT) != 0] && (v->mode & (MODE_USER | MODE_COMPAT)) && bt_direct_may(v);
}

/* ---- debug.c: what a debugger has armed */
void bt_vcpu_debug(struct engine_vcpu *ev, struct engine_debug *d);
void bt_debug_apply(struct bt_vcpu *v); /* after a change, before anything runs */
bool bt_debug_due(struct bt_vcpu *v);	/* leave before the next instruction */
/* Is there a breakpoint on the instruction at this linear address? */
bool bt_debug_breaks(const struct bt_vcpu *v, gva_t gva);
bool bt_debug_at_break(const struct bt_vcpu *v); /* at cpu.rip */
/* May a page be accessed by translated code, as far as watchpoints go? */
bool bt_debug_hides_page(const struct bt_vcpu *v, gva_t gva, bool write);
static inline bool bt_debug_steps(const struct bt_vcpu *v)
{
	return unlikely(v->debug != NULL) && v->debug->step;
}

/* ---- bounds.c: nothing of it is called without bounds_checks */
struct emit;
void bt_bounds_init(struct bt_vcpu *v);
void bt_bounds_emit(struct bt_vcpu *v, struct emit *e); /* the trampolines of the checks in translated code */
void bt_canaries_check(const struct bt_vcpu *v);	/* ends the process when one is dead */
/* An access of translated code, whose host address follows, has left RAM. */
_Noreturn void bt_outside_translated(struct bt_vcpu *v, const u8 *code, u64 address, u64 size, const char *what);
_Noreturn void bt_outside_c(const struct bt_vcpu *v, const u8 *host, u64 size, bool write);
static inline void bt_check_ram(const struct bt_vcpu *v, const u8 *host, u64 size, bool write)
{
	if (GM_BOUNDS_CHECKS && unlikely(!gm_holds(v->vm->gm, host, size)))
		bt_outside_c(v, host, size, write);
}

/* ---- stats.c */
void bt_stats_keep(const struct bt_vcpu *v); /* its counters outlive it */
u32 bt_stats(struct engine_vm *engine_vm, struct engine_stats_item *items, u32 max);
void bt_memory(struct engine_vm *engine_vm, engine_memory_fn tell, void *opaque);

/* ---- aspace.c */
/* Reserved, zeroed, committed when touched, between two inaccessible pages. NULL: e tells that `what` has no room. */
void *bt_sparse(u64 bytes, const char *what, struct err *e);
void bt_sparse_free(void *p, u64 bytes); /* NULL is fine */
/* The first `regions` of the addresses, whose entries have been cleared: the host has the memory back. */
void bt_aspace_give_back(const struct bt_vm *vm, struct bt_aspace *as, u64 regions);
void bt_aspace_memory(const struct bt_vcpu *v, engine_memory_fn tell, void *opaque);
bool bt_aspace_init(struct bt_vcpu *v, struct err *e);
void bt_aspace_fini(struct bt_vcpu *v);

static inline u64 bt_host_tsc(void)
{
	u32 lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

static inline u64 bt_host_xcr0(void)
{
	u32 lo, hi;
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (u64)hi << 32 | lo;
}

/* For light code, which has no memset. */
static inline void bt_zero(void *p, u64 bytes)
{
	__asm__ volatile("rep stosb" : "+D"(p), "+c"(bytes) : "a"(0) : "memory");
}

/* The 64-byte lines of a page that [start, end) touches, one bit each. */
static inline u64 bt_lines(u32 start, u32 end)
{
	u64 mask = 0;
	for (u32 l = start / 64; l <= (end - 1) / 64 && l < 64; l++)
		mask |= 1ull << l;
	return mask;
}

/* ---- light code: general registers only (events.c, blocks.c, itlb.c, shadow.c) */
/* Enter the page of `gva` in the shadow tables. 1: entered; 0: fault pending; -1: must be interpreted (MMIO, ROM, a page that holds code). */
int bt_fill(struct bt_vcpu *v, gva_t gva, bool write);
void *bt_event_miss_read(struct bt_vcpu *v, u32 site);
void *bt_event_miss_write(struct bt_vcpu *v, u32 site);
void *bt_event_straddle(struct bt_vcpu *v, u32 site);
void *bt_event_interp(struct bt_vcpu *v, u32 site);
void *bt_event_exit(struct bt_vcpu *v, u32 exit);
void *bt_event_indirect(struct bt_vcpu *v, u32 site);
void *bt_event_ret(struct bt_vcpu *v, u32 site);
void *bt_event_goto(struct bt_vcpu *v, u32 unused);
void *bt_event_itlb(struct bt_vcpu *v, u32 block);
void *bt_event_poll(struct bt_vcpu *v, u32 site);
void *bt_event_light(struct bt_vcpu *v, u32 site);
void *bt_event_signal(struct bt_vcpu *v, u32 site);
void *bt_dispatch(struct bt_vcpu *v); /* go on at cpu.rip */
void bt_jc_clear(struct bt_vcpu *v);
void bt_block_kill(struct bt_vcpu *v, u32 bi);
void bt_update_mode(struct bt_vcpu *v);

void bt_shadow_note_fetch(struct bt_vcpu *v, gva_t gva, const struct x86_xlat *x);
void bt_shadow_fill(struct bt_vcpu *v, gva_t gva, const struct x86_xlat *x, u8 *hva_page, bool write_ok);
static inline u64 bt_entry_index(const struct bt_vm *vm, gva_t gva)
{
	return (gva & vm->page_mask) >> PAGE_SHIFT;
}
/* An entry of a shadow table */
BT_UNCHECKED_INLINE u64 bt_entry_get(const u64 *entry)
{
	return *entry;
}
BT_UNCHECKED_INLINE void bt_entry_put(u64 *entry, u64 delta)
{
	*entry = delta;
}
/* NULL: there is none, or it is that of the page in the other half of the addresses. gva is canonical. */
static inline u8 *bt_entry_address(gva_t gva, u64 delta)
{
	return delta && (gva + delta) >> 47 == 0 ? (u8 *)(gva + delta) : NULL;
}
u8 *bt_shadow_cached(void *opaque, gva_t gva, u32 acc); /* x86_env's cached */
void bt_shadow_switch(struct bt_vcpu *v);		/* CR3/PCID changed */
void bt_shadow_views(struct bt_vcpu *v);		/* AC, CR4.SMAP changed */
void bt_shadow_flush_page(struct bt_vcpu *v, gva_t gva, int pcid /* -1: current and global */);
void bt_shadow_flush(struct bt_vcpu *v, int pcid /* -1: all */, bool global);
void bt_shadow_unwrite(struct bt_vcpu *v, u64 gpfn);
void bt_shadow_give_back(struct bt_vcpu *v); /* all entries, and their memory */
u32 bt_shadow_kept(const struct bt_vcpu *v); /* pages that hold nothing and keep their memory */

bool bt_itlb_can_hold(gva_t gva, u64 gpfn); /* no tag could tell page 0 in frame 0 from an empty entry */
bool bt_itlb_find(struct bt_vcpu *v, gva_t gva, u64 *gpfn);
void bt_itlb_enter(struct bt_vcpu *v, gva_t gva, u64 gpfn);
void bt_itlb_drop(struct bt_vcpu *v, struct bt_itlb *t, gva_t gva);
void bt_itlb_clear(struct bt_vcpu *v, struct bt_itlb *t);
void bt_itlb_know(struct bt_vcpu *v, const struct bt_block *b);
u32 bt_cpage(struct bt_vcpu *v, gva_t gva, u64 gpfn);	    /* for one block more; there must be room */
void bt_cpage_put(struct bt_vcpu *v, u32 cpage);	    /* for one less */
bool bt_cpage_is_known(const struct bt_vcpu *v, u32 cpage); /* to any address space as user code */
void bt_cpages_reset(struct bt_vcpu *v);

/* Calls nested deeper than the return stack push into the guard page below it. */
static inline bool bt_ras_overflow(const struct bt_vcpu *v, u64 address)
{
	u64 top = v->ras_top[v->ras_user];
	return top && top - address > BT_RAS_SIZE - 64 && top - address <= BT_RAS_SIZE + PAGE_SIZE;
}

static inline u32 bt_jc_index(gva_t gva)
{
	return (u32)((gva & BT_JC_MASK) >> 2);
}

/* Where the chain of such blocks begins. */
static inline u32 *bt_chain(struct bt_vcpu *v, gva_t gva, u64 gpfn, u32 mode)
{
	u64 h = (gva ^ gpfn * 0x9e3779b97f4a7c15ull ^ mode) * 0x9e3779b97f4a7c15ull;
	return &v->hash[(u32)(h >> 40) & v->hash_mask];
}

static inline u32 bt_start_hash(gva_t gva)
{
	return (u32)PAGE_OFFSET(gva) * 0x9e3779b1u >> 25; /* 7 bits */
}

struct bt_block *bt_block_find(struct bt_vcpu *v, gva_t gva, u64 gpfn, u32 mode);
struct bt_block *bt_block_at(struct bt_vcpu *v, u32 cache_off); /* the block whose code holds that offset */
const struct bt_insn_map *bt_insn_at(struct bt_vcpu *v, const struct bt_block *b, u32 cache_off);
void bt_block_link(struct bt_vcpu *v, u32 exit, struct bt_block *to, bool checked);
void bt_exit_unlink(struct bt_vcpu *v, u32 exit);
void bt_exit_reset(struct bt_vcpu *v, struct bt_exit *x); /* to its stub; in no list */
void bt_block_enter(struct bt_vcpu *v, u32 bi);		  /* can be found from now on */
void bt_block_publish(struct bt_vcpu *v, u32 bi);	  /* the same of a new one, which is dropped with its frame's code */
void bt_block_retire(struct bt_vcpu *v, u32 bi);	  /* the opposite of entering: nothing leads to it any more */
void bt_blocks_make_room(struct bt_vcpu *v);		  /* for finding one more */
/* The jump caches change over from code of one mode to that of another (user bit and vector bits): what is as good for the other becomes it. */
void bt_blocks_change_mode(struct bt_vcpu *v, u32 from, u32 to);
u64 bt_kill_lines(struct bt_vcpu *v, u64 gpfn, u64 lines); /* its blocks on those lines; returns the lines that still hold some */
/* Its number and those of its exits become another's. First all that go are erased, then they are taken from the lists of their frames. */
void bt_block_erase(struct bt_vcpu *v, u32 bi);
void bt_block_unlist(struct bt_vcpu *v, u32 bi);

/* ---- rebase.c: the same code at another address */
void bt_rebase_remember(struct bt_vcpu *v, u32 bi); /* this block may be needed elsewhere */
void bt_rebase_drop(struct bt_vcpu *v, u32 bi);	    /* it is dead */
void bt_rebase_leave(struct bt_vcpu *v, u32 bi);    /* its number becomes another's */
void bt_rebase_forget(struct bt_vcpu *v);	    /* all blocks are gone */
/* A block for gva, made from one of the same code somewhere else; NULL when there is none. */
struct bt_block *bt_rebase(struct bt_vcpu *v, gva_t gva, u64 gpfn, u32 mode);
static inline bool bt_rebases(gva_t gva, u32 mode)
{
	/* Lower addresses are encoded in fewer bytes (also next to such a block), the kernel's stay. */
	return (mode & MODE_USER) && gva >= 1ull << 33 && gva < 1ull << 47;
}

/* ---- zones.c */
static inline u32 bt_cache_size(const struct bt_vm *vm)
{
	return BT_ZONES * vm->zone_size;
}
static inline u32 bt_zone_end(const struct bt_vm *vm, u32 cache_off) /* of the zone that this lies in */
{
	return cache_off - cache_off % vm->zone_size + vm->zone_size;
}
/* The block whose number comes next, dead ones too; 0: there is none. From 0 on it leads through all. */
static inline u32 bt_block_next(const struct bt_vcpu *v, u32 bi)
{
	for (bi++; bi < BT_MAX_BLOCKS; bi = (bi / BT_ZONE_BLOCKS + 1) * BT_ZONE_BLOCKS)
		if (bi < v->zones[bi / BT_ZONE_BLOCKS].blocks)
			return bi;
	return 0;
}
void bt_zones_init(struct bt_vcpu *v);
u32 bt_cache_used(const struct bt_vcpu *v); /* bytes of code */
bool bt_cache_has_room(const struct bt_vcpu *v);
void bt_cache_make_room(struct bt_vcpu *v); /* for one block: others may go */
void bt_flush_code(struct bt_vcpu *v);

/* In builds with bounds_checks: nothing leads to a block that is no more (zone_check.c). */
void bt_zones_check(struct bt_vcpu *v);

/* ---- heavy code: guest vector state must be saved first */
/* In builds with bounds_checks: `copy`, not published yet, is what a translation would have become. */
void bt_rebase_check(struct bt_vcpu *v, struct bt_block *copy);
/* For people, and for tools/perf-map.py. */
void bt_trace_block(struct bt_vcpu *v, const struct bt_block *b);
void bt_heavy(struct bt_vcpu *v); /* save it when it is still in the registers */
void bt_light(struct bt_vcpu *v); /* load it again before translated code runs */
/* gpfn2: the frame of the page behind, 0 when there is none to be had; used when the instruction at gva crosses into it. */
struct bt_block *bt_translate(struct bt_vcpu *v, gva_t gva, u64 gpfn, u64 gpfn2, u32 mode);
bool bt_cache_init(struct bt_vcpu *v, struct err *e);
void bt_cache_fini(struct bt_vcpu *v);
void bt_cache_give_back(struct bt_vcpu *v); /* after bt_flush_code */

/* ahead.c */
void bt_ahead_code(struct bt_vcpu *v);
void bt_ahead_forget(struct bt_vcpu *v);
void bt_ahead_piece(struct bt_vm *vm, u64 piece);
void bt_cache_memory(const struct bt_vcpu *v, engine_memory_fn tell, void *opaque);
void bt_signals_install(void);
bool bt_ras_init(struct bt_vcpu *v, struct err *e);
void bt_ras_fini(struct bt_vcpu *v);
void bt_ras_empty(struct bt_vcpu *v);
bool bt_thread_init(struct bt_vcpu *v);
void bt_thread_fini(struct bt_vcpu *v);
