// A stand-in for bitcoind: a process with Bitcoin Core's USDT probes that fires them as it is told.
//
// Tests need hits whose exact number, order and content are known, more of them than a real node would make, and from
// nodes of several versions. The probes are Core's: same names, argument count, sizes and signs, one semaphore each, and
// operands in registers as well as in stack memory. build.rs makes several programs of this file:
//
//   STANDIN_CORE_30       the probes of Bitcoin Core 30
//   STANDIN_PATCHED       as well addrman:attempt_add and addrman:move_to_good, which some monitored nodes are patched with
//   STANDIN_CORE_24       the few probes of Bitcoin Core 24; they have no semaphores, those came with 29
//   STANDIN_BARE          no probes: a bitcoind built without tracing
//   STANDIN_FORMS         the probes of Bitcoin Core 30, and 240 more places with net:inbound_message, each with another form of
//                         arguments: a program that is made to take up all the room there is for these
//
// What is fired comes from a recording (see recording.rs of peer-observer-node) or is made up (--synthetic). Whatever a
// probe points at is copied to the heap and touched before: a page that is not in memory cannot be read from a probe.

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(STANDIN_PATCHED) || defined(STANDIN_FORMS)
#define STANDIN_CORE_30
#endif

#if !defined(STANDIN_BARE)
#define SDT_USE_VARIADIC 1
#if defined(STANDIN_CORE_30)
#define _SDT_HAS_SEMAPHORES 1
#endif
#include <sys/sdt.h>
#endif

// Kinds of hits, as in recordings.
enum kind {
    INBOUND_MESSAGE = 1,
    OUTBOUND_MESSAGE,
    INBOUND_CONNECTION,
    OUTBOUND_CONNECTION,
    CLOSED_CONNECTION,
    EVICTED_INBOUND_CONNECTION,
    MISBEHAVING_CONNECTION,
    MEMPOOL_ADDED,
    MEMPOOL_REMOVED,
    MEMPOOL_REPLACED,
    MEMPOOL_REJECTED,
    BLOCK_CONNECTED,
    UTXOCACHE_FLUSH,
    ADDRMAN_ATTEMPT_ADD,
    ADDRMAN_MOVE_TO_GOOD,
    KINDS,
};

static const char *const KIND_NAMES[KINDS] = {
    [INBOUND_MESSAGE] = "net:inbound_message",
    [OUTBOUND_MESSAGE] = "net:outbound_message",
    [INBOUND_CONNECTION] = "net:inbound_connection",
    [OUTBOUND_CONNECTION] = "net:outbound_connection",
    [CLOSED_CONNECTION] = "net:closed_connection",
    [EVICTED_INBOUND_CONNECTION] = "net:evicted_inbound_connection",
    [MISBEHAVING_CONNECTION] = "net:misbehaving_connection",
    [MEMPOOL_ADDED] = "mempool:added",
    [MEMPOOL_REMOVED] = "mempool:removed",
    [MEMPOOL_REPLACED] = "mempool:replaced",
    [MEMPOOL_REJECTED] = "mempool:rejected",
    [BLOCK_CONNECTED] = "validation:block_connected",
    [UTXOCACHE_FLUSH] = "utxocache:flush",
    [ADDRMAN_ATTEMPT_ADD] = "addrman:attempt_add",
    [ADDRMAN_MOVE_TO_GOOD] = "addrman:move_to_good",
};

// A C++ enum without a fixed type is an unsigned int to a probe, as Core's enum Network.
enum network { NET_UNROUTABLE, NET_MAX = 7 };

// A hit, ready to be fired: text is NUL-terminated. Which fields a kind uses is said in `parse_hit`.
struct hit {
    uint64_t time_ns;
    enum kind kind;
    enum network network;
    int64_t peer_id;
    const char *addr;
    const char *conn_type;
    const char *text; // message type, reason, or source of an address
    uint64_t size;
    const uint8_t *payload;
    uint64_t captured;
    uint64_t count; // existing connections, time established, entry time, transactions, coins
    const uint8_t *hash;
    const uint8_t *other_hash;
    int32_t vsize;
    int32_t other_vsize;
    int64_t fee;
    int64_t other_fee;
    int64_t sigops;
    int64_t duration;
    uint64_t bytes;
    int32_t height;
    int32_t inputs;
    int32_t bucket;
    int32_t position;
    uint32_t mode;
    uint32_t addr_as;
    uint32_t source_as;
    bool flag; // by transaction, for prune, inserted
};

static void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("standin: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(2);
}

static void *allocate(size_t size)
{
    void *memory = malloc(size ? size : 1);
    if (!memory) die("out of memory (%zu bytes)", size);
    return memory;
}

// ---------------------------------------------------------------------------------------------------------- probes

#if defined(STANDIN_BARE)

static const volatile unsigned short *semaphore_of(enum kind kind)
{
    (void)kind;
    return NULL;
}
static bool has_probe(enum kind kind)
{
    (void)kind;
    return false;
}
static void fire(const struct hit *hit)
{
    (void)hit;
}

#else

#if defined(STANDIN_CORE_30)
#define SEMAPHORE(provider, name) \
    unsigned short provider##_##name##_semaphore __attribute__((section(".probes")))
SEMAPHORE(net, inbound_message);
SEMAPHORE(net, outbound_message);
SEMAPHORE(net, inbound_connection);
SEMAPHORE(net, outbound_connection);
SEMAPHORE(net, closed_connection);
SEMAPHORE(net, evicted_inbound_connection);
SEMAPHORE(net, misbehaving_connection);
SEMAPHORE(mempool, added);
SEMAPHORE(mempool, removed);
SEMAPHORE(mempool, replaced);
SEMAPHORE(mempool, rejected);
SEMAPHORE(validation, block_connected);
SEMAPHORE(utxocache, flush);
SEMAPHORE(utxocache, add);
SEMAPHORE(coin_selection, selected_coins);
#if defined(STANDIN_PATCHED)
SEMAPHORE(addrman, attempt_add);
SEMAPHORE(addrman, move_to_good);
#endif
#endif

// The semaphore that a tracer raises when it attaches; NULL where there is none.
static const volatile unsigned short *semaphore_of(enum kind kind)
{
    switch (kind) {
#if defined(STANDIN_CORE_30)
    case INBOUND_MESSAGE: return &net_inbound_message_semaphore;
    case OUTBOUND_MESSAGE: return &net_outbound_message_semaphore;
    case INBOUND_CONNECTION: return &net_inbound_connection_semaphore;
    case OUTBOUND_CONNECTION: return &net_outbound_connection_semaphore;
    case CLOSED_CONNECTION: return &net_closed_connection_semaphore;
    case EVICTED_INBOUND_CONNECTION: return &net_evicted_inbound_connection_semaphore;
    case MISBEHAVING_CONNECTION: return &net_misbehaving_connection_semaphore;
    case MEMPOOL_ADDED: return &mempool_added_semaphore;
    case MEMPOOL_REMOVED: return &mempool_removed_semaphore;
    case MEMPOOL_REPLACED: return &mempool_replaced_semaphore;
    case MEMPOOL_REJECTED: return &mempool_rejected_semaphore;
    case BLOCK_CONNECTED: return &validation_block_connected_semaphore;
    case UTXOCACHE_FLUSH: return &utxocache_flush_semaphore;
#if defined(STANDIN_PATCHED)
    case ADDRMAN_ATTEMPT_ADD: return &addrman_attempt_add_semaphore;
    case ADDRMAN_MOVE_TO_GOOD: return &addrman_move_to_good_semaphore;
#endif
#endif
    default: return NULL;
    }
}

static bool has_probe(enum kind kind)
{
#if defined(STANDIN_CORE_24)
    return kind == INBOUND_MESSAGE || kind == OUTBOUND_MESSAGE || kind == BLOCK_CONNECTED || kind == UTXOCACHE_FLUSH;
#else
    return semaphore_of(kind) != NULL;
#endif
}

// Makes the compiler keep what is live in stack memory, as Core's long functions do: operands become `-8@8(%rsp)`.
#if defined(__x86_64__)
#define SPILL() __asm__ volatile("" ::: "rbx", "r12", "r13", "r14", "r15", "rax", "rcx", "rdx", "rsi", "rdi", "r8", \
                                 "r9", "r10", "r11", "memory")
#else
#define SPILL() __asm__ volatile("" ::: "memory")
#endif

// Has a frame of a size that is not known before, which %rbp addresses, as in Core's longest functions: `8@-928(%rbp)`.
#define LONG_FRAME(hit) \
    char frame[1 + ((hit)->kind & 1)]; \
    __asm__ volatile("" ::"r"(frame) : "memory")

// Has the value in a register: `8@%r13`.
#define IN_REGISTER(value) __asm__ volatile("" : "+r"(value))

#define PROBE __attribute__((noinline, noclone)) static void

PROBE inbound_message(const struct hit *hit)
{
    LONG_FRAME(hit);
    int64_t id = hit->peer_id;
    const char *addr = hit->addr, *conn_type = hit->conn_type, *type = hit->text;
    SPILL();
    uint64_t size = hit->size;
    const uint8_t *data = hit->payload;
    IN_REGISTER(size);
    IN_REGISTER(data);
    STAP_PROBEV(net, inbound_message, id, addr, conn_type, type, size, data);
}

PROBE outbound_message(const struct hit *hit)
{
    int64_t id = hit->peer_id;
    const char *addr = hit->addr;
    SPILL();
    const char *conn_type = hit->conn_type;
    uint64_t size = hit->size;
    const uint8_t *data = hit->payload;
    IN_REGISTER(conn_type);
    IN_REGISTER(size);
    IN_REGISTER(data);
    STAP_PROBEV(net, outbound_message, id, addr, conn_type, hit->text, size, data);
}

PROBE block_connected(const struct hit *hit)
{
    LONG_FRAME(hit);
    const uint8_t *hash = hit->hash;
    int32_t inputs = hit->inputs;
    int64_t sigops = hit->sigops;
    SPILL();
    // Nanoseconds since Core 25, microseconds before; the recordings have nanoseconds.
#if defined(STANDIN_CORE_24)
    int64_t duration = hit->duration / 1000;
#else
    int64_t duration = hit->duration;
#endif
    STAP_PROBEV(validation, block_connected, hash, hit->height, hit->count, inputs, sigops, duration);
}

PROBE utxocache_flush(const struct hit *hit)
{
    LONG_FRAME(hit);
    uint64_t coins = hit->count, bytes = hit->bytes;
    bool for_prune = hit->flag;
    SPILL();
    int64_t duration = hit->duration;
    uint32_t mode = hit->mode;
    IN_REGISTER(duration);
    IN_REGISTER(mode);
    STAP_PROBEV(utxocache, flush, duration, mode, coins, bytes, for_prune);
}

#if defined(STANDIN_CORE_30)

// Core has what all connection probes say in registers, except for the time established.
#define CONNECTION(hit) \
    int64_t id = (hit)->peer_id; \
    const char *addr = (hit)->addr, *conn_type = (hit)->conn_type; \
    enum network network = (hit)->network; \
    IN_REGISTER(id); \
    IN_REGISTER(addr); \
    IN_REGISTER(conn_type); \
    IN_REGISTER(network)

PROBE inbound_connection(const struct hit *hit)
{
    CONNECTION(hit);
    uint64_t existing = hit->count;
    IN_REGISTER(existing);
    STAP_PROBEV(net, inbound_connection, id, addr, conn_type, network, existing);
}

PROBE outbound_connection(const struct hit *hit)
{
    CONNECTION(hit);
    uint64_t existing = hit->count;
    IN_REGISTER(existing);
    STAP_PROBEV(net, outbound_connection, id, addr, conn_type, network, existing);
}

PROBE closed_connection(const struct hit *hit)
{
    CONNECTION(hit);
    STAP_PROBEV(net, closed_connection, id, addr, conn_type, network, (int64_t)hit->count);
}

PROBE evicted_inbound_connection(const struct hit *hit)
{
    CONNECTION(hit);
    STAP_PROBEV(net, evicted_inbound_connection, id, addr, conn_type, network, (int64_t)hit->count);
}

PROBE misbehaving_connection(const struct hit *hit)
{
    STAP_PROBEV(net, misbehaving_connection, hit->peer_id, hit->text);
}

PROBE mempool_added(const struct hit *hit)
{
    const uint8_t *txid = hit->hash;
    int32_t vsize = hit->vsize;
    IN_REGISTER(txid);
    IN_REGISTER(vsize);
    STAP_PROBEV(mempool, added, txid, vsize, hit->fee);
}

PROBE mempool_removed(const struct hit *hit)
{
    const uint8_t *txid = hit->hash;
    const char *reason = hit->text;
    int32_t vsize = hit->vsize;
    IN_REGISTER(txid);
    IN_REGISTER(reason);
    IN_REGISTER(vsize);
    STAP_PROBEV(mempool, removed, txid, reason, vsize, hit->fee, hit->count);
}

PROBE mempool_replaced(const struct hit *hit)
{
    int32_t replacement_vsize = hit->other_vsize;
    int64_t replacement_fee = hit->other_fee;
    SPILL();
    const uint8_t *txid = hit->hash, *replacement = hit->other_hash;
    int32_t vsize = hit->vsize;
    bool by_transaction = hit->flag;
    IN_REGISTER(txid);
    IN_REGISTER(replacement);
    IN_REGISTER(vsize);
    IN_REGISTER(by_transaction);
    STAP_PROBEV(mempool, replaced, txid, vsize, hit->fee, hit->count, replacement, replacement_vsize, replacement_fee,
                by_transaction);
}

PROBE mempool_rejected(const struct hit *hit)
{
    const char *reason = hit->text;
    SPILL();
    const uint8_t *txid = hit->hash;
    IN_REGISTER(txid);
    STAP_PROBEV(mempool, rejected, txid, reason);
}

// Probes of Core that peer-observer does not use. They are never fired, only there.
PROBE never(const struct hit *hit)
{
    STAP_PROBEV(utxocache, add, hit->hash, hit->mode, hit->addr_as, hit->fee, hit->flag);
    STAP_PROBEV(coin_selection, selected_coins, hit->addr, hit->text, hit->fee, hit->other_fee, hit->duration);
}

#endif

#if defined(STANDIN_PATCHED)

PROBE addrman_attempt_add(const struct hit *hit)
{
    STAP_PROBEV(addrman, attempt_add, hit->flag, hit->bucket, hit->position, hit->addr, hit->addr_as, hit->text,
                hit->source_as);
}

PROBE addrman_move_to_good(const struct hit *hit)
{
    STAP_PROBEV(addrman, move_to_good, hit->bucket, hit->position, hit->addr, hit->addr_as, hit->text, hit->source_as);
}

#endif

static void fire(const struct hit *hit)
{
    switch (hit->kind) {
    case INBOUND_MESSAGE: inbound_message(hit); break;
    case OUTBOUND_MESSAGE: outbound_message(hit); break;
    case BLOCK_CONNECTED: block_connected(hit); break;
    case UTXOCACHE_FLUSH: utxocache_flush(hit); break;
#if defined(STANDIN_CORE_30)
    case INBOUND_CONNECTION: inbound_connection(hit); break;
    case OUTBOUND_CONNECTION: outbound_connection(hit); break;
    case CLOSED_CONNECTION: closed_connection(hit); break;
    case EVICTED_INBOUND_CONNECTION: evicted_inbound_connection(hit); break;
    case MISBEHAVING_CONNECTION: misbehaving_connection(hit); break;
    case MEMPOOL_ADDED: mempool_added(hit); break;
    case MEMPOOL_REMOVED: mempool_removed(hit); break;
    case MEMPOOL_REPLACED: mempool_replaced(hit); break;
    case MEMPOOL_REJECTED: mempool_rejected(hit); break;
    case KINDS: never(hit); break;
#endif
#if defined(STANDIN_PATCHED)
    case ADDRMAN_ATTEMPT_ADD: addrman_attempt_add(hit); break;
    case ADDRMAN_MOVE_TO_GOOD: addrman_move_to_good(hit); break;
#endif
    default: break;
    }
}

#endif

// ------------------------------------------------------------------------------------------------------- recording

// What is left of a record.
struct fields {
    const uint8_t *at;
    const uint8_t *end;
    size_t offset; // of the record in its file, for errors
};

static const uint8_t *take(struct fields *fields, size_t length)
{
    if ((size_t)(fields->end - fields->at) < length) die("the record at offset %zu is too short", fields->offset);
    const uint8_t *taken = fields->at;
    fields->at += length;
    return taken;
}

// Recordings are little-endian, and so are the machines this runs on.
#define TAKE(fields, type) \
    ({ type value; memcpy(&value, take(fields, sizeof value), sizeof value); value; })

static const char *take_text(struct fields *fields)
{
    uint16_t length = TAKE(fields, uint16_t);
    char *text = allocate((size_t)length + 1);
    memcpy(text, take(fields, length), length);
    text[length] = 0;
    return text;
}

static struct hit parse_hit(struct fields *fields)
{
    struct hit hit = {0};
    hit.time_ns = TAKE(fields, uint64_t);
    hit.kind = (enum kind)TAKE(fields, uint8_t);
    switch (hit.kind) {
    case INBOUND_MESSAGE:
    case OUTBOUND_MESSAGE:
        hit.peer_id = TAKE(fields, int64_t);
        hit.addr = take_text(fields);
        hit.conn_type = take_text(fields);
        hit.text = take_text(fields);
        hit.size = TAKE(fields, uint64_t);
        hit.captured = (uint64_t)(fields->end - fields->at);
        hit.payload = take(fields, hit.captured);
        if (hit.captured < hit.size) {
            // A probe that says `size` must have that much behind its pointer: the rest is zeros.
            if (hit.size > (64u << 20)) die("the message at offset %zu is larger than any message", fields->offset);
            uint8_t *payload = allocate(hit.size);
            memset(payload, 0, hit.size);
            memcpy(payload, hit.payload, hit.captured);
            hit.payload = payload;
        }
        break;
    case INBOUND_CONNECTION:
    case OUTBOUND_CONNECTION:
    case CLOSED_CONNECTION:
    case EVICTED_INBOUND_CONNECTION:
        hit.peer_id = TAKE(fields, int64_t);
        hit.addr = take_text(fields);
        hit.conn_type = take_text(fields);
        hit.network = (enum network)TAKE(fields, uint32_t);
        hit.count = TAKE(fields, uint64_t);
        break;
    case MISBEHAVING_CONNECTION:
        hit.peer_id = TAKE(fields, int64_t);
        hit.text = take_text(fields);
        break;
    case MEMPOOL_ADDED:
        hit.hash = take(fields, 32);
        hit.vsize = TAKE(fields, int32_t);
        hit.fee = TAKE(fields, int64_t);
        break;
    case MEMPOOL_REMOVED:
        hit.hash = take(fields, 32);
        hit.text = take_text(fields);
        hit.vsize = TAKE(fields, int32_t);
        hit.fee = TAKE(fields, int64_t);
        hit.count = TAKE(fields, uint64_t);
        break;
    case MEMPOOL_REPLACED:
        hit.hash = take(fields, 32);
        hit.vsize = TAKE(fields, int32_t);
        hit.fee = TAKE(fields, int64_t);
        hit.count = TAKE(fields, uint64_t);
        hit.other_hash = take(fields, 32);
        hit.other_vsize = TAKE(fields, int32_t);
        hit.other_fee = TAKE(fields, int64_t);
        hit.flag = TAKE(fields, uint8_t) != 0;
        break;
    case MEMPOOL_REJECTED:
        hit.hash = take(fields, 32);
        hit.text = take_text(fields);
        break;
    case BLOCK_CONNECTED:
        hit.hash = take(fields, 32);
        hit.height = TAKE(fields, int32_t);
        hit.count = TAKE(fields, uint64_t);
        hit.inputs = TAKE(fields, int32_t);
        hit.sigops = TAKE(fields, int64_t);
        hit.duration = TAKE(fields, int64_t);
        break;
    case UTXOCACHE_FLUSH:
        hit.duration = TAKE(fields, int64_t);
        hit.mode = TAKE(fields, uint32_t);
        hit.count = TAKE(fields, uint64_t);
        hit.bytes = TAKE(fields, uint64_t);
        hit.flag = TAKE(fields, uint8_t) != 0;
        break;
    case ADDRMAN_ATTEMPT_ADD:
        hit.flag = TAKE(fields, uint8_t) != 0;
        // fall through
    case ADDRMAN_MOVE_TO_GOOD:
        hit.bucket = TAKE(fields, int32_t);
        hit.position = TAKE(fields, int32_t);
        hit.addr = take_text(fields);
        hit.addr_as = TAKE(fields, uint32_t);
        hit.text = take_text(fields);
        hit.source_as = TAKE(fields, uint32_t);
        break;
    default:
        die("the record at offset %zu has the unknown kind %d", fields->offset, (int)hit.kind);
    }
    if (fields->at != fields->end) die("the record at offset %zu is too long", fields->offset);
    return hit;
}

// Reads a whole recording into the heap. Not mapped: its pages would not be there when a probe looks at them.
static struct hit *read_recording(const char *path, size_t *count)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) die("cannot open %s: %s", path, strerror(errno));
    size_t length = (size_t)status.st_size, done = 0;
    uint8_t *bytes = allocate(length);
    while (done < length) {
        ssize_t got = read(file, bytes + done, length - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) die("cannot read %s: %s", path, got < 0 ? strerror(errno) : "it got shorter");
        done += (size_t)got;
    }
    close(file);

    struct hit *hits = NULL;
    size_t room = 0;
    *count = 0;
    for (size_t offset = 0; offset < length;) {
        uint32_t record = 0;
        if (length - offset < sizeof record) die("%s ends at offset %zu in the middle of a record", path, offset);
        memcpy(&record, bytes + offset, sizeof record);
        const uint8_t *body = bytes + offset + sizeof record;
        if (length - offset - sizeof record < record) die("%s ends at offset %zu in the middle of a record", path, offset);
        if (*count == room) {
            room = room ? 2 * room : 1024;
            hits = realloc(hits, room * sizeof *hits);
            if (!hits) die("out of memory (%zu hits)", room);
        }
        struct fields fields = {body, body + record, offset};
        hits[(*count)++] = parse_hit(&fields);
        offset += sizeof record + record;
    }
    return hits;
}

// Has all that the probes point at where nobody can read it.
static void make_unreadable(struct hit *hits, size_t count)
{
    void *nowhere = mmap(NULL, 1 << 16, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (nowhere == MAP_FAILED) die("cannot map a page that nobody can read");
    for (size_t i = 0; i < count; i++) {
        hits[i].addr = hits[i].conn_type = hits[i].text = nowhere;
        hits[i].payload = hits[i].hash = hits[i].other_hash = nowhere;
    }
}

// ------------------------------------------------------------------------------------------------------- synthetic

enum synthetic { SYNTHETIC_NONE, SYNTHETIC_PING, SYNTHETIC_TX, SYNTHETIC_BLOCK };

static size_t write_compact_size(uint8_t *out, uint64_t value)
{
    if (value < 0xfd) {
        out[0] = (uint8_t)value;
        return 1;
    }
    if (value <= 0xffff) {
        uint16_t small = (uint16_t)value;
        out[0] = 0xfd;
        memcpy(out + 1, &small, sizeof small);
        return 3;
    }
    uint32_t large = (uint32_t)value;
    out[0] = 0xfe;
    memcpy(out + 1, &large, sizeof large);
    return 5;
}

// Writes a transaction of exactly `size` bytes: one input, one output with a long script. Its lock time comes last.
static void write_transaction(uint8_t *out, size_t size)
{
    // Version, input count, outpoint, script length, sequence, output count, value, lock time.
    const size_t fixed = 4 + 1 + 36 + 1 + 4 + 1 + 8 + 4;
    // What cannot be had with the output script, as its length field grows by steps, goes into the input script.
    size_t input_script = 0, output_script = 0;
    uint8_t length_field[5];
    for (;; input_script++) {
        if (size < fixed + input_script + 1) die("no transaction is that small: at least %zu bytes", fixed + 1);
        size_t left = size - fixed - input_script;
        for (size_t field = 1; field <= 5; field += 2) {
            if (left < field) continue;
            output_script = left - field;
            if (write_compact_size(length_field, output_script) == field) goto found;
        }
    }
found:
    memset(out, 0, size);
    uint8_t *at = out;
    *at = 2;
    at += 4;
    *at++ = 1;
    memset(at, 0xff, 36);
    at += 36;
    *at++ = (uint8_t)input_script;
    at += input_script;
    memset(at, 0xff, 4);
    at += 4;
    *at++ = 1;
    at += 8;
    at += write_compact_size(at, output_script);
    memset(at, 0x6a, output_script);
}

// A message that a thread fires again and again, and where in it its number is written.
struct synthetic_message {
    struct hit hit;
    uint8_t *number_at;
    size_t number_size;
    uint64_t next_number;
};

static struct synthetic_message make_synthetic(enum synthetic synthetic, size_t size, int64_t peer_id)
{
    struct synthetic_message message = {.hit = {.kind = INBOUND_MESSAGE, .peer_id = peer_id}, .number_size = 4};
    char *addr = allocate(32);
    snprintf(addr, 32, "10.0.%d.%d:8333", (int)(peer_id / 256) % 256, (int)(peer_id % 256));
    message.hit.addr = addr;
    message.hit.conn_type = strdup("inbound");
    uint8_t *payload = allocate(size);
    switch (synthetic) {
    case SYNTHETIC_PING:
        if (size < 8) die("a ping has at least 8 bytes");
        message.hit.text = strdup("ping");
        memset(payload, 0, size);
        message.number_at = payload;
        message.number_size = 8;
        break;
    case SYNTHETIC_TX:
        message.hit.text = strdup("tx");
        write_transaction(payload, size);
        message.number_at = payload + size - 4;
        break;
    case SYNTHETIC_BLOCK:
        // Header of 80 bytes, whose last four are the nonce, then the number of transactions.
        if (size < 81) die("a block has at least 81 bytes");
        message.hit.text = strdup("block");
        memset(payload, 0, 80);
        payload[80] = 1;
        write_transaction(payload + 81, size - 81);
        message.number_at = payload + 76;
        break;
    case SYNTHETIC_NONE: die("nothing to make");
    }
    message.hit.size = message.hit.captured = size;
    message.hit.payload = payload;
    return message;
}

// ---------------------------------------------------------------------------------------------------------- firing

enum pace { FLAT_OUT, AS_RECORDED, AT_RATE };

struct options {
    const char *recording;
    enum pace pace;
    double rate;
    double speed;
    uint64_t repeat;
    uint64_t max_payload;
    enum synthetic synthetic;
    uint64_t count;
    size_t size;
    long threads;
    bool wait_for_probes;
    bool wait_for_go;
    bool stay;
    bool unreadable;
};

// Where every hit of a firing went; they add up to the hits there were.
struct tally {
    uint64_t by[KINDS];
    uint64_t not_attached;
    uint64_t no_probe;
    uint64_t skipped;
    uint64_t cpu_ns;
};

struct worker {
    pthread_t thread;
    const struct options *options;
    const struct hit *hits;
    size_t count;
    struct synthetic_message message;
    struct tally tally;
};

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_until(uint64_t monotonic_ns)
{
    // The kernel sleeps a little even when the time is over, which would hold up a high rate.
    if (clock_ns(CLOCK_MONOTONIC) >= monotonic_ns) return;
    struct timespec until = {(time_t)(monotonic_ns / 1000000000u), (long)(monotonic_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
}

// The check before the probe is Core's: unless a tracer is attached nothing happens.
static void try_fire(const struct hit *hit, uint64_t max_payload, struct tally *tally)
{
    if (hit->size > max_payload) {
        tally->skipped++;
        return;
    }
    if (!has_probe(hit->kind)) {
        tally->no_probe++;
        return;
    }
    const volatile unsigned short *semaphore = semaphore_of(hit->kind);
    if (semaphore && *semaphore == 0) {
        tally->not_attached++;
        return;
    }
    fire(hit);
    tally->by[hit->kind]++;
}

static void *run_worker(void *argument)
{
    struct worker *worker = argument;
    const struct options *options = worker->options;
    memset(&worker->tally, 0, sizeof worker->tally);
    uint64_t start = clock_ns(CLOCK_MONOTONIC);
    uint64_t cpu_start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    uint64_t number = 0;
    for (uint64_t round = 0; round < options->repeat; round++) {
        uint64_t round_start = clock_ns(CLOCK_MONOTONIC);
        for (size_t i = 0; i < worker->count; i++, number++) {
            const struct hit *hit = options->synthetic ? &worker->message.hit : &worker->hits[i];
            if (options->pace == AT_RATE) {
                sleep_until(start + (uint64_t)((double)number / options->rate * 1e9));
            } else if (options->pace == AS_RECORDED && hit->time_ns > worker->hits[0].time_ns) {
                sleep_until(round_start + (uint64_t)((double)(hit->time_ns - worker->hits[0].time_ns) / options->speed));
            }
            if (options->synthetic) {
                memcpy(worker->message.number_at, &worker->message.next_number, worker->message.number_size);
                worker->message.next_number++;
            }
            try_fire(hit, options->max_payload, &worker->tally);
        }
    }
    worker->tally.cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_start;
    return NULL;
}

static void fire_all(struct worker *workers, long count)
{
    uint64_t start = clock_ns(CLOCK_MONOTONIC);
    for (long i = 1; i < count; i++) {
        if (pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]) != 0) die("cannot start a thread");
    }
    run_worker(&workers[0]);
    struct tally total = workers[0].tally;
    for (long i = 1; i < count; i++) {
        pthread_join(workers[i].thread, NULL);
        const struct tally *tally = &workers[i].tally;
        for (int kind = 0; kind < KINDS; kind++) total.by[kind] += tally->by[kind];
        total.not_attached += tally->not_attached;
        total.no_probe += tally->no_probe;
        total.skipped += tally->skipped;
        total.cpu_ns += tally->cpu_ns;
    }
    double seconds = (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1e9;

    uint64_t fired = 0;
    for (int kind = 0; kind < KINDS; kind++) fired += total.by[kind];
    printf("{\"fired\":%llu,\"by\":{", (unsigned long long)fired);
    const char *comma = "";
    for (int kind = 0; kind < KINDS; kind++) {
        if (!total.by[kind]) continue;
        printf("%s\"%s\":%llu", comma, KIND_NAMES[kind], (unsigned long long)total.by[kind]);
        comma = ",";
    }
    printf("},\"not_attached\":%llu,\"no_probe\":%llu,\"skipped\":%llu,\"seconds\":%.6f,\"cpu_ns_per_hit\":%.1f}\n",
           (unsigned long long)total.not_attached, (unsigned long long)total.no_probe,
           (unsigned long long)total.skipped, seconds, fired ? (double)total.cpu_ns / (double)fired : 0.0);
}

// Waits until a tracer is attached to every probe that will be fired. Ends the program when whoever started it is gone.
static void wait_for_probes(const struct worker *workers)
{
    bool needed[KINDS] = {false};
    for (size_t i = 0; i < workers[0].count; i++) {
        const struct hit *hit = workers[0].options->synthetic ? &workers[0].message.hit : &workers[0].hits[i];
        needed[hit->kind] = true;
    }
    for (int kind = 1; kind < KINDS; kind++) {
        const volatile unsigned short *semaphore = semaphore_of((enum kind)kind);
        while (needed[kind] && semaphore && *semaphore == 0) {
            struct pollfd input = {.fd = STDIN_FILENO};
            if (poll(&input, 1, 1) > 0 && (input.revents & (POLLHUP | POLLERR))) exit(0);
        }
    }
    puts("{\"attached\":true}");
}

// Next line of standard input, without its end; false when it is closed.
static bool read_command(char *line, int size)
{
    if (!fgets(line, size, stdin)) return false;
    line[strcspn(line, "\r\n")] = 0;
    return true;
}

static double parse_number(const char *option, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (*text == 0 || *end != 0 || !(value >= 0) || value > 1e15) die("%s: not a number: %s", option, text);
    return value;
}

static struct options parse_options(int argc, char **argv)
{
    struct options options = {
        .speed = 1,
        .repeat = 1,
        .max_payload = UINT64_MAX,
        .count = 1,
        .size = 8,
        .threads = 1,
    };
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i];
        // Options of bitcoind, so that the command line can look like one.
        if (option[0] != '-' || option[1] != '-' || strncmp(option, "--datadir=", 10) == 0) continue;
        if (strcmp(option, "--wait-for-probes") == 0) {
            options.wait_for_probes = true;
            continue;
        }
        if (strcmp(option, "--wait-for-go") == 0) {
            options.wait_for_go = true;
            continue;
        }
        if (strcmp(option, "--stay") == 0) {
            options.stay = true;
            continue;
        }
        if (strcmp(option, "--unreadable") == 0) {
            options.unreadable = true;
            continue;
        }
        if (++i == argc) die("%s: unknown, or its value is missing", option);
        const char *value = argv[i];
        if (strcmp(option, "--datadir") == 0) {
            continue;
        } else if (strcmp(option, "--recording") == 0) {
            options.recording = value;
        } else if (strcmp(option, "--pace") == 0) {
            size_t length = strlen(value);
            if (strcmp(value, "flat-out") == 0) {
                options.pace = FLAT_OUT;
            } else if (strcmp(value, "asrecorded") == 0) {
                options.pace = AS_RECORDED;
            } else if (length > 2 && strcmp(value + length - 2, "/s") == 0) {
                char *rate = strndup(value, length - 2);
                options.pace = AT_RATE;
                options.rate = parse_number(option, rate);
                free(rate);
            } else {
                die("--pace: asrecorded, flat-out or a rate as 1000/s, not %s", value);
            }
        } else if (strcmp(option, "--speed") == 0) {
            options.speed = parse_number(option, value);
        } else if (strcmp(option, "--repeat") == 0) {
            options.repeat = (uint64_t)parse_number(option, value);
        } else if (strcmp(option, "--max-payload") == 0) {
            options.max_payload = (uint64_t)parse_number(option, value);
        } else if (strcmp(option, "--synthetic") == 0) {
            if (strcmp(value, "ping") == 0) options.synthetic = SYNTHETIC_PING;
            else if (strcmp(value, "tx") == 0) options.synthetic = SYNTHETIC_TX;
            else if (strcmp(value, "block") == 0) options.synthetic = SYNTHETIC_BLOCK;
            else die("--synthetic: ping, tx or block, not %s", value);
        } else if (strcmp(option, "--count") == 0) {
            options.count = (uint64_t)parse_number(option, value);
        } else if (strcmp(option, "--size") == 0) {
            options.size = (size_t)parse_number(option, value);
        } else if (strcmp(option, "--threads") == 0) {
            options.threads = (long)parse_number(option, value);
        } else {
            die("unknown option %s", option);
        }
    }
    if (options.recording && options.synthetic) die("--recording and --synthetic exclude each other");
    if (options.synthetic && options.pace == AS_RECORDED) die("--synthetic has no recorded times: --pace flat-out or a rate");
    if (!options.synthetic && options.threads != 1) die("--threads is for --synthetic: a recording has one order");
    if (options.threads < 1 || options.threads > 1024) die("--threads: 1 to 1024");
    if (!(options.speed > 0)) die("--speed must be above 0");
    if (options.pace == AT_RATE && !(options.rate > 0)) die("--pace: the rate must be above 0");
    if (options.size > (64u << 20)) die("--size: at most 64 MiB");
    return options;
}

#if defined(STANDIN_FORMS)
// A constant is part of a form.
#define FORM(n) STAP_PROBEV(net, inbound_message, n, n, n, n, n, n);
#define FORMS_8(n) FORM(n) FORM(n + 1) FORM(n + 2) FORM(n + 3) FORM(n + 4) FORM(n + 5) FORM(n + 6) FORM(n + 7)
#define FORMS_40(n) FORMS_8(n) FORMS_8(n + 8) FORMS_8(n + 16) FORMS_8(n + 24) FORMS_8(n + 32)
__attribute__((used, noinline)) static void forms(void)
{
    FORMS_40(0) FORMS_40(40) FORMS_40(80) FORMS_40(120) FORMS_40(160) FORMS_40(200)
}
#endif

int main(int argc, char **argv)
{
    struct options options = parse_options(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 0);

#if defined(STANDIN_CORE_24)
    if (options.wait_for_probes) die("--wait-for-probes: these probes have no semaphores, use --wait-for-go");
#endif

    struct worker *workers = allocate((size_t)options.threads * sizeof *workers);
    memset(workers, 0, (size_t)options.threads * sizeof *workers);
    if (options.recording) {
        struct hit *hits = read_recording(options.recording, &workers[0].count);
        if (options.unreadable) make_unreadable(hits, workers[0].count);
        workers[0].hits = hits;
    }
    for (long i = 0; i < options.threads; i++) {
        workers[i].options = &options;
        if (!options.synthetic) continue;
        workers[i].message = make_synthetic(options.synthetic, options.size, i);
        workers[i].count = options.count;
    }
    printf("{\"ready\":true,\"pid\":%d}\n", (int)getpid());

    char line[256];
    if (!options.wait_for_go) {
        if (options.wait_for_probes) wait_for_probes(workers);
        fire_all(workers, options.threads);
        if (!options.stay) return 0;
    }
    while (read_command(line, sizeof line) && strcmp(line, "quit") != 0) {
        if (!options.wait_for_go) continue;
        if (options.wait_for_probes) wait_for_probes(workers);
        fire_all(workers, options.threads);
    }
    return 0;
}
