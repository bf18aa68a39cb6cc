/* base/png_write.h - 8-bit RGB -> PNG file, atomically.
 *
 * Pixels (h, w, 3) packed.  The same pixels give the same bytes (no time stamp).  Thread: any.
 * Errors: as ds_fs_write; DS_ENOMEM.
 */
#ifndef DS_BASE_PNG_WRITE_H
#define DS_BASE_PNG_WRITE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* ds_fs_output_check of a picture that a person named; DS_EINVAL when its name promises another
 * kind (.jpg). */
int ds_png_output_check(const char *path, int force, ds_error *err);

int ds_png_write(const char *path, const uint8_t *rgb, int w, int h, ds_error *err);
/* The same into malloc'ed memory. */
int ds_png_encode(const uint8_t *rgb, int w, int h, char **out, size_t *size, ds_error *err);

#endif
