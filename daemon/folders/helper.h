/* daemon/folders/helper.h - questions to file systems that may never answer.
 *
 * A folder that a person names can lie on a mount that hangs: a call there does not return, and
 * cannot be interrupted, not even by SIGKILL.  So the daemon makes no such call.  Helpers make
 * them: processes (this program again, with an argument of its own) that read questions from a
 * socket, one at a time, and may get stuck.  A process that hangs keeps no lock, no socket and no
 * exit of the daemon waiting, as a thread would.
 *
 * Questions for the same mount share a helper for short ones and one for walks.  When one has not
 * answered for DS_HELPER_SECONDS the asker is told (late), the helper is set aside, and another
 * one takes the other questions; at most 3 a mount and 24 in all are set aside, beyond that the
 * questions of that mount wait and are late too.  Should the stuck call return after all, its
 * answer arrives as if nothing had been.  Helpers without work end after a minute.
 *
 * Thread: loop thread.  Ownership: an ask lives until its last answer or ds_ask_forget.
 */
#ifndef DS_DAEMON_FOLDERS_HELPER_H
#define DS_DAEMON_FOLDERS_HELPER_H

#include "base/error.h"

#include <limits.h>
#include <stdint.h>
#include <uv.h>

#define DS_HELPER_SECONDS 5.0
#define DS_HELPER_ENV "DIFFSCALER_HELPER_SECONDS" /* another deadline, for tests */
/* Test hook: a file.  While it is there, the file system of each path that begins with its content
 * does not answer. */
#define DS_HELPER_HANG "DS_TEST_HANG"

enum ds_ask_op {
    DS_ASK_ROOT = 1, /* is this the root of a dataset?  no link is followed */
    DS_ASK_WATCH,    /* the same, and it and all below it are watched; word "sub": only below */
    DS_ASK_LOOK,     /* ds_look_at_folder */
    DS_ASK_SOURCE,   /* ds_look_at_source: word is the member's name, flag 1: a file only */
    DS_ASK_PICTURES, /* ds_look_for_pictures */
};

/* What is at the path of a root. */
enum ds_root_place {
    DS_ROOT_OK,
    DS_ROOT_MISSING,
    DS_ROOT_LINK,    /* it, or a folder on the way to it, is a link; text says where it leads */
    DS_ROOT_REFUSED, /* in the state folder, or holds it; text says so */
    DS_ROOT_ERROR,   /* text */
};

#define DS_ANSWER_TEXT 24000

typedef struct {
    uint32_t op, flag, room; /* room: directories that may still be watched */
    char word[20];
    char path[PATH_MAX];
} ds_question;

/* One packet of an answer. */
typedef struct {
    int32_t last;  /* nothing follows */
    int32_t code;  /* of LOOK, SOURCE, PICTURES: 0 or an error, then text is its message */
    int32_t place; /* ds_root_place */
    int32_t full;  /* 1: the kernel's limit of watches, 2: no room; the rest is not watched */
    uint64_t dev, ino;
    uint32_t size; /* of text */
    /* of WATCH: records {int32 wd; char kind ('d' folder, 'a' above the root); path, zero}; of the
     * rest: a canonical path or a message, zero-terminated */
    char text[DS_ANSWER_TEXT];
} ds_answer;

typedef struct ds_helpers ds_helpers;
typedef struct ds_ask ds_ask;

typedef struct {
    void (*answer)(void *ctx, const ds_answer *a);
    void (*late)(void *ctx); /* once; may be NULL */
    void *ctx;
} ds_ask_to;

/* self: the daemon's executable; inotify: descriptor that watches are added to, -1: none. */
ds_helpers *ds_helpers_open(uv_loop_t *loop, const char *self, const char *state, int inotify);
void ds_helpers_close(ds_helpers *h); /* NULL is fine; no callback follows; run the loop after */
void ds_helpers_tick(ds_helpers *h);  /* about once a second: deadlines */
unsigned ds_helpers_stuck(const ds_helpers *h);
/* The same mounts have other roots now: 1 once after each change of the table of mounts. */
int ds_helpers_mounts_changed(ds_helpers *h);

ds_ask *ds_helpers_ask(ds_helpers *h, const ds_question *q, const ds_ask_to *to);
void ds_ask_forget(ds_ask *a); /* its callbacks are not called any more; NULL is fine */

/* The helper's main (daemon/folders/helper_child.c); returns when the arguments are not for it. */
#define DS_HELPER_ARG "--ask-files" /* argv: self DS_HELPER_ARG STATE; socket on 0, inotify on 3 */
void ds_helper_main(int argc, char **argv);

#endif
