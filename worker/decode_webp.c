/* worker/decode_webp.c - still WebP pictures through libwebp. */
#include "worker/decode_internal.h"

#include <stdlib.h>
#include <webp/decode.h>

int ds_webp_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason) {
    uint32_t riff =
        (uint32_t)p[4] | (uint32_t)p[5] << 8 | (uint32_t)p[6] << 16 | (uint32_t)p[7] << 24;
    if (riff > n - 8)
        return ds_decode_fail(reason, "truncated: the WebP data ends before its announced size");
    WebPBitstreamFeatures f;
    VP8StatusCode status = WebPGetFeatures(p, n, &f);
    if (status == VP8_STATUS_NOT_ENOUGH_DATA)
        return ds_decode_fail(reason, "truncated: the WebP header is cut off");
    if (status != VP8_STATUS_OK)
        return ds_decode_fail(reason, "damaged WebP header");
    if (f.has_animation)
        return ds_decode_fail(reason, "animated WebP is not supported");
    info->width = f.width;
    info->height = f.height;
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
