/* tests/fuzz/fuzz_decode.c - libFuzzer target: the picture decoders and the metadata.csv reader.
 *
 *     make fuzz FUZZ=decode FUZZ_SECONDS=60
 *
 * Seeds are the pictures of tests/golden/images and tests/golden/pixels.  A first byte of 'C' in an
 * input that is no picture sends the rest to the CSV reader.  Pictures above a megapixel are not
 * decoded, so that a run is not spent on slow ones; the header alone is looked at.
 */
#include "base/error.h"
#include "engine/metrics/resize.h"
#include "worker/decode/decode.h"
#include "worker/images/metadata_csv.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    char reason[DS_REASON_SIZE];
    ds_image_info info, again;
    if (n && data[0] == 'C') {
        ds_csv_table t;
        ds_rejected_list rejected = {0};
        ds_error err;
        if (!ds_csv_parse(&t, "fuzz", (const char *)data + 1, n - 1, 1000, &rejected, &err))
            ds_csv_release(&t);
        ds_rejected_release(&rejected);
        return 0;
    }
    int header = ds_decode_header(data, n, &info, reason);
    uint8_t *rgb, square[32 * 32 * 3];
    if (ds_decode_rgb(DS_DECODE_PILLOW, data, n, 1 << 20, &again, &rgb, reason))
        DS_ASSERT(again.verdict != DS_DECODED && *reason);
    else
        free(rgb);
    if (ds_decode_rgb(DS_DECODE_TRAIN, data, n, 1 << 20, &again, &rgb, reason))
        return 0;
    DS_ASSERT(!header); /* what can be decoded has a header, and the same one */
    DS_ASSERT(info.width == again.width && info.height == again.height);
    ds_resize_square(square, 32, rgb, info.width, info.height, 3);
    free(rgb);
    return 0;
}
