// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// One program a tracepoint of Bitcoin Core: copies the arguments into a record of one ring buffer, and keeps the books.
//
// All tracepoints share the ring, so that its order is the order in which things happened. Nothing is kept in per-CPU scratch
// memory: programs on uprobes run preemptible, and another thread of the node may hit a probe on the same CPU meanwhile.
//
// The layout of records and maps is read by ../record.rs and ../kernel.rs; change them together.
// Made into an object by `cargo xtask regenerate bpf`.

#include <linux/types.h>
#include <linux/bpf.h>
#if defined(__TARGET_ARCH_arm64)
// As in arch/arm64/include/uapi/asm/ptrace.h, so that no headers of another architecture are needed.
struct user_pt_regs {
	__u64 regs[31];
	__u64 sp;
	__u64 pc;
	__u64 pstate;
};
// No argument is in pc or pstate, and the stack of a program is short.
#define REGISTERS 32
#else
#include <linux/ptrace.h>
#define REGISTERS (sizeof(struct pt_regs) / 8)
#endif
#include <stdbool.h>
#include <stddef.h>

#include "bpf_helpers.h"
#include "usdt.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

// Kinds, as in crates/node/src/hit.rs.
enum kind {
	INBOUND_MESSAGE = 1,
	OUTBOUND_MESSAGE = 2,
	INBOUND_CONNECTION = 3,
	OUTBOUND_CONNECTION = 4,
	CLOSED_CONNECTION = 5,
	EVICTED_INBOUND_CONNECTION = 6,
	MISBEHAVING_CONNECTION = 7,
	MEMPOOL_ADDED = 8,
	MEMPOOL_REMOVED = 9,
	MEMPOOL_REPLACED = 10,
	MEMPOOL_REJECTED = 11,
	BLOCK_CONNECTED = 12,
	UTXOCACHE_FLUSH = 13,
	ADDRMAN_ATTEMPT_ADD = 14,
	ADDRMAN_MOVE_TO_GOOD = 15,
	KINDS = 16,
};

// What could not be read of the node's memory.
enum flag {
	PAYLOAD_UNREAD = 1,
	TEXT_UNREAD = 2,
	// A text fills its field, so it may go on.
	TEXT_CUT = 4,
	ARGUMENT_UNREAD = 8,
};

#define MAX_PAYLOAD (4 << 20)
// Core cuts message types at 12 bytes (protocol.h, MESSAGE_TYPE_SIZE); connection types are at most 19.
#define MSG_TYPE 16
#define CONN_TYPE 24
// A Tor v3 address with port takes 68 bytes, an IPv6 one 47; a peer given by host name can take more.
#define ADDR 96
#define REASON 256
#define SHORT_REASON 32

struct header {
	__u64 time; // ns, CLOCK_MONOTONIC
	__u64 hit;  // hits of this tracepoint by this process before this one, dropped ones too
	__u32 tgid;
	__u8 kind;
	__u8 flags;
	__u16 pad;
};

struct message {
	struct header h;
	__s64 peer;
	__u64 size;
	__u32 captured;
	__u32 pad;
	char msg_type[MSG_TYPE];
	char conn_type[CONN_TYPE];
	char addr[ADDR];
	__u8 payload[];
};

struct connection {
	struct header h;
	__s64 peer;
	__u64 extra; // existing connections, or UNIX s when established
	__u32 network;
	__u32 pad;
	char conn_type[CONN_TYPE];
	char addr[ADDR];
};

struct misbehaving {
	struct header h;
	__s64 peer;
	char reason[REASON];
};

struct mempool_added {
	struct header h;
	__u8 txid[32];
	__s64 fee;
	__s32 vsize;
	__u32 pad;
};

struct mempool_removed {
	struct header h;
	__u8 txid[32];
	__s64 fee;
	__u64 entry_time;
	__s32 vsize;
	__u32 pad;
	char reason[SHORT_REASON];
};

struct mempool_replaced {
	struct header h;
	__u8 replaced[32];
	__u8 replacement[32];
	__s64 replaced_fee;
	__u64 replaced_entry_time;
	__s64 replacement_fee;
	__s32 replaced_vsize;
	__s32 replacement_vsize;
	__u8 by_transaction;
	__u8 pad[7];
};

struct mempool_rejected {
	struct header h;
	__u8 txid[32];
	char reason[REASON];
};

struct block_connected {
	struct header h;
	__u8 hash[32];
	__u64 transactions;
	__u64 sigops;
	__u64 duration;
	__s32 height;
	__s32 inputs;
};

struct utxocache_flush {
	struct header h;
	__s64 duration_us;
	__u64 coins;
	__u64 bytes;
	__u32 mode;
	__u8 for_prune;
	__u8 pad[3];
};

struct addrman {
	struct header h;
	__s32 bucket;
	__s32 position;
	__u32 addr_as;
	__u32 source_as;
	__u8 inserted;
	__u8 pad[7];
	char addr[ADDR];
	char source[ADDR];
};

// Books of one process, by kind.
struct book {
	__u32 tgid; // 0: nobody's
	__u32 pad;
	__u64 hits[KINDS];
	__u64 dropped[KINDS];
	__u64 unread[KINDS];
};

// Set by the loader before loading.
const volatile struct {
	// Payload bytes captured of a message, at most.
	__u32 max_payload;
	// 1 when `type_limits` has entries.
	__u32 has_type_limits;
} config = { .max_payload = MAX_PAYLOAD };

// Books of processes that found no place in `books`.
struct book overflow;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} events SEC(".maps");

// Processes that can have books, a power of two.
#define BOOKS 256
// Where a process looks for its books: so many places from its number on.
#define PLACES 4

// An array and no hash map, because each hit asks it: finding a book in a hash map costs the node 40 ns more.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BOOKS);
	__type(key, __u32);
	__type(value, struct book);
} books SEC(".maps");

// Payload bytes captured, by message type.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, char[MSG_TYPE]);
	__type(value, __u32);
} type_limits SEC(".maps");

// Bytes read around an argument that is in memory. Arguments are often neighbours on the stack, and reading these bytes costs
// no more than reading 8.
#define NEAR 128

// A hit on its way: where its arguments are, and its place in the books.
struct hit {
	struct book *book;
	const struct __bpf_usdt_spec *spec;
	__u64 number;
	__u32 tgid;
	__u32 kind;
	__u32 flags;
	// Memory of the node that was read for an argument and may hold the next ones too, and where it begins (0: none).
	__u64 near_from;
	__u64 near[NEAR / 8];
	__u64 registers[REGISTERS];
};

static __always_inline struct book *book_of(__u32 tgid)
{
#pragma unroll
	for (__u32 i = 0; i < PLACES; i++) {
		__u32 place = (tgid + i) & (BOOKS - 1);
		struct book *book = bpf_map_lookup_elem(&books, &place);
		if (!book)
			break;
		if (book->tgid == tgid)
			return book;
		if (book->tgid == 0) {
			// Another process, or another thread of this one, may be faster.
			__u32 owner = __sync_val_compare_and_swap(&book->tgid, 0, tgid);
			if (owner == 0 || owner == tgid)
				return book;
		}
	}
	return &overflow;
}

// Counts the hit, and finds its arguments. libbpf's own bpf_usdt_arg looks up the probe and reads a register anew for every
// argument, which is a third of what a message costs; here it is once for all.
static __always_inline bool begin(struct hit *hit, struct pt_regs *ctx, const enum kind kind)
{
	hit->tgid = bpf_get_current_pid_tgid() >> 32;
	hit->kind = kind;
	hit->flags = 0;
	hit->near_from = 0;
	__builtin_memset(hit->near, 0, NEAR);
	hit->book = book_of(hit->tgid);
	hit->number = __sync_fetch_and_add(&hit->book->hits[kind], 1);
	int id = __bpf_usdt_spec_id(ctx);
	hit->spec = bpf_map_lookup_elem(&__bpf_usdt_specs, &id);
	if (!hit->spec) {
		__sync_fetch_and_add(&hit->book->dropped[kind], 1);
		return false;
	}
	// The verifier wants constant offsets into the context; which registers are needed is known only now.
	const __u64 *registers = (const __u64 *)ctx;
#pragma unroll
	for (int i = 0; i < REGISTERS; i++)
		hit->registers[i] = registers[i];
	return true;
}

static __always_inline void drop(const struct hit *hit)
{
	__sync_fetch_and_add(&hit->book->dropped[hit->kind & (KINDS - 1)], 1);
}

static __always_inline void head(struct header *h, const struct hit *hit)
{
	h->time = bpf_ktime_get_ns();
	h->hit = hit->number;
	h->tgid = hit->tgid;
	h->kind = hit->kind;
	h->flags = 0;
	h->pad = 0;
}

static __always_inline void done(void *record, const struct hit *hit)
{
	struct header *h = record;
	if (hit->flags) {
		h->flags = hit->flags;
		__sync_fetch_and_add(&hit->book->unread[hit->kind & (KINDS - 1)], 1);
	}
	bpf_ringbuf_submit(record, 0);
}

static __always_inline __u64 reg(const struct hit *hit, __u32 offset)
{
	offset /= 8;
	return offset < REGISTERS ? hit->registers[offset] : 0;
}

// Reads 8 bytes of the node's memory.
static __always_inline bool read(struct hit *hit, __u64 from, __u64 *value)
{
	if (from - hit->near_from > NEAR - 8) {
		hit->near_from = (from & ~7ull) - NEAR / 2;
		if (bpf_probe_read_user(hit->near, NEAR, (void *)hit->near_from) != 0)
			// At the edge of what is mapped.
			hit->near_from = 0;
	}
	__u64 at = from - hit->near_from;
	if (at > NEAR - 8 || at & 7)
		return bpf_probe_read_user(value, sizeof(*value), (void *)from) == 0;
	*value = hit->near[(at / 8) & (NEAR / 8 - 1)];
	return true;
}

// An argument, as its form in the ELF note says: a constant, a register, or memory that one or two registers point to.
static __always_inline __u64 find_arg(struct hit *hit, __u32 n)
{
	if (n >= BPF_USDT_MAX_ARG_CNT || n >= hit->spec->arg_cnt)
		return 0;
	const struct __bpf_usdt_arg_spec *spec = &hit->spec->args[n];
	__u64 value = spec->val_off;
	if (spec->arg_type == BPF_USDT_ARG_REG) {
		value = reg(hit, spec->reg_off);
	} else if (spec->arg_type != BPF_USDT_ARG_CONST) {
		value += reg(hit, spec->reg_off);
		if (spec->arg_type == BPF_USDT_ARG_SIB)
			value += reg(hit, spec->idx_reg_off) << spec->scale_bitshift;
		if (!read(hit, value, &value)) {
			hit->flags |= ARGUMENT_UNREAD;
			return 0;
		}
	}
	value <<= spec->arg_bitshift;
	return spec->arg_signed ? (__u64)((__s64)value >> spec->arg_bitshift) : value >> spec->arg_bitshift;
}

// The same as a function, for all tracepoints but those of messages, which are hit most: inlined everywhere, the object would be
// three times as large.
static __noinline __u64 arg(struct hit *hit, __u32 n)
{
	return find_arg(hit, n);
}

static __always_inline void text(struct hit *hit, char *to, __u32 size, __u64 from)
{
	long length = bpf_probe_read_user_str(to, size, (void *)from);
	if (length < 0) {
		to[0] = 0;
		hit->flags |= TEXT_UNREAD;
	} else if (length == size) {
		hit->flags |= TEXT_CUT;
	}
}

static __always_inline void hash(struct hit *hit, __u8 *to, __u64 from)
{
	if (bpf_probe_read_user(to, 32, (void *)from) == 0)
		return;
	__builtin_memset(to, 0, 32);
	hit->flags |= PAYLOAD_UNREAD;
}

static __always_inline int message(struct pt_regs *ctx, const enum kind kind)
{
	struct hit hit;
	if (!begin(&hit, ctx, kind))
		return 0;
	// Here and not where they are used: the verifier walks what follows once for every size of a record, and finding an argument has
	// a dozen ways.
	__u64 size = find_arg(&hit, 4);
	__u64 peer = find_arg(&hit, 0);
	__u64 addr = find_arg(&hit, 1);
	__u64 conn_type = find_arg(&hit, 2);
	__u64 msg_type = find_arg(&hit, 3);
	__u64 payload = find_arg(&hit, 5);
	__u64 want = size;
	if (want > config.max_payload)
		want = config.max_payload;
	if (config.has_type_limits) {
		char type[MSG_TYPE] = {};
		bpf_probe_read_user_str(type, sizeof(type), (void *)msg_type);
		__u32 *limit = bpf_map_lookup_elem(&type_limits, type);
		if (limit && want > *limit)
			want = *limit;
	}

	// The size of a reservation must be a constant on every path.
	__u32 capacity;
	if (want <= 64) capacity = 64;
	else if (want <= 128) capacity = 128;
	else if (want <= 256) capacity = 256;
	else if (want <= 512) capacity = 512;
	else if (want <= 1 << 10) capacity = 1 << 10;
	else if (want <= 2 << 10) capacity = 2 << 10;
	else if (want <= 4 << 10) capacity = 4 << 10;
	else if (want <= 8 << 10) capacity = 8 << 10;
	else if (want <= 16 << 10) capacity = 16 << 10;
	else if (want <= 32 << 10) capacity = 32 << 10;
	else if (want <= 64 << 10) capacity = 64 << 10;
	else if (want <= 128 << 10) capacity = 128 << 10;
	else if (want <= 256 << 10) capacity = 256 << 10;
	else if (want <= 512 << 10) capacity = 512 << 10;
	else if (want <= 1 << 20) capacity = 1 << 20;
	else if (want <= 2 << 20) capacity = 2 << 20;
	else if (want <= MAX_PAYLOAD) capacity = MAX_PAYLOAD;
	else {
		want = MAX_PAYLOAD;
		capacity = MAX_PAYLOAD;
	}

	struct message *m = bpf_ringbuf_reserve(&events, sizeof(*m) + capacity, 0);
	if (!m) {
		drop(&hit);
		return 0;
	}
	head(&m->h, &hit);
	m->peer = peer;
	m->size = size;
	m->captured = want;
	m->pad = 0;
	text(&hit, m->addr, sizeof(m->addr), addr);
	text(&hit, m->conn_type, sizeof(m->conn_type), conn_type);
	text(&hit, m->msg_type, sizeof(m->msg_type), msg_type);
	if (want && bpf_probe_read_user(m->payload, want, (void *)payload) != 0) {
		m->captured = 0;
		hit.flags |= PAYLOAD_UNREAD;
	}
	done(m, &hit);
	return 0;
}

SEC("usdt")
int inbound_message(struct pt_regs *ctx)
{
	return message(ctx, INBOUND_MESSAGE);
}

SEC("usdt")
int outbound_message(struct pt_regs *ctx)
{
	return message(ctx, OUTBOUND_MESSAGE);
}

#define RESERVE(type, name)                                                    \
	struct type *name = bpf_ringbuf_reserve(&events, sizeof(*name), 0);    \
	if (!name) {                                                           \
		drop(&hit);                                                    \
		return 0;                                                      \
	}                                                                      \
	head(&name->h, &hit)

static __always_inline int connection(struct pt_regs *ctx, const enum kind kind)
{
	struct hit hit;
	if (!begin(&hit, ctx, kind))
		return 0;
	RESERVE(connection, c);
	c->peer = arg(&hit, 0);
	text(&hit, c->addr, sizeof(c->addr), arg(&hit, 1));
	text(&hit, c->conn_type, sizeof(c->conn_type), arg(&hit, 2));
	c->network = arg(&hit, 3);
	c->extra = arg(&hit, 4);
	c->pad = 0;
	done(c, &hit);
	return 0;
}

SEC("usdt")
int inbound_connection(struct pt_regs *ctx)
{
	return connection(ctx, INBOUND_CONNECTION);
}

SEC("usdt")
int outbound_connection(struct pt_regs *ctx)
{
	return connection(ctx, OUTBOUND_CONNECTION);
}

SEC("usdt")
int closed_connection(struct pt_regs *ctx)
{
	return connection(ctx, CLOSED_CONNECTION);
}

SEC("usdt")
int evicted_inbound_connection(struct pt_regs *ctx)
{
	return connection(ctx, EVICTED_INBOUND_CONNECTION);
}

SEC("usdt")
int misbehaving_connection(struct pt_regs *ctx)
{
	struct hit hit;
	if (!begin(&hit, ctx, MISBEHAVING_CONNECTION))
		return 0;
	RESERVE(misbehaving, m);
	m->peer = arg(&hit, 0);
	text(&hit, m->reason, sizeof(m->reason), arg(&hit, 1));
	done(m, &hit);
	return 0;
}

SEC("usdt")
int mempool_added(struct pt_regs *ctx)
{
	struct hit hit;
	if (!begin(&hit, ctx, MEMPOOL_ADDED))
		return 0;
	RESERVE(mempool_added, m);
	hash(&hit, m->txid, arg(&hit, 0));
	m->vsize = arg(&hit, 1);
	m->fee = arg(&hit, 2);
	m->pad = 0;
	done(m, &hit);
	return 0;
}

SEC("usdt")
int mempool_removed(struct pt_regs *ctx)
{
	struct hit hit;
	if (!begin(&hit, ctx, MEMPOOL_REMOVED))
		return 0;
	RESERVE(mempool_removed, m);
	hash(&hit, m->txid, arg(&hit, 0));
	text(&hit, m->reason, sizeof(m->reason), arg(&hit, 1));
	m->vsize = arg(&hit, 2);
	m->fee = arg(&hit, 3);
	m->entry_time = arg(&hit, 4);
	m->pad = 0;
	done(m, &hit);
	return 0;
}

SEC("usdt")
int mempool_replaced(struct pt_regs *ctx)
{
	struct hit hit;
	if (!begin(&hit, ctx, MEMPOOL_REPLACED))
		return 0;
	RESERVE(mempool_replaced, m);
	hash(&hit, m->replaced, arg(&hit, 0));
	m->replaced_vsize = arg(&hit, 1);
	m->replaced_fee = arg(&hit, 2);
	m->replaced_entry_time = arg(&hit, 3);
	hash(&hit, m->replacement, arg(&hit, 4));
	m->replacement_vsize = arg(&hit, 5);
	m->replacement_fee = arg(&hit, 6);
	m->by_transaction = arg(&hit, 7) != 0;
	__builtin_memset(m->pad, 0, sizeof(m->pad));
	done(m, &hit);
	return 0;
}

SEC("usdt")
int mempool_rejected(struct pt_regs *ctx)
{
	struct hit hit;
	if (!begin(&hit, ctx, MEMPOOL_REJECTED))
		return 0;
	RESERVE(mempool_rejected, m);
	hash(&hit, m->txid, arg(&hit, 0));
	text(&hit, m->reason, sizeof(m->reason), arg(&hit, 1));
	done(m, &hit);
	return 0;
}

SEC("usdt")
int block_connected(struct pt_regs *ctx)
{
	struct hit hit;
	if (!begin(&hit, ctx, BLOCK_CONNECTED))
		return 0;
	RESERVE(block_connected, b);
	hash(&hit, b->hash, arg(&hit, 0));
	b->height = arg(&hit, 1);
	b->transactions = arg(&hit, 2);
	b->inputs = arg(&hit, 3);
	b->sigops = arg(&hit, 4);
	b->duration = arg(&hit, 5);
	done(b, &hit);
	return 0;
}

SEC("usdt")
int utxocache_flush(struct pt_regs *ctx)
{
	struct hit hit;
	if (!begin(&hit, ctx, UTXOCACHE_FLUSH))
		return 0;
	RESERVE(utxocache_flush, u);
	u->duration_us = arg(&hit, 0);
	u->mode = arg(&hit, 1);
	u->coins = arg(&hit, 2);
	u->bytes = arg(&hit, 3);
	u->for_prune = arg(&hit, 4) != 0;
	__builtin_memset(u->pad, 0, sizeof(u->pad));
	done(u, &hit);
	return 0;
}

// Both addrman tracepoints have the same arguments, but for the first of attempt_add.
static __always_inline int addrman(struct pt_regs *ctx, const enum kind kind, const __u64 first)
{
	struct hit hit;
	if (!begin(&hit, ctx, kind))
		return 0;
	RESERVE(addrman, a);
	a->inserted = first ? arg(&hit, 0) != 0 : 0;
	a->bucket = arg(&hit, first);
	a->position = arg(&hit, first + 1);
	text(&hit, a->addr, sizeof(a->addr), arg(&hit, first + 2));
	a->addr_as = arg(&hit, first + 3);
	text(&hit, a->source, sizeof(a->source), arg(&hit, first + 4));
	a->source_as = arg(&hit, first + 5);
	__builtin_memset(a->pad, 0, sizeof(a->pad));
	done(a, &hit);
	return 0;
}

SEC("usdt")
int addrman_attempt_add(struct pt_regs *ctx)
{
	return addrman(ctx, ADDRMAN_ATTEMPT_ADD, 1);
}

SEC("usdt")
int addrman_move_to_good(struct pt_regs *ctx)
{
	return addrman(ctx, ADDRMAN_MOVE_TO_GOOD, 0);
}

// The floor that benchmarks compare with: attached and does nothing.
SEC("usdt")
int nothing(struct pt_regs *ctx)
{
	return 0;
}

// How nodes ended, for kernels that do not tell it in another way (../exit.rs).

// Signals that ended nodes, by process id. Which processes are nodes is decided elsewhere: those that have an entry, of 0 at first.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, __u32);
} node_signals SEC(".maps");

// What the tracepoint signal:signal_deliver has, see its `format` in tracefs.
struct signal_deliver {
	__u64 common;
	int signal;
	int error;
	int code;
	unsigned long handler;
	unsigned long flags;
};

#define SIGKILL 9

SEC("tracepoint/signal/signal_deliver")
int signal_delivered(struct signal_deliver *delivered)
{
	__u64 ids = bpf_get_current_pid_tgid();
	__u32 process = ids >> 32;
	__u32 *ended = bpf_map_lookup_elem(&node_signals, &process);

	if (!ended)
		return 0;
	int signal = delivered->signal;
	// Not fatal by default: SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH.
	if (delivered->handler != 0 || (signal >= 17 && signal <= 23) || signal == 28)
		return 0;
	if (signal != SIGKILL) {
		*ended = signal;
		return 0;
	}
	// When a process exits, the kernel ends its other threads with SIGKILL: only the first thread's counts. After a fatal signal
	// it does so, too.
	if ((__u32)ids == process && *ended == 0)
		*ended = SIGKILL;
	return 0;
}
