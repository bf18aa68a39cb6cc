/* tests/emu/race.cc - finds races of the kernels while they run in emulation (`make race-check`).
 *
 * The compiler's thread sanitizer calls a function at every load and store of kernels/cuda/; its
 * library is not linked, the functions are here.  Each two bytes of shared memory and of the
 * device's memory remember their last write and the last two reads by different threads: launch,
 * block, thread, and how many __syncthreads and __syncwarp that thread had passed.
 *
 * Finds: two threads of a block that touch the same bytes, one of them writing, without
 * __syncthreads between them, or within a warp __syncwarp; two blocks of a launch that do; a copy
 * by cp.async whose bytes are touched before its wait and a barrier; addresses of ldmatrix and
 * cp.async that are no multiple of 16.  Shuffles, ldmatrix and products order nothing here, though
 * lanes meet in them: CUDA promises no order of memory for them.  It sees the accesses, not their
 * timing, so one run finds a race that the values do not show.
 *
 * Does not find: what a third reader between two others did (two reads are kept); two neighbouring
 * bytes are one place; races between launches (a stream has none); memcpy that the compiler leaves
 * a call; what the emulated libraries do (lib_emu.cc); branches that no test takes.  A partial mask
 * of __syncwarp counts as the whole warp.
 *
 * Separate from `make test`, which runs the same tests for their values: instrumented code is not
 * the code whose values count, and the objects and minutes of a third build are only worth it when
 * a kernel has changed.
 */
#include "tests/emu/race.h"

#if defined(DS_EMU_RACE)

#include "tests/emu/emu.h"

#include <dlfcn.h>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <utility>
#include <vector>

namespace {

enum { UNIT = 2 }; /* bytes that share a Cell: all that kernels store has at least two */

/* An access.  Blocks are numbered through all launches, from 1; 0 is none. */
struct Access {
    uint32_t block, syncthreads, syncwarp, pc;
    uint16_t thread;
};

struct Cell {
    Access write, read[2];
};

struct Passed {
    uint32_t syncthreads, syncwarp;
};

struct {
    const char *memory, *shared;
    size_t memory_bytes, shared_bytes;
    Cell *memory_cells; /* reserved, touched where the kernels do */
    std::vector<Cell> shared_cells;
    std::vector<Passed> passed; /* of each thread of the block */
    uint32_t first_block, block;
    bool running;
    unsigned long accesses;
    std::set<std::pair<uint32_t, uint32_t>> found; /* pairs of places in the code */
} race;

size_t my_thread() { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }

/* Where this library was loaded. */
const char *code_start() {
    static const char *start;
    Dl_info info;
    if (!start && dladdr(reinterpret_cast<void *>(ds_race_launch), &info))
        start = static_cast<const char *>(info.dli_fbase);
    return start;
}

/* Whether nothing orders `before`, by another thread, and `now`. */
bool clash(const Access &before, const Access &now) {
    if (!before.block || before.block < race.first_block)
        return false;
    if (before.block != now.block)
        return true;
    if (before.thread == now.thread || before.syncthreads != now.syncthreads)
        return false;
    return before.thread / 32 != now.thread / 32 || before.syncwarp == now.syncwarp;
}

/* tools/race_check.sh turns the +0x... into lines of the source. */
void report(const char *what, bool shared, const Access &before, const Access &now) {
    if (!race.found.insert({before.pc, now.pc}).second)
        return;
    fprintf(stderr,
            "race: %s in %s memory: +0x%x (block %u thread %u), +0x%x (block %u thread %u)\n", what,
            shared ? "shared" : "device", before.pc, before.block - race.first_block,
            (unsigned)before.thread, now.pc, now.block - race.first_block, (unsigned)now.thread);
}

void check(Cell &cell, const Access &now, bool write, bool shared) {
    if (clash(cell.write, now))
        report(write ? "write and write" : "write and read", shared, cell.write, now);
    if (write) {
        for (const Access &read : cell.read)
            if (clash(read, now))
                report("read and write", shared, read, now);
        cell.write = now;
        cell.read[0] = cell.read[1] = Access{};
        return;
    }
    const Access &old = cell.read[0];
    bool fresh = old.block < race.first_block;
    bool replaces =
        old.block == now.block && (old.thread == now.thread || old.syncthreads != now.syncthreads);
    cell.read[fresh || replaces ? 0 : 1] = now;
}

/* The cell of p, or NULL for the host's own memory (a thread's variables). */
Cell *cell_of(const char *p, bool &shared) {
    shared = p >= race.shared && p < race.shared + race.shared_bytes;
    if (shared)
        return &race.shared_cells[(size_t)(p - race.shared) / UNIT];
    if (p >= race.memory && p < race.memory + race.memory_bytes)
        return race.memory_cells + (size_t)(p - race.memory) / UNIT;
    return nullptr;
}

__attribute__((destructor)) void summary() {
    fprintf(stderr, "race-check: %lu accesses, %zu findings\n", race.accesses, race.found.size());
}

} // namespace

void ds_race_memory(const void *start, size_t bytes) {
    void *cells = mmap(nullptr, bytes / UNIT * sizeof(Cell), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cells == MAP_FAILED) {
        perror("race check: no room to remember accesses");
        abort();
    }
    race.memory = static_cast<const char *>(start);
    race.memory_bytes = bytes;
    race.memory_cells = static_cast<Cell *>(cells);
}

void ds_race_launch() { race.first_block = race.block + 1; }

void ds_race_block(const void *shared, size_t bytes) {
    race.shared = static_cast<const char *>(shared);
    race.shared_bytes = bytes;
    race.shared_cells.assign(bytes / UNIT + 1, Cell{});
    race.passed.assign((size_t)blockDim.x * blockDim.y * blockDim.z, Passed{});
    race.block++;
    race.running = true;
}

void ds_race_block_end() { race.running = false; }

void ds_race_syncthreads() { race.passed[my_thread()].syncthreads++; }
void ds_race_syncwarp() { race.passed[my_thread()].syncwarp++; }

void ds_race_access(const void *p, size_t n, bool write, const void *pc) {
    bool shared;
    Cell *cell = race.running ? cell_of(static_cast<const char *>(p), shared) : nullptr;
    if (!cell)
        return;
    race.accesses++;
    size_t thread = my_thread();
    const Passed &passed = race.passed[thread];
    uint32_t at = (uint32_t)(static_cast<const char *>(pc) - 1 - code_start());
    Access now = {race.block, passed.syncthreads, passed.syncwarp, at, (uint16_t)thread};
    size_t units = ((uintptr_t)p % UNIT + n + UNIT - 1) / UNIT;
    for (size_t i = 0; i < units; i++)
        check(cell[i], now, write, shared);
}

void ds_race_aligned16(const void *p, const char *what) {
    if ((uintptr_t)p % 16 == 0)
        return;
    fprintf(stderr, "race check: %s of %p, no multiple of 16\n", what, p);
    abort();
}

/* ---------------------------------------------------------------- what the compiler calls
 * Names and arguments: gcc/sanitizer.def, BUILT_IN_TSAN_*. */

#define HOOK(name, size, write)                                                                    \
    extern "C" void __tsan_##name##size(void *p) {                                                 \
        ds_race_access(p, size, write, __builtin_return_address(0));                               \
    }
#define HOOKS(size)                                                                                \
    HOOK(read, size, false)                                                                        \
    HOOK(write, size, true)                                                                        \
    HOOK(unaligned_read, size, false)                                                              \
    HOOK(unaligned_write, size, true)                                                              \
    HOOK(volatile_read, size, false)                                                               \
    HOOK(volatile_write, size, true)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

extern "C" void __tsan_read_range(void *p, size_t n) {
    ds_race_access(p, n, false, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void *p, size_t n) {
    ds_race_access(p, n, true, __builtin_return_address(0));
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_vptr_update(void *, void *) {}
extern "C" void __tsan_vptr_read(void *) {}

#endif
