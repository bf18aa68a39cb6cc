/* worker/decode/decode_webp.c - WebP through libwebp: still pictures for training, the first frame
 * as Pillow 13 takes it (source: _webp.c, which hands every file to WebPAnimDecoder). */
#include "worker/decode/decode_internal.h"

#include <stdlib.h>
#include <string.h>
#include <webp/decode.h>
#include <webp/demux.h>

static uint32_t get32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Orientation in the first EXIF chunk of the first `size` bytes; 0 when there is none. */
static int exif_of(const uint8_t *p, size_t size) {
    for (size_t at = 12; at + 8 <= size;) {
        size_t n = get32(p + at + 4);
        if (n > size - at - 8)
            return 0;
        if (!memcmp(p + at, "EXIF", 4))
            return ds_exif_orientation(p + at + 8, n);
        at += 8 + n + (n & 1);
    }
    return 0;
}

int ds_webp_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason) {
    uint32_t riff = get32(p + 4);
    if (riff > n - 8)
        return ds_decode_fail(reason, "truncated: the WebP data ends before its announced size");
    WebPBitstreamFeatures f;
    VP8StatusCode status = WebPGetFeatures(p, n, &f);
    if (status == VP8_STATUS_NOT_ENOUGH_DATA)
        return ds_decode_fail(reason, "truncated: the WebP header is cut off");
    if (status != VP8_STATUS_OK)
        return ds_decode_fail(reason, "damaged WebP header");
    if (f.has_animation) {
        info->verdict = DS_DECODE_UNSUPPORTED;
        return ds_decode_fail(reason, "animated WebP is not supported");
    }
    info->width = f.width;
    info->height = f.height;
    info->notes |= f.has_alpha ? DS_NOTE_ALPHA : 0;
    int turned = exif_of(p, (size_t)riff + 8);
    info->orientation = turned ? turned : 1;
    return 0;
}

int ds_webp_pixels(const uint8_t *p, size_t n, int w, int h, uint8_t **rgb, char *reason) {
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config) || WebPGetFeatures(p, n, &config.input) != VP8_STATUS_OK)
        return ds_decode_fail(reason, "damaged WebP header");
    size_t area = (size_t)w * (size_t)h, channels = config.input.has_alpha ? 4 : 3;
    uint8_t *pixels = malloc(area * channels);
    if (!pixels)
        return ds_decode_fail(reason, "not enough memory to decode");
    config.output.colorspace = channels == 4 ? MODE_RGBA : MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = pixels;
    config.output.u.RGBA.stride = (int)((size_t)w * channels);
    config.output.u.RGBA.size = area * channels;
    VP8StatusCode status = WebPDecode(p, n, &config);
    WebPFreeDecBuffer(&config.output);
    if (status != VP8_STATUS_OK) {
        free(pixels);
        return status == VP8_STATUS_NOT_ENOUGH_DATA ? ds_decode_fail(reason, "truncated WebP data")
                                                    : ds_decode_fail(reason, "damaged WebP data");
    }
    if (channels == 4)
        ds_over_white(pixels, area);
    *rgb = pixels;
    return 0;
}

/* ---------------------------------------------------------------- as Pillow does */

static void note(ds_pillow *d, const WebPAnimInfo *info) {
    WebPBitstreamFeatures f;
    if (WebPGetFeatures(d->p, d->n, &f) == VP8_STATUS_OK && f.has_alpha)
        d->info->notes |= DS_NOTE_ALPHA;
    if (info->frame_count > 1)
        d->info->notes |= DS_NOTE_ANIMATED;
    size_t riff = (size_t)get32(d->p + 4) + 8;
    if (exif_of(d->p, riff < d->n ? riff : d->n) > 1)
        d->info->notes |= DS_NOTE_ORIENTATION;
}

static int first_frame(ds_pillow *d, WebPAnimDecoder *decoder) {
    WebPAnimInfo info;
    uint8_t *canvas;
    int time;
    if (!WebPAnimDecoderGetInfo(decoder, &info))
        return ds_pillow_fail(d, DS_DECODE_BROKEN, "damaged WebP header");
    note(d, &info);
    if (ds_pillow_room(d, info.canvas_width, info.canvas_height))
        return -1;
    if (!WebPAnimDecoderGetNext(decoder, &canvas, &time))
        return ds_pillow_fail(d, DS_DECODE_BROKEN, "damaged WebP data");
    size_t area = (size_t)info.canvas_width * info.canvas_height;
    for (size_t i = 0; i < area; i++)
        memcpy(d->rgb + i * 3, canvas + i * 4, 3);
    return 0;
}

int ds_webp_pillow(ds_pillow *d) {
    WebPBitstreamFeatures f;
    if (d->n < 16 || (memcmp(d->p + 12, "VP8 ", 4) && memcmp(d->p + 12, "VP8L", 4) &&
                      memcmp(d->p + 12, "VP8X", 4)))
        return ds_pillow_fail(d, DS_DECODE_BROKEN, "damaged WebP header");
    /* the decoder takes its memory when it is made, so the size is looked at before */
    if (WebPGetFeatures(d->p, d->n, &f) == VP8_STATUS_OK &&
        (int64_t)f.width * f.height > d->max_pixels)
        return ds_pillow_room(d, f.width, f.height);
    WebPData data = {d->p, d->n};
    WebPAnimDecoder *decoder = WebPAnimDecoderNew(&data, NULL);
    if (!decoder)
        return ds_pillow_fail(d, DS_DECODE_BROKEN, "damaged or truncated WebP data");
    int rc = first_frame(d, decoder);
    WebPAnimDecoderDelete(decoder);
    return rc;
}
