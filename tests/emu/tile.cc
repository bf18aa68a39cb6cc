/* tests/emu/tile.cc - kernels/cuda/rt_tile.h on the host. */
#include "tests/emu/emu.h"

#include "kernels/cuda/rt_tile.h"

#include <vector>

namespace {

struct Copy {
    void *to;
    const void *from;
    bool on;
    unsigned group;
};

struct Copies {
    std::vector<Copy> waiting;
    unsigned groups = 0;
};

std::vector<Copies> copies; /* of each thread of the block */

Copies &mine() {
    size_t t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    if (copies.size() <= t)
        copies.resize(t + 1);
    return copies[t];
}

uint32_t pair(const unsigned char *lo, const unsigned char *hi) {
    uint16_t a, b;
    memcpy(&a, lo, 2);
    memcpy(&b, hi, 2);
    return (uint32_t)a | (uint32_t)b << 16;
}

void load_matrices(uint32_t r[4], const void *row, bool trans) {
    uint32_t address[2] = {0, 0};
    memcpy(address, &row, sizeof row);
    const uint32_t *all = ds_emu_exchange(address, 2);
    int lane = ds_emu_lane(), g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
        const unsigned char *rows[8];
        for (int j = 0; j < 8; j++)
            memcpy(&rows[j], all + 8 * (8 * i + j), sizeof rows[j]);
        r[i] = trans ? pair(rows[2 * t] + 2 * g, rows[2 * t + 1] + 2 * g)
                     : pair(rows[g] + 4 * t, rows[g] + 4 * t + 2);
    }
    ds_emu_warp_barrier(); /* nobody writes before all have read */
}

} // namespace

void ds_ldmatrix4(uint32_t r[4], const void *row) {
    ds_race_aligned16(row, "ldmatrix");
    ds_race_access(row, 16, false, __builtin_return_address(0));
    load_matrices(r, row, false);
}

void ds_ldmatrix4_trans(uint32_t r[4], const void *row) {
    ds_race_aligned16(row, "ldmatrix");
    ds_race_access(row, 16, false, __builtin_return_address(0));
    load_matrices(r, row, true);
}

/* A new block begins: what the one before never waited for is forgotten. */
void ds_emu_forget_copies() { copies.clear(); }

void ds_copy16(void *shared, const void *global, bool on) {
    ds_race_aligned16(shared, "cp.async");
    ds_race_aligned16(global, "cp.async");
    ds_race_access(shared, 16, true, __builtin_return_address(0)); /* from here to the wait */
    if (on)
        ds_race_access(global, 16, false, __builtin_return_address(0));
    Copies &c = mine();
    c.waiting.push_back(Copy{shared, global, on, c.groups});
}

void ds_copy_commit() { mine().groups++; }

void ds_copy_wait(int groups) {
    Copies &c = mine();
    std::vector<Copy> later;
    for (const Copy &x : c.waiting) {
        if (x.group + (unsigned)groups >= c.groups) {
            later.push_back(x);
            continue;
        }
        ds_race_access(x.to, 16, true, __builtin_return_address(0));
        if (x.on)
            memcpy(__builtin_assume_aligned(x.to, 16), __builtin_assume_aligned(x.from, 16), 16);
        else
            memset(x.to, 0, 16);
    }
    c.waiting.swap(later);
}
