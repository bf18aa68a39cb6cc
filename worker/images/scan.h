/* worker/images/scan.h - a source -> its usable pictures, classes, digest and rejects.
 *
 * Purpose: job kind "scan" (docs/jobs.md).  Pictures and their classes come from a source
 * (source.h).  Where it knows no class at all, everything is one class named after the dataset.  In
 * a folder classes are those of metadata.csv (file_name,label) in the root where there is one, else
 * the first-level sub-folders that hold pictures.  Every file that is not used is in `rejected`
 * with its reason, except hidden ones and a short list of usual companions (.txt, .csv, .json,
 * .md, LICENSE, Thumbs.db ...), which are counted in `ignored`.
 *
 * The manifest is canonical: the same pictures give the same bytes, whatever order the file
 * system lists them in; tree_digest is its SHA-256.
 * Ownership: ds_scan fills the result also when it fails; ds_scan_release frees it.
 * Thread: any, one scan per hash cache file.  Errors: DS_EINVAL (no usable image, too many classes
 * or files, malformed metadata.csv), DS_ENOTFOUND, DS_EPERM, DS_ECANCELED.
 */
#ifndef DS_WORKER_IMAGES_SCAN_H
#define DS_WORKER_IMAGES_SCAN_H

#include "worker/images/source.h"

#include <jansson.h>

typedef struct {
    ds_source *source;      /* borrowed; NULL: the folder .. */
    const char *root;       /* .. of this path */
    int no_links;           /* 1: no part of it may be a link */
    const char *dataset;    /* name of the one class of a flat folder */
    const char *hash_cache; /* file; NULL or "" = none */
    const char *program;    /* as in ds_sandbox_options */
    int min_side;           /* 0: 8 */
    int64_t max_pixels;     /* 0: DS_DECODE_MAX_PIXELS, which is also the most */
    int64_t max_classes;    /* 0: 10,000 */
    int64_t max_files;      /* 0: 10,000,000 */
} ds_scan_options;

typedef struct {
    char *name;
    int64_t images;
} ds_scan_class;

typedef struct {
    char *manifest; /* text, with final newline */
    size_t manifest_size;
    char tree_digest[DS_HEX_SIZE];
    int64_t images, bytes;
    ds_scan_class *classes; /* sorted by bytes; class id = position */
    int64_t class_count;
    ds_rejected_list rejected;
    int min_width, max_width, min_height, max_height;
    int64_t hashed, cached, ignored;
    double seconds;
    char **warnings;
    int warning_count;
} ds_scan_result;

int ds_scan(const ds_scan_options *options, ds_scan_result *out, ds_progress *progress, void *user,
            ds_error *err);
void ds_scan_release(ds_scan_result *r);

/* The document result.json of a scan job; the manifest is named "manifest.ndjson". */
json_t *ds_scan_result_json(const ds_scan_result *r);

#endif
