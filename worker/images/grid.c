/* worker/images/grid.c - contact sheets (contract in grid.h). */
#include "worker/images/grid.h"
#include "base/mem.h"
#include "base/png_write.h"

#include <stdlib.h>
#include <string.h>

ds_grid *ds_grid_new(int rows, int columns, int side, int scale, int gap, uint8_t background) {
    DS_ASSERT(rows > 0 && columns > 0 && side > 0 && scale > 0 && gap >= 0);
    int64_t w = (int64_t)columns * side * scale + (int64_t)(columns + 1) * gap;
    int64_t h = (int64_t)rows * side * scale + (int64_t)(rows + 1) * gap;
    DS_ASSERT(w <= 1 << 26 && h <= 1 << 26 && w * h <= 1 << 26);
    ds_grid *g = ds_xcalloc(1, sizeof *g);
    *g =
        (ds_grid){rows, columns, side, scale, gap, (int)w, (int)h, ds_xmalloc((size_t)(w * h * 3))};
    memset(g->rgb, background, (size_t)(w * h * 3));
    return g;
}

void ds_grid_put(ds_grid *g, int row, int column, const uint8_t *rgb) {
    DS_ASSERT(row >= 0 && row < g->rows && column >= 0 && column < g->columns);
    int cell = g->side * g->scale;
    int x0 = g->gap + column * (cell + g->gap), y0 = g->gap + row * (cell + g->gap);
    for (int y = 0; y < cell; y++) {
        uint8_t *o = g->rgb + ((size_t)(y0 + y) * (size_t)g->width + (size_t)x0) * 3;
        const uint8_t *line = rgb + (size_t)(y / g->scale) * (size_t)g->side * 3;
        for (int x = 0; x < cell; x++, o += 3)
            memcpy(o, line + (size_t)(x / g->scale) * 3, 3);
    }
}

void ds_pixels_from_f32(uint8_t *out, const float *in, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float v = (in[i] + 1.0f) * 127.5f + 0.5f;
        out[i] = !(v > 0.0f) ? 0 : v >= 255.0f ? 255 : (uint8_t)v;
    }
}

void ds_grid_put_f32(ds_grid *g, int row, int column, const float *image, int planar) {
    size_t area = (size_t)g->side * (size_t)g->side;
    uint8_t *bytes = ds_xmalloc(area * 6), *rgb = bytes;
    ds_pixels_from_f32(bytes, image, (int64_t)area * 3);
    if (planar) {
        rgb = bytes + area * 3;
        for (size_t i = 0; i < area; i++)
            for (size_t c = 0; c < 3; c++)
                rgb[i * 3 + c] = bytes[c * area + i];
    }
    ds_grid_put(g, row, column, rgb);
    free(bytes);
}

int ds_grid_write(const ds_grid *g, const char *path, ds_error *err) {
    return ds_png_write(path, g->rgb, g->width, g->height, err);
}

void ds_grid_free(ds_grid *g) {
    if (g)
        free(g->rgb);
    free(g);
}

int ds_grid_columns(int n) {
    int c = 1;
    while ((int64_t)c * c < n)
        c++;
    return c;
}
