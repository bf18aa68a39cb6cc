/* worker/images/grid.h - a sheet of equally large square pictures: rows, columns, gaps,
 * whole-number magnification (nearest).
 *
 * Ownership: new/free.  Thread: one.  Cells never filled keep the background.
 */
#ifndef DS_WORKER_IMAGES_GRID_H
#define DS_WORKER_IMAGES_GRID_H

#include "base/error.h"

#include <stdint.h>

typedef struct {
    int rows, columns, side, scale, gap; /* scale, gap: pixels of the sheet */
    int width, height;
    uint8_t *rgb; /* (height, width, 3) */
} ds_grid;

/* Background is white where `background` is 255.  Sizes are DS_ASSERTed (sheet <= 2^26 pixels). */
ds_grid *ds_grid_new(int rows, int columns, int side, int scale, int gap, uint8_t background);
void ds_grid_put(ds_grid *g, int row, int column, const uint8_t *rgb); /* (side, side, 3) */
/* f32 in [-1, 1], (side, side, 3) or planar (3, side, side); rounded, clamped. */
void ds_grid_put_f32(ds_grid *g, int row, int column, const float *image, int planar);
int ds_grid_write(const ds_grid *g, const char *path, ds_error *err);
void ds_grid_free(ds_grid *g);

/* The rounding of ds_grid_put_f32, which is also the one that samples get: n values in [-1, 1] ->
 * 0..255, round half up of (x + 1) * 127.5, NaN is 0. */
void ds_pixels_from_f32(uint8_t *out, const float *in, int64_t n);

/* Columns for n cells: the smallest c with c * c >= n. */
int ds_grid_columns(int n);

#endif
