/* tools/parity/jpeg_kinds.c - writes JPEG files that Pillow can read but not write.
 *
 *     jpeg_kinds FOLDER
 *
 * Arithmetic coding, RGB and CMYK and YCCK with and without Adobe's marker, grey with odd sampling factors, sampling
 * factors that no camera uses, restart intervals, scripts of scans.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

typedef struct {
    const char *name;
    int w, h, components;
    J_COLOR_SPACE stored;
    const char *sampling; /* "2x1,1x1,1x1" */
    int adobe, jfif, arithmetic, progressive, restart, quality, dct_float;
    int ids; /* first component id, 0: libjpeg's */
} kind;

static const kind kinds[] = {
    {"arith-grey", 19, 13, 1, JCS_GRAYSCALE, "1x1", 0, 1, 1, 0, 0, 80, 0, 0},
    {"arith-420", 35, 21, 3, JCS_YCbCr, "2x2,1x1,1x1", 0, 1, 1, 0, 0, 80, 0, 0},
    {"arith-444-restart", 35, 21, 3, JCS_YCbCr, "1x1,1x1,1x1", 0, 1, 1, 0, 3, 80, 0, 0},
    {"arith-progressive", 35, 21, 3, JCS_YCbCr, "2x2,1x1,1x1", 0, 1, 1, 1, 0, 80, 0, 0},
    {"rgb-ids", 19, 13, 3, JCS_RGB, "1x1,1x1,1x1", 0, 0, 0, 0, 0, 90, 0, 0},
    {"rgb-adobe", 19, 13, 3, JCS_RGB, "1x1,1x1,1x1", 1, 0, 0, 0, 0, 90, 0, 0},
    {"rgb-adobe-progressive", 19, 13, 3, JCS_RGB, "1x1,1x1,1x1", 1, 0, 0, 1, 0, 90, 0, 0},
    {"rgb-odd-ids", 19, 13, 3, JCS_RGB, "1x1,1x1,1x1", 0, 0, 0, 0, 0, 90, 0, 40},
    {"rgb-sampled", 33, 17, 3, JCS_RGB, "2x2,1x1,1x1", 1, 0, 0, 0, 0, 90, 0, 0},
    {"ycc-adobe", 19, 13, 3, JCS_YCbCr, "2x2,1x1,1x1", 1, 0, 0, 0, 0, 90, 0, 0},
    {"ycc-no-marker", 19, 13, 3, JCS_YCbCr, "2x2,1x1,1x1", 0, 0, 0, 0, 0, 90, 0, 0},
    {"ycc-odd-ids", 19, 13, 3, JCS_YCbCr, "2x1,1x1,1x1", 0, 0, 0, 0, 0, 90, 0, 60},
    {"grey-2x2", 19, 13, 1, JCS_GRAYSCALE, "2x2", 0, 1, 0, 0, 0, 90, 0, 0},
    {"grey-1x2-progressive", 21, 27, 1, JCS_GRAYSCALE, "1x2", 0, 1, 0, 1, 0, 90, 0, 0},
    {"cmyk-adobe", 19, 13, 4, JCS_CMYK, "1x1,1x1,1x1,1x1", 1, 0, 0, 0, 0, 90, 0, 0},
    {"cmyk-plain", 19, 13, 4, JCS_CMYK, "1x1,1x1,1x1,1x1", 0, 0, 0, 0, 0, 90, 0, 0},
    {"cmyk-sampled", 35, 21, 4, JCS_CMYK, "2x2,1x1,1x1,2x2", 1, 0, 0, 0, 0, 90, 0, 0},
    {"cmyk-progressive", 35, 21, 4, JCS_CMYK, "1x1,1x1,1x1,1x1", 1, 0, 0, 1, 0, 90, 0, 0},
    {"ycck-adobe", 19, 13, 4, JCS_YCCK, "1x1,1x1,1x1,1x1", 1, 0, 0, 0, 0, 90, 0, 0},
    {"ycck-420", 35, 21, 4, JCS_YCCK, "2x2,1x1,1x1,2x2", 1, 0, 0, 0, 0, 90, 0, 0},
    {"ycck-progressive", 35, 21, 4, JCS_YCCK, "2x2,1x1,1x1,2x2", 1, 0, 0, 1, 0, 90, 0, 0},
    {"ycck-arith", 35, 21, 4, JCS_YCCK, "2x2,1x1,1x1,2x2", 1, 0, 1, 0, 0, 90, 0, 0},
    {"s440", 35, 37, 3, JCS_YCbCr, "1x2,1x1,1x1", 0, 1, 0, 0, 0, 85, 0, 0},
    {"s411", 69, 21, 3, JCS_YCbCr, "4x1,1x1,1x1", 0, 1, 0, 0, 0, 85, 0, 0},
    {"s410", 69, 37, 3, JCS_YCbCr, "4x2,1x1,1x1", 0, 1, 0, 0, 0, 85, 0, 0},
    {"s441", 21, 69, 3, JCS_YCbCr, "1x4,1x1,1x1", 0, 1, 0, 0, 0, 85, 0, 0},
    {"s422-swapped", 35, 21, 3, JCS_YCbCr, "1x1,2x1,2x1", 0, 1, 0, 0, 0, 85, 0, 0},
    {"s-cb-only", 35, 21, 3, JCS_YCbCr, "2x2,2x1,1x2", 0, 1, 0, 0, 0, 85, 0, 0},
    {"s444-as-1x3", 35, 21, 3, JCS_YCbCr, "1x3,1x3,1x3", 0, 1, 0, 0, 0, 85, 0, 0},
    {"s440-progressive", 35, 37, 3, JCS_YCbCr, "1x2,1x1,1x1", 0, 1, 0, 1, 0, 85, 0, 0},
    {"s411-progressive", 69, 21, 3, JCS_YCbCr, "4x1,1x1,1x1", 0, 1, 0, 1, 0, 85, 0, 0},
    {"restart-1", 35, 21, 3, JCS_YCbCr, "2x2,1x1,1x1", 0, 1, 0, 0, 1, 85, 0, 0},
    {"restart-2-progressive", 35, 21, 3, JCS_YCbCr, "2x2,1x1,1x1", 0, 1, 0, 1, 2, 85, 0, 0},
    {"float-dct", 35, 21, 3, JCS_YCbCr, "2x2,1x1,1x1", 0, 1, 0, 0, 0, 95, 1, 0},
};

/* Something with edges, slopes and noise that depends on nothing. */
static void fill(unsigned char *row, const kind *k, int y) {
    unsigned state = 12345u + (unsigned)y * 7919u;
    for (int x = 0; x < k->w; x++)
        for (int c = 0; c < k->components; c++) {
            state = state * 1103515245u + 12345u;
            int v = x * (5 + c * 3) + y * (9 - c * 2) + ((x / 7 + y / 5) % 2 ? 60 : 0) +
                    (int)(state >> 28);
            row[x * k->components + c] = (unsigned char)(v & 255);
        }
}

static void write_one(const char *folder, const kind *k) {
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr errors;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.jpg", folder, k->name);
    FILE *f = fopen(path, "wb");
    if (!f)
        exit(1);
    c.err = jpeg_std_error(&errors);
    jpeg_create_compress(&c);
    jpeg_stdio_dest(&c, f);
    c.image_width = (JDIMENSION)k->w;
    c.image_height = (JDIMENSION)k->h;
    c.input_components = k->components;
    c.in_color_space = k->components == 1 ? JCS_GRAYSCALE : k->components == 4 ? JCS_CMYK : JCS_RGB;
    jpeg_set_defaults(&c);
    jpeg_set_colorspace(&c, k->stored);
    jpeg_set_quality(&c, k->quality, TRUE);
    const char *s = k->sampling;
    for (int i = 0; i < c.num_components; i++, s += 4) {
        c.comp_info[i].h_samp_factor = s[0] - '0';
        c.comp_info[i].v_samp_factor = s[2] - '0';
        if (k->ids)
            c.comp_info[i].component_id = k->ids + i;
    }
    c.write_Adobe_marker = (boolean)k->adobe;
    c.write_JFIF_header = (boolean)k->jfif;
    c.arith_code = (boolean)k->arithmetic;
    c.restart_interval = (unsigned)k->restart;
    c.dct_method = k->dct_float ? JDCT_FLOAT : JDCT_ISLOW;
    if (k->progressive)
        jpeg_simple_progression(&c);
    jpeg_start_compress(&c, TRUE);
    unsigned char row[256 * 4];
    for (int y = 0; y < k->h; y++) {
        JSAMPROW p = row;
        fill(row, k, y);
        jpeg_write_scanlines(&c, &p, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    fclose(f);
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        write_one(argv[1], &kinds[i]);
    return 0;
}
