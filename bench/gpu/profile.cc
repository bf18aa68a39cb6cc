/* bench/gpu/profile.cc - a table of ops that waits for each one (profile.h). */
#include <algorithm>
#include <cstdio>

extern "C" {
#include "base/log.h"
#include "bench/gpu/profile.h"
}

namespace {

struct entry {
    const char *name;
    long calls;
    double ms;
};

enum op_number {
#define DS_OP(op, args) OP_##op,
#include "kernels/ops.def"
#undef DS_OP
    OPS
};

entry seen[OPS];
ds_device before; /* the device as it was */

template <auto Op, int Number> struct timed;
template <class... A, void (*ds_ops::*Op)(ds_device *, A...), int Number> struct timed<Op, Number> {
    static void call(ds_device *dev, A... a) {
        double begin = ds_monotonic();
        (before.ops->*Op)(dev, a...);
        dev->sync(dev);
        seen[Number].ms += 1e3 * (ds_monotonic() - begin);
        seen[Number].calls++;
    }
};

const ds_ops timed_ops = {
#define DS_OP(op, args) timed<&ds_ops::op, OP_##op>::call,
#include "kernels/ops.def"
#undef DS_OP
};

} // namespace

extern "C" void ds_profile_begin(ds_device *dev) {
    static const char *const names[] = {
#define DS_OP(op, args) #op,
#include "kernels/ops.def"
#undef DS_OP
    };
    for (int i = 0; i < OPS; i++)
        seen[i] = {names[i], 0, 0};
    dev->sync(dev);
    before = *dev;
    dev->ops = &timed_ops;
    dev->replay = nullptr;
    dev->segment_end = nullptr;
}

extern "C" void ds_profile_end(ds_device *dev, const char *part, int runs) {
    double all = 0;
    dev->ops = before.ops;
    dev->replay = before.replay;
    dev->segment_end = before.segment_end;
    for (const entry &e : seen)
        all += e.ms;
    std::sort(seen, seen + OPS, [](const entry &a, const entry &b) { return a.ms > b.ms; });
    for (const entry &e : seen)
        if (e.calls)
            std::printf(
                "{\"who\": \"diffscaler\", \"part\": \"%s\", \"op\": \"%s\", \"calls\": %ld, "
                "\"ms\": %.4f, \"share\": %.3f}\n",
                part, e.name, e.calls / runs, e.ms / runs, e.ms / all);
    std::fflush(stdout);
}
