/* worker/images/picture_stream.h - a folder's pictures, decoded in sandboxes and prepared for a
 * feature network while the network works on those before.
 *
 * Purpose: `diffscaler-worker evaluate`.  All picture files below a folder in the order of their
 * path's bytes (or a list that the caller made), or n of them: chosen by the seed (DS_STREAM_SPLIT,
 * step 2), or the first ones.  Decoding threads, each with its own restricted child
 * (worker/decode/sandbox.h), run ahead by at most a ring of slots, so memory does not depend on the
 * number of pictures.  Results come in the order of the list, whatever the threads do.  A file that
 * cannot be decoded costs only itself (`rejected`).  The first n pictures of an .npz file come the
 * same way, without a child: there is nothing to decode.
 *
 * Ownership: open/close.  Thread: next and close from one thread.  Errors: DS_ENOTFOUND, DS_EPERM,
 * DS_EINVAL (no picture), DS_EFAILED (no child can be started).
 */
#ifndef DS_WORKER_IMAGES_PICTURE_STREAM_H
#define DS_WORKER_IMAGES_PICTURE_STREAM_H

#include "engine/metrics/fid_net.h"
#include "engine/metrics/npz.h"
#include "worker/decode/decode.h"

#define DS_PICTURE_DECODERS_MAX 64

typedef struct {
    const char *folder;
    const char *program; /* as in ds_sandbox_options */
    enum ds_fid_mode mode;
    int side; /* of what next gives: ds_fid_net_side; 0 = DS_INCEPTION_SIDE */
    enum ds_decode_use use;
    /* The files, relative to folder, in this order; NULL: all picture files below it, by path.
     * Borrowed until close. */
    const char *const *files;
    int64_t file_count;
    ds_npz_pictures *npz; /* instead of files, from its start; the caller's, until close */
    int follow_links;     /* open as any program would; 0: nothing outside the folder is opened */
    int64_t n;            /* 0 = all */
    int first_n;          /* n are the first ones, not drawn */
    uint64_t seed;
    int batch;    /* most pictures of one call of next */
    int decoders; /* threads, each with a child; at most DS_PICTURE_DECODERS_MAX */
} ds_picture_options;

typedef struct ds_picture_stream ds_picture_stream;

int ds_picture_stream_open(ds_picture_stream **out, const ds_picture_options *o, ds_error *err);
void ds_picture_stream_close(ds_picture_stream *s); /* NULL is fine; also in the middle */

int64_t ds_picture_stream_total(const ds_picture_stream *s); /* files in the list */
int64_t ds_picture_stream_done(const ds_picture_stream *s);  /* of them, given out or rejected */

/* The file at a position of the list, valid until close; "" of an .npz file. */
const char *ds_picture_stream_path(const ds_picture_stream *s, int64_t i);

/* The next pictures: up to `batch` pointers to (side,side,3) and their positions in the list, valid
 * until the next call.  *count = 0: that was all. */
int ds_picture_stream_next(ds_picture_stream *s, const float **images, int64_t *indices, int *count,
                           ds_error *err);

/* Files that gave no picture: how many so far; and which ones, after the last call of next. */
int64_t ds_picture_stream_left_out(ds_picture_stream *s);
const ds_rejected_list *ds_picture_stream_rejected(const ds_picture_stream *s);
/* Those of them on which the tool itself fails (DS_DECODE_BROKEN), with the reason. */
const ds_rejected_list *ds_picture_stream_broken(const ds_picture_stream *s);

/* How many of the pictures given out have a note of worker/decode/decode.h (one bit), and the path
 * of the first (NULL when count is 0), valid until close. */
int64_t ds_picture_stream_noted(const ds_picture_stream *s, unsigned note, const char **first);

/* How many of the pictures given out have another size than the first, and the path of one (NULL
 * when there is none, or without files), valid until close. */
int64_t ds_picture_stream_other_sizes(const ds_picture_stream *s, const char **path);

/* Identity of the pictures given out: SHA-256 of the lines "<sha256 of the file>  <path>\n", of an
 * .npz file SHA-256 of the pixels. */
void ds_picture_stream_digest(ds_picture_stream *s, char out[DS_HEX_SIZE]);

#endif
