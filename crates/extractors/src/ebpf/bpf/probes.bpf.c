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
#else
#include <linux/ptrace.h>
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
	__u64 hit;  // number of the hit, over all tracepoints and processes
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

// Hits so far, of all processes.
__u64 hit_count;
// Books of processes that found `books` full.
struct book overflow;

static const struct book empty_book;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
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

struct hit {
	__u64 number;
	struct book *book;
	__u32 tgid;
	__u32 kind;
};

static __always_inline struct book *book_of(__u32 tgid)
{
	struct book *book = bpf_map_lookup_elem(&books, &tgid);
	if (book)
		return book;
	// Two threads may both get here; the second one's update fails and finds the first one's book.
	bpf_map_update_elem(&books, &tgid, &empty_book, BPF_NOEXIST);
	book = bpf_map_lookup_elem(&books, &tgid);
	return book ? book : &overflow;
}

static __always_inline struct hit begin(const enum kind kind)
{
	struct hit hit;
	hit.tgid = bpf_get_current_pid_tgid() >> 32;
	hit.kind = kind;
	hit.number = __sync_fetch_and_add(&hit_count, 1);
	hit.book = book_of(hit.tgid);
	__sync_fetch_and_add(&hit.book->hits[kind], 1);
	return hit;
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

static __always_inline void done(void *record, const struct hit *hit, __u8 flags)
{
	struct header *h = record;
	if (flags) {
		h->flags = flags;
		__sync_fetch_and_add(&hit->book->unread[hit->kind & (KINDS - 1)], 1);
	}
	bpf_ringbuf_submit(record, 0);
}

static __always_inline __u64 arg(struct pt_regs *ctx, __u64 n)
{
	long value = 0;
	bpf_usdt_arg(ctx, n, &value);
	return value;
}

static __always_inline __u8 text(char *to, __u32 size, __u64 from)
{
	long length = bpf_probe_read_user_str(to, size, (void *)from);
	if (length < 0) {
		to[0] = 0;
		return TEXT_UNREAD;
	}
	return length == size ? TEXT_CUT : 0;
}

static __always_inline __u8 hash(__u8 *to, __u64 from)
{
	if (bpf_probe_read_user(to, 32, (void *)from) == 0)
		return 0;
	__builtin_memset(to, 0, 32);
	return PAYLOAD_UNREAD;
}

static __always_inline int message(struct pt_regs *ctx, const enum kind kind)
{
	struct hit hit = begin(kind);
	__u64 size = arg(ctx, 4);
	__u64 want = size;
	if (want > config.max_payload)
		want = config.max_payload;
	if (config.has_type_limits) {
		char type[MSG_TYPE] = {};
		bpf_probe_read_user_str(type, sizeof(type), (void *)arg(ctx, 3));
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
	m->peer = arg(ctx, 0);
	m->size = size;
	m->captured = want;
	m->pad = 0;
	__u8 flags = text(m->addr, sizeof(m->addr), arg(ctx, 1));
	flags |= text(m->conn_type, sizeof(m->conn_type), arg(ctx, 2));
	flags |= text(m->msg_type, sizeof(m->msg_type), arg(ctx, 3));
	if (want && bpf_probe_read_user(m->payload, want, (void *)arg(ctx, 5)) != 0) {
		m->captured = 0;
		flags |= PAYLOAD_UNREAD;
	}
	done(m, &hit, flags);
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
	struct hit hit = begin(kind);
	RESERVE(connection, c);
	c->peer = arg(ctx, 0);
	__u8 flags = text(c->addr, sizeof(c->addr), arg(ctx, 1));
	flags |= text(c->conn_type, sizeof(c->conn_type), arg(ctx, 2));
	c->network = arg(ctx, 3);
	c->extra = arg(ctx, 4);
	c->pad = 0;
	done(c, &hit, flags);
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
	struct hit hit = begin(MISBEHAVING_CONNECTION);
	RESERVE(misbehaving, m);
	m->peer = arg(ctx, 0);
	done(m, &hit, text(m->reason, sizeof(m->reason), arg(ctx, 1)));
	return 0;
}

SEC("usdt")
int mempool_added(struct pt_regs *ctx)
{
	struct hit hit = begin(MEMPOOL_ADDED);
	RESERVE(mempool_added, m);
	__u8 flags = hash(m->txid, arg(ctx, 0));
	m->vsize = arg(ctx, 1);
	m->fee = arg(ctx, 2);
	m->pad = 0;
	done(m, &hit, flags);
	return 0;
}

SEC("usdt")
int mempool_removed(struct pt_regs *ctx)
{
	struct hit hit = begin(MEMPOOL_REMOVED);
	RESERVE(mempool_removed, m);
	__u8 flags = hash(m->txid, arg(ctx, 0));
	flags |= text(m->reason, sizeof(m->reason), arg(ctx, 1));
	m->vsize = arg(ctx, 2);
	m->fee = arg(ctx, 3);
	m->entry_time = arg(ctx, 4);
	m->pad = 0;
	done(m, &hit, flags);
	return 0;
}

SEC("usdt")
int mempool_replaced(struct pt_regs *ctx)
{
	struct hit hit = begin(MEMPOOL_REPLACED);
	RESERVE(mempool_replaced, m);
	__u8 flags = hash(m->replaced, arg(ctx, 0));
	m->replaced_vsize = arg(ctx, 1);
	m->replaced_fee = arg(ctx, 2);
	m->replaced_entry_time = arg(ctx, 3);
	flags |= hash(m->replacement, arg(ctx, 4));
	m->replacement_vsize = arg(ctx, 5);
	m->replacement_fee = arg(ctx, 6);
	m->by_transaction = arg(ctx, 7) != 0;
	__builtin_memset(m->pad, 0, sizeof(m->pad));
	done(m, &hit, flags);
	return 0;
}

SEC("usdt")
int mempool_rejected(struct pt_regs *ctx)
{
	struct hit hit = begin(MEMPOOL_REJECTED);
	RESERVE(mempool_rejected, m);
	__u8 flags = hash(m->txid, arg(ctx, 0));
	flags |= text(m->reason, sizeof(m->reason), arg(ctx, 1));
	done(m, &hit, flags);
	return 0;
}

SEC("usdt")
int block_connected(struct pt_regs *ctx)
{
	struct hit hit = begin(BLOCK_CONNECTED);
	RESERVE(block_connected, b);
	__u8 flags = hash(b->hash, arg(ctx, 0));
	b->height = arg(ctx, 1);
	b->transactions = arg(ctx, 2);
	b->inputs = arg(ctx, 3);
	b->sigops = arg(ctx, 4);
	b->duration = arg(ctx, 5);
	done(b, &hit, flags);
	return 0;
}

SEC("usdt")
int utxocache_flush(struct pt_regs *ctx)
{
	struct hit hit = begin(UTXOCACHE_FLUSH);
	RESERVE(utxocache_flush, u);
	u->duration_us = arg(ctx, 0);
	u->mode = arg(ctx, 1);
	u->coins = arg(ctx, 2);
	u->bytes = arg(ctx, 3);
	u->for_prune = arg(ctx, 4) != 0;
	__builtin_memset(u->pad, 0, sizeof(u->pad));
	done(u, &hit, 0);
	return 0;
}

// Both addrman tracepoints have the same arguments, but for the first of attempt_add.
static __always_inline int addrman(struct pt_regs *ctx, const enum kind kind, const __u64 first)
{
	struct hit hit = begin(kind);
	RESERVE(addrman, a);
	a->inserted = first ? arg(ctx, 0) != 0 : 0;
	a->bucket = arg(ctx, first);
	a->position = arg(ctx, first + 1);
	__u8 flags = text(a->addr, sizeof(a->addr), arg(ctx, first + 2));
	a->addr_as = arg(ctx, first + 3);
	flags |= text(a->source, sizeof(a->source), arg(ctx, first + 4));
	a->source_as = arg(ctx, first + 5);
	__builtin_memset(a->pad, 0, sizeof(a->pad));
	done(a, &hit, flags);
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
