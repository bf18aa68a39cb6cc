/* cli/pictures.h - many samples, as they arrive: one PNG file each in a folder, or one .npz file.
 *
 * The source is samples.safetensors of a sample job (docs/formats.md): a header, labels, then the
 * pictures one after the other.  Memory holds one picture and the labels, however many there are.
 *
 *   folder   NNNNN-CLASS.png: the index from 0, zero-padded, and the name of the class, its
 *            characters outside A-Za-z0-9._- as '_'; NNNNN.png where pictures have no class.  The
 *            folder appears whole: until then it is NAME.XXXXXX beside it, removed on failure.
 *   .npz     arr_0, uint8 (N, H, W, 3), not compressed: what ADM and DiT write (numpy.savez)
 *
 * Thread: one.  Errors: as ds_fs_output_dir_check and ds_fs_output_check; DS_EINTEGRITY when the
 * stream is no such file or ends early.
 */
#ifndef DS_CLI_PICTURES_H
#define DS_CLI_PICTURES_H

#include "base/error.h"
#include "cli/client.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ds_pictures ds_pictures;

/* 1: the name asks for a folder of pictures (it ends in '/', or is a folder). */
int ds_pictures_folder(const char *target);

/* Can it be written where it is to go?  With force a folder may be replaced that holds nothing but
 * pictures of an earlier sample. */
int ds_pictures_check(const char *target, int force, ds_error *err);

/* Begins to write; the check is made again.  Release with finish or abort. */
int ds_pictures_open(ds_pictures **out, const char *target, int force, ds_error *err);
/* Nothing is written: fn is shown each picture, (height, width, 3), in order. */
typedef int ds_picture_fn(void *ud, int64_t index, const uint8_t *rgb, int width, int height,
                          ds_error *err);
void ds_pictures_open_fn(ds_pictures **out, ds_picture_fn *fn, void *ud);
/* All of a job's pictures from the daemon, and the end: releases p, also when it fails.  progress
 * (may be NULL) as in ds_client_stream. */
int ds_pictures_fetch(ds_pictures *p, ds_client *h, int64_t job, ds_client_progress_fn *progress,
                      void *ud, int64_t *count, ds_error *err);
/* The next bytes of the file. */
int ds_pictures_put(ds_pictures *p, const void *data, size_t n, ds_error *err);
/* Everything has arrived: puts it in place; *count pictures.  Releases p, also when it fails. */
int ds_pictures_finish(ds_pictures *p, int64_t *count, ds_error *err);
void ds_pictures_abort(ds_pictures *p); /* NULL is fine */

#endif
