/* bench/bench_vae.c - the VAE at full size against the numbers and the time of diffusers.
 *
 *   python tools/parity/make_vae_golden.py --full DIR     (prints diffusers' own times)
 *   bench_vae DIR [threads] [repetitions]
 *
 * Prints the largest differences to DIR/vae-io.safetensors relative to the largest number, the best
 * times, both of them, and the peak memory of the process after the encoder and after the decoder.
 */
#include "base/log.h"
#include "base/mem.h"
#include "engine/vae/vae.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static double peak_mib(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_maxrss / 1024;
}

static void must(int rc, const ds_error *err) {
    if (rc) {
        fprintf(stderr, "error: %s\n", err->message);
        exit(1);
    }
}

static float *read_tensor(const ds_st *st, const char *name, int64_t shape[3]) {
    ds_error err;
    const ds_st_tensor *t;
    must(ds_st_need(st, name, -1, NULL, &t, &err), &err);
    float *x = ds_xmalloc(t->count * sizeof *x);
    must(ds_st_read_f32(st, t, x, &err), &err);
    for (int i = 0; i < 3; i++)
        shape[i] = t->shape[i];
    return x;
}

static double apart(const float *got, const float *want, size_t n) {
    double most = 0, top = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)got[i] - want[i]));
        top = fmax(top, fabs((double)want[i]));
    }
    return most / top;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return fprintf(stderr, "usage: bench_vae DIR [threads] [repetitions]\n"), 2;
    int threads = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 0,
        repetitions = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 3;
    ds_error err;
    ds_device *dev;
    ds_st *io;
    ds_device_options o = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = threads};
    char path[2][4096];
    snprintf(path[0], sizeof path[0], "%s/vae.safetensors", argv[1]);
    snprintf(path[1], sizeof path[1], "%s/vae-io.safetensors", argv[1]);
    must(ds_device_open(&dev, &o, &err), &err);
    must(ds_st_open_file(path[1], (size_t)1 << 30, 0, &io, &err), &err);
    int64_t hwc[3], chw[3];
    float *image = read_tensor(io, "image", hwc), *mean = read_tensor(io, "mean", chw),
          *logvar = read_tensor(io, "logvar", chw), *z = read_tensor(io, "z", chw),
          *decoded = read_tensor(io, "decoded", hwc);
    int H = (int)hwc[0], W = (int)hwc[1], h = (int)chw[1], w = (int)chw[2];
    size_t latents = (size_t)(chw[0] * chw[1] * chw[2]), pixels = (size_t)H * (size_t)W * 3;
    float *m = ds_xmalloc(latents * sizeof *m), *v = ds_xmalloc(latents * sizeof *v),
          *out = ds_xmalloc(pixels * sizeof *out);
    printf("the process without a VAE: %.0f MiB\n", peak_mib());
    for (int half = 0; half < 2; half++) {
        double begin = ds_monotonic(), best = 1e9, cpu, best_cpu = 1e9;
        ds_vae *vae;
        must(ds_vae_open(&vae, dev, path[0], NULL, half ? DS_VAE_DECODER : DS_VAE_ENCODER, &err),
             &err);
        double loaded = ds_monotonic() - begin;
        for (int r = 0; r < repetitions; r++) {
            begin = ds_monotonic(), cpu = ds_processor_time();
            must(half ? ds_vae_decode(vae, z, h, w, out, &err)
                      : ds_vae_encode(vae, image, H, W, m, v, &err),
                 &err);
            best = fmin(best, ds_monotonic() - begin),
            best_cpu = fmin(best_cpu, ds_processor_time() - cpu);
        }
        printf("%s %dx%d: %.3f s (%.3f s of processor time), %.2f images/s; load %.2f s; plan %zu "
               "MiB, peak %.0f MiB\n",
               half ? "decode" : "encode", W, H, best, best_cpu, 1 / best, loaded,
               ds_vae_bytes(dev, ds_vae_cfg(vae), half ? DS_VAE_DECODER : DS_VAE_ENCODER, H, W) >>
                   20,
               peak_mib());
        ds_vae_free(vae);
    }
    printf("off by: mean %.2e, logvar %.2e, decoded %.2e\n", apart(m, mean, latents),
           apart(v, logvar, latents), apart(out, decoded, pixels));
    float *all[] = {image, mean, logvar, z, decoded, m, v, out};
    for (int i = 0; i < 8; i++)
        free(all[i]);
    ds_st_free(io);
    ds_device_close(dev);
    return 0;
}
