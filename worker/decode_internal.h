/* worker/decode_internal.h - one pair of functions per format, for decode.c alone. */
#ifndef DS_WORKER_DECODE_INTERNAL_H
#define DS_WORKER_DECODE_INTERNAL_H

#include "worker/decode.h"

/* Fill width, height (and orientation) from the container; check that it is whole. */
int ds_jpeg_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason);
int ds_png_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason);
int ds_webp_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason);
int ds_pnm_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason);

/* Pixels as stored (before orientation); w and h are what the header said and were checked. */
int ds_jpeg_pixels(const uint8_t *p, size_t n, int w, int h, uint8_t **rgb, char *reason);
int ds_png_pixels(const uint8_t *p, size_t n, int w, int h, uint8_t **rgb, char *reason);
int ds_webp_pixels(const uint8_t *p, size_t n, int w, int h, uint8_t **rgb, char *reason);
int ds_pnm_pixels(const uint8_t *p, size_t n, int w, int h, uint8_t **rgb, char *reason);

/* Fill reason, return -1. */
int ds_decode_fail(char *reason, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* RGBA over white, in place: the first n * 3 bytes of p become RGB. */
void ds_over_white(uint8_t *p, size_t n);

#endif
