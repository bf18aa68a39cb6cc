/* tests/emu/emu.cc - blocks as fibers (see emu.h).
 *
 * On x86-64 a fiber changes by a dozen instructions; elsewhere by swapcontext, whose two system
 * calls make it ten times slower. */
#include "tests/emu/emu.h"

#include <map>
#include <memory>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

/* ---------------------------------------------------------------- contexts
 * context_switch(from, to): saves what runs into *from and goes on with *to. */

#if defined(__x86_64__)

using Context = void *; /* its stack pointer; the registers that a call keeps lie there */

extern "C" void ds_emu_switch(Context *from, Context to);
asm(".text\n"
    ".type ds_emu_switch, @function\n"
    "ds_emu_switch:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp, (%rdi)\n"
    "  mov %rsi, %rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n"
    "  ret\n"
    ".size ds_emu_switch, .-ds_emu_switch\n");

static void context_switch(Context &from, Context &to) { ds_emu_switch(&from, to); }

/* Six registers, then the address that `ret` takes, where a call would have left the stack. */
static void context_make(Context &c, char *stack, size_t size, void (*entry)()) {
    void **top = reinterpret_cast<void **>(((uintptr_t)stack + size) & ~(uintptr_t)15) - 2;
    *top = reinterpret_cast<void *>(entry);
    for (int i = 1; i <= 6; i++)
        top[-i] = nullptr;
    c = top - 6;
}

#else

#include <ucontext.h>

using Context = ucontext_t;

static void context_switch(Context &from, Context &to) { swapcontext(&from, &to); }

static void context_make(Context &c, char *stack, size_t size, void (*entry)()) {
    getcontext(&c);
    c.uc_stack.ss_sp = stack;
    c.uc_stack.ss_size = size;
    c.uc_link = nullptr;
    makecontext(&c, entry, 0);
}

#endif

/* ---------------------------------------------------------------- blocks */

namespace {

enum { STACK = 64 * 1024, NEVER_LEFT = 4096, MAX_THREADS = 1024 };

struct Warp {
    uint32_t slots[2][32 * 8]; /* two, so that a fast lane's next exchange spares this one */
    int live, arrived;
    unsigned round;
};

struct Fiber {
    Context context;
    std::unique_ptr<char[]> stack;
    dim3 index;            /* in the block */
    const unsigned *round; /* of the barrier at which it waits while that is `seen`; null: none */
    unsigned seen;
    bool done;
};

struct Block {
    Context scheduler;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    const std::function<void()> *body;
    std::vector<unsigned char> shared;
    int current, threads, live, arrived;
    unsigned round;
    bool backwards; /* the order of warps and of lanes */
} block;

Warp &my_warp() { return block.warps[(size_t)block.current / 32]; }

void select(int t) {
    block.current = t;
    threadIdx = block.fibers[(size_t)t].index;
}

/* Once a launch: divisions take longer than a change of fibers. */
void number_threads(int threads) {
    for (unsigned u = 0; u < (unsigned)threads; u++)
        block.fibers[u].index =
            dim3(u % blockDim.x, u / blockDim.x % blockDim.y, u / blockDim.x / blockDim.y);
}

bool can_run(const Fiber &f) { return !f.done && (!f.round || *f.round != f.seen); }

int lanes_of(int warp) {
    int left = block.threads - warp * 32;
    return left < 32 ? left : 32;
}

/* The first lane of a warp that can run, from `lane` on in a circle; -1: none. */
int next_lane(int warp, int lane) {
    int n = lanes_of(warp), step = block.backwards ? n - 1 : 1;
    for (int i = 0; i < n; i++, lane += step) {
        lane -= lane < n ? 0 : n;
        if (can_run(block.fibers[(size_t)(warp * 32 + lane)]))
            return warp * 32 + lane;
    }
    return -1;
}

/* To a lane of the same warp as long as one can run: a warp's stacks fit into the nearest cache. */
void give_way() {
    int me = block.current, warp = me / 32;
    int next = next_lane(warp, me % 32 + (block.backwards ? lanes_of(warp) - 1 : 1));
    if (next == me)
        return;
    if (next >= 0)
        select(next);
    context_switch(block.fibers[(size_t)me].context,
                   next < 0 ? block.scheduler : block.fibers[(size_t)next].context);
}

/* Waits at a barrier of `live` threads; the last one opens it. */
void pass(int &arrived, int live, unsigned &round) {
    if (++arrived == live) {
        arrived = 0;
        round++;
        return;
    }
    Fiber &f = block.fibers[(size_t)block.current];
    f.round = &round;
    f.seen = round;
    while (*f.round == f.seen)
        give_way();
    f.round = nullptr;
}

void fiber_main() {
    (*block.body)();
    Warp &w = my_warp();
    block.fibers[(size_t)block.current].done = true;
    /* a thread that has ended counts as arrived everywhere */
    block.live--;
    w.live--;
    if (w.live && w.arrived == w.live)
        w.arrived = 0, w.round++;
    if (block.live && block.arrived == block.live)
        block.arrived = 0, block.round++;
    give_way();
}

void start_block(int threads) {
    ds_emu_forget_copies();
    block.threads = block.live = threads;
    block.arrived = 0;
    block.warps.assign((size_t)(threads + 31) / 32, Warp{});
    for (int t = 0; t < threads; t++) {
        Fiber &f = block.fibers[(size_t)t];
        block.warps[(size_t)t / 32].live++;
        f.done = false;
        f.round = nullptr;
        if (!f.stack)
            f.stack.reset(new char[STACK]);
#if defined(__SANITIZE_ADDRESS__)
        /* fiber_main and what it called last never returned; all others did */
        __asan_unpoison_memory_region(f.stack.get() + STACK - NEVER_LEFT, NEVER_LEFT);
#endif
        context_make(f.context, f.stack.get(), STACK, fiber_main);
    }
}

void run_block(int threads, bool backwards) {
    int warps = (threads + 31) / 32;
    block.backwards = backwards;
    start_block(threads);
    while (block.live) {
        bool moved = false;
        for (int i = 0; i < warps; i++) {
            int w = backwards ? warps - 1 - i : i,
                t = next_lane(w, backwards ? lanes_of(w) - 1 : 0);
            if (t < 0)
                continue;
            moved = true;
            select(t);
            context_switch(block.scheduler, block.fibers[(size_t)t].context);
        }
        if (!moved) {
            fprintf(stderr,
                    "emulation: %d threads of block (%u,%u,%u) wait at a barrier that the "
                    "others never reach\n",
                    block.live, blockIdx.x, blockIdx.y, blockIdx.z);
            abort();
        }
    }
}

} // namespace

static void run_grid(dim3 grid, dim3 size, size_t shared, const std::function<void()> &body) {
    int threads = (int)(size.x * size.y * size.z);
    if (threads < 1 || threads > MAX_THREADS || shared > 227 * 1024 || grid.y > 65535 ||
        grid.z > 65535) {
        fprintf(stderr, "emulation: a launch of %d threads a block, %zu bytes of shared memory\n",
                threads, shared);
        abort();
    }
    ds_race_launch();
    gridDim = grid;
    blockDim = size;
    block.body = &body;
    block.fibers.resize((size_t)threads > block.fibers.size() ? (size_t)threads
                                                              : block.fibers.size());
    number_threads(threads);
    block.shared = std::vector<unsigned char>(shared);
    unsigned n = 0;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = dim3(x, y, z);
                if (shared)
                    memset(block.shared.data(), 0xff, shared);
                ds_race_block(block.shared.data(), shared);
                run_block(threads, n++ % 2);
                ds_race_block_end();
            }
}

/* ---------------------------------------------------------------- memory
 * One reservation, handed out from its start in whole pages; what was freed is taken again by the
 * next allocation of that size or less.  Allocations of a megabyte are plain memory: their pages
 * would take most of the time.  It is opened and shut in steps of a huge page, which is one entry
 * of a table where 512 pages are as many. */

#if defined(__SANITIZE_ADDRESS__)

void *ds_emu_alloc(size_t bytes) { return aligned_alloc(256, (bytes + 255) / 256 * 256); }
void ds_emu_free(void *p) { free(p); }
void ds_emu_now(const std::function<void()> &work) { work(); }

#else

static struct {
    char *start;
    size_t used;
    std::map<void *, size_t> live;
    std::multimap<size_t, void *> spare;
} arena;

static const size_t HUGE_PAGE = (size_t)2 << 20;

static size_t in_huge_pages(size_t n) { return (n + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE; }

static void touchable(bool yes) {
    if (arena.used && mprotect(arena.start, in_huge_pages(arena.used),
                               yes ? PROT_READ | PROT_WRITE : PROT_NONE)) {
        perror("emulation: mprotect");
        abort();
    }
}

void *ds_emu_alloc(size_t bytes) {
    const size_t page = 4096, all = (size_t)1 << 36, large = (size_t)1 << 20;
    if (bytes >= large && !ds_race_on)
        return aligned_alloc(256, (bytes + 255) / 256 * 256);
    size_t size = (bytes + page) / page * page;
    auto old = arena.spare.lower_bound(size);
    if (old != arena.spare.end()) {
        void *p = old->second;
        arena.live[p] = old->first;
        arena.spare.erase(old);
        return p;
    }
    if (!arena.start) {
        void *p = mmap(nullptr, all + HUGE_PAGE, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            return nullptr;
        arena.start = static_cast<char *>(p) + (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
        madvise(arena.start, all, MADV_HUGEPAGE); /* without, it is only slower */
        ds_race_memory(arena.start, all);
    }
    if (size > all - arena.used)
        return nullptr;
    void *p = arena.start + arena.used;
    arena.used += size;
    arena.live[p] = size;
    return p;
}

void ds_emu_free(void *p) {
    auto it = arena.live.find(p);
    if (it == arena.live.end()) {
        free(p);
        return;
    }
    arena.spare.insert({it->second, p});
    arena.live.erase(it);
}

void ds_emu_now(const std::function<void()> &work) {
    touchable(true);
    work();
    touchable(false);
}

#endif

/* ---------------------------------------------------------------- stream and graphs */

using Graph = std::vector<std::function<void()>>;
static Graph *recording;

void ds_emu_submit(std::function<void()> work) {
    if (recording)
        recording->push_back(std::move(work));
    else
        ds_emu_now(work);
}

void ds_emu_launch(dim3 grid, dim3 size, size_t shared, const std::function<void()> &body) {
    ds_emu_submit([=] { run_grid(grid, size, shared, body); });
}

void ds_emu_host(const char *what) {
    if (!recording)
        return;
    fprintf(stderr, "emulation: %s while a graph is recorded\n", what);
    abort();
}

void ds_emu_record_begin() {
    ds_emu_host("a second recording");
    recording = new Graph;
}

void *ds_emu_record_end() {
    Graph *g = recording;
    recording = nullptr;
    return g;
}

void ds_emu_graph_launch(void *graph) {
    for (auto &work : *static_cast<Graph *>(graph))
        ds_emu_now(work);
}

void ds_emu_graph_free(void *graph) { delete static_cast<Graph *>(graph); }

/* ---------------------------------------------------------------- threads */

void *ds_emu_shared() { return block.shared.data(); }

void ds_emu_block_barrier() { pass(block.arrived, block.live, block.round); }

void ds_emu_warp_barrier() {
    Warp &w = my_warp();
    pass(w.arrived, w.live, w.round);
}

int ds_emu_lane() { return block.current % 32; }

const uint32_t *ds_emu_exchange(const uint32_t *mine, int words) {
    Warp &w = my_warp();
    uint32_t *slot = w.slots[w.round & 1];
    memcpy(slot + 8 * ds_emu_lane(), mine, 4 * (size_t)words);
    ds_emu_warp_barrier();
    return slot;
}

/* The two numbers of a pair, the low one first. */
static void halves(float out[2], uint32_t pair) {
    uint32_t u[2] = {pair << 16, pair & 0xffff0000u};
    memcpy(out, u, sizeof u);
}

void ds_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    uint32_t mine[8] = {a[0], a[1], a[2], a[3], b[0], b[1], 0, 0};
    const uint32_t *all = ds_emu_exchange(mine, 6);
    int lane = ds_emu_lane(), g = lane / 4, t = lane % 4;
    float rows[2][16], cols[2][16]; /* g and g + 8 of a; 2t and 2t + 1 of b */
    for (int k = 0; k < 16; k += 2)
        for (int i = 0; i < 2; i++) {
            halves(rows[i] + k, all[8 * (g * 4 + k % 8 / 2) + i + 2 * (k >= 8)]);
            halves(cols[i] + k, all[8 * ((2 * t + i) * 4 + k % 8 / 2) + 4 + (k >= 8)]);
        }
    for (int i = 0; i < 4; i++) {
        double sum = d[i];
        for (int k = 0; k < 16; k++)
            sum += (double)rows[i / 2][k] * cols[i % 2][k];
        d[i] = (float)sum;
    }
}

uint32_t ds_transpose_bf16(uint32_t pair) {
    const uint32_t *all = ds_emu_exchange(&pair, 1);
    int g = ds_emu_lane() / 4, t = ds_emu_lane() % 4;
    uint32_t low = all[8 * (8 * t + g / 2)], high = all[8 * (8 * t + 4 + g / 2)];
    return (g % 2 ? low >> 16 : low & 0xffff) | (g % 2 ? high & 0xffff0000u : high << 16);
}
