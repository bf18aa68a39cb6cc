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

enum { STACK = 64 * 1024, MAX_THREADS = 1024 };

struct Warp {
    uint32_t slots[2][32 * 8]; /* two, so that a fast lane's next exchange spares this one */
    int live, arrived;
    unsigned round;
};

struct Fiber {
    Context context;
    std::unique_ptr<char[]> stack;
    bool done;
};

struct Block {
    Context scheduler;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    const std::function<void()> *body;
    std::vector<unsigned char> shared;
    int current, live, arrived;
    unsigned round;
    unsigned long moves; /* barriers passed and fibers ended: no move in a whole turn = stuck */
} block;

Warp &my_warp() { return block.warps[(size_t)block.current / 32]; }

void select(int t) {
    block.current = t;
    unsigned u = (unsigned)t;
    threadIdx = dim3(u % blockDim.x, u / blockDim.x % blockDim.y, u / blockDim.x / blockDim.y);
}

void give_way() {
    int me = block.current;
    context_switch(block.fibers[(size_t)me].context, block.scheduler);
}

/* Arrival at a barrier of `live` threads; the last one opens it. */
void arrive(int &arrived, int live, unsigned &round) {
    if (++arrived == live) {
        arrived = 0;
        round++;
        block.moves++;
    }
}

void fiber_main() {
    (*block.body)();
    Warp &w = my_warp();
    block.fibers[(size_t)block.current].done = true;
    block.moves++;
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
    block.live = threads;
    block.arrived = 0;
    block.warps.assign((size_t)(threads + 31) / 32, Warp{});
    for (int t = 0; t < threads; t++) {
        Fiber &f = block.fibers[(size_t)t];
        block.warps[(size_t)t / 32].live++;
        f.done = false;
        if (!f.stack)
            f.stack.reset(new char[STACK]);
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(f.stack.get(), STACK); /* frames that never returned */
#endif
        context_make(f.context, f.stack.get(), STACK, fiber_main);
    }
}

void run_block(int threads, bool backwards) {
    start_block(threads);
    while (block.live) {
        unsigned long before = block.moves;
        for (int i = 0; i < threads; i++) {
            int t = backwards ? threads - 1 - i : i;
            if (block.fibers[(size_t)t].done)
                continue;
            select(t);
            context_switch(block.scheduler, block.fibers[(size_t)t].context);
        }
        if (block.moves == before) {
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
 * would take most of the time. */

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

static void touchable(bool yes) {
    if (arena.used && mprotect(arena.start, arena.used, yes ? PROT_READ | PROT_WRITE : PROT_NONE)) {
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
        void *p = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            return nullptr;
        arena.start = static_cast<char *>(p);
        ds_race_memory(p, all);
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

void ds_emu_block_barrier() {
    unsigned round = block.round;
    arrive(block.arrived, block.live, block.round);
    while (block.round == round)
        give_way();
}

void ds_emu_warp_barrier() {
    Warp &w = my_warp();
    unsigned round = w.round;
    arrive(w.arrived, w.live, w.round);
    while (w.round == round)
        give_way();
}

int ds_emu_lane() { return block.current % 32; }

const uint32_t *ds_emu_exchange(const uint32_t *mine, int words) {
    Warp &w = my_warp();
    uint32_t *slot = w.slots[w.round & 1];
    memcpy(slot + 8 * ds_emu_lane(), mine, 4 * (size_t)words);
    ds_emu_warp_barrier();
    return slot;
}

static float half_of(uint32_t pair, int high) {
    uint32_t u = high ? pair & 0xffff0000u : pair << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

void ds_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    uint32_t mine[8] = {a[0], a[1], a[2], a[3], b[0], b[1], 0, 0};
    const uint32_t *all = ds_emu_exchange(mine, 6);
    int lane = ds_emu_lane(), g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
        int row = g + (i >= 2 ? 8 : 0), col = 2 * t + i % 2;
        double sum = d[i];
        for (int k = 0; k < 16; k++) {
            int from_a = row % 8 * 4 + k % 8 / 2, reg_a = (row >= 8) + 2 * (k >= 8);
            int from_b = col * 4 + k % 8 / 2;
            sum += (double)half_of(all[8 * from_a + reg_a], k & 1) *
                   half_of(all[8 * from_b + 4 + (k >= 8)], k & 1);
        }
        d[i] = (float)sum;
    }
}

uint32_t ds_transpose_bf16(uint32_t pair) {
    const uint32_t *all = ds_emu_exchange(&pair, 1);
    int g = ds_emu_lane() / 4, t = ds_emu_lane() % 4;
    uint32_t low = all[8 * (8 * t + g / 2)], high = all[8 * (8 * t + 4 + g / 2)];
    return (g % 2 ? low >> 16 : low & 0xffff) | (g % 2 ? high & 0xffff0000u : high << 16);
}
