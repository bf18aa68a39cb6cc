/* daemon/folders/helper_child.c - the process of helper.h: asks the file system, may hang there. */
#include "base/log.h"
#include "base/mem.h"
#include "daemon/folders/helper.h"
#include "daemon/folders/look.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MASK                                                                                       \
    (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_CLOSE_WRITE | IN_DELETE_SELF |       \
     IN_MOVE_SELF | IN_ONLYDIR | IN_EXCL_UNLINK | IN_MASK_ADD)
/* Of a folder above a root only its own way is of interest, not what happens in it. */
#define MASK_ABOVE (IN_MOVE_SELF | IN_DELETE_SELF | IN_ONLYDIR | IN_MASK_ADD)
#define DEPTH 64 /* deeper than any scan goes */
#define INOTIFY 3

typedef struct {
    dev_t dev;
    ino_t ino;
} identity;

typedef struct {
    int inotify;
    const char *state;
    identity above[64]; /* the state folder, its parent, ... */
    int above_count;
    const ds_question *q;
    ds_answer a;
    unsigned room;
    char path[PATH_MAX]; /* of the walk */
} helper;

/* ---- answering ---- */

static void send_packet(helper *h, int last) {
    h->a.last = last;
    size_t n = offsetof(ds_answer, text) + h->a.size;
    if (send(0, &h->a, n, MSG_NOSIGNAL) != (ssize_t)n)
        _exit(0); /* the daemon is gone */
    h->a.size = 0;
}

static void say(helper *h, const char *text) {
    h->a.size = (uint32_t)snprintf(h->a.text, sizeof h->a.text, "%s", text) + 1;
    if (h->a.size > sizeof h->a.text)
        h->a.size = sizeof h->a.text;
}

static int place(helper *h, int what, const char *text) {
    if (h->a.size) /* records */
        send_packet(h, 0);
    h->a.place = what;
    say(h, text);
    return -1;
}

static void record(helper *h, int wd, char kind, const char *path) {
    int32_t n = wd;
    size_t size = sizeof n + 1 + strlen(path) + 1;
    if (h->a.size + size > sizeof h->a.text)
        send_packet(h, 0);
    char *p = h->a.text + h->a.size;
    memcpy(p, &n, sizeof n);
    p[sizeof n] = kind;
    memcpy(p + sizeof n + 1, path, strlen(path) + 1);
    h->a.size += (uint32_t)size;
}

/* ---- watching ---- */

/* By descriptor: what is watched is what was opened, whatever has the name by now. */
static int add_watch(helper *h, int fd, char kind, const char *path) {
    char name[40];
    if (h->inotify < 0)
        return 0;
    if (kind == 'd' && h->room == 0) {
        h->a.full = 2;
        return 0;
    }
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int wd = inotify_add_watch(h->inotify, name, kind == 'a' ? MASK_ABOVE : MASK);
    if (wd < 0) {
        if (errno == ENOSPC)
            h->a.full = 1;
        return 0;
    }
    h->room -= kind == 'd';
    record(h, wd, kind, path);
    return 1;
}

static int is_state(const helper *h, int fd) {
    struct stat st;
    return h->above_count && fstat(fd, &st) == 0 && st.st_dev == h->above[0].dev &&
           st.st_ino == h->above[0].ino;
}

/* Takes fd over; h->path has its n bytes.  -1: the walk ends here and now. */
static int walk(helper *h, int fd, size_t n, int depth) {
    if (depth && is_state(h, fd)) { /* a mount can bring it anywhere */
        close(fd);
        return place(h, DS_ROOT_REFUSED,
                     "the folder holds the state folder of the daemon, through a mount below it: "
                     "give a folder that holds the images alone");
    }
    /* The watch comes before the listing, so that nothing falls between the two. */
    DIR *dir = add_watch(h, fd, 'd', h->path) && depth < DEPTH ? fdopendir(fd) : NULL;
    if (!dir) {
        close(fd);
        return 0;
    }
    int rc = 0;
    for (struct dirent *d; !rc && (d = readdir(dir));) {
        size_t m = strlen(d->d_name);
        struct stat st;
        if (d->d_name[0] == '.' || (d->d_type != DT_DIR && d->d_type != DT_UNKNOWN) ||
            n + 1 + m >= sizeof h->path)
            continue;
        if (d->d_type == DT_UNKNOWN &&
            (fstatat(fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISDIR(st.st_mode)))
            continue;
        int sub = openat(fd, d->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (sub < 0)
            continue;
        h->path[n] = '/';
        memcpy(h->path + n + 1, d->d_name, m + 1);
        rc = walk(h, sub, n + 1 + m, depth + 1);
        h->path[n] = 0;
    }
    closedir(dir);
    return rc;
}

/* ---- the root ---- */

static int missing(helper *h, int dir, const char *name) {
    struct stat st;
    char to[PATH_MAX];
    int why = errno;
    if (why == ENOENT)
        return place(h, DS_ROOT_MISSING, "the folder does not exist");
    if ((why == ENOTDIR || why == ELOOP) && fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        if (!S_ISLNK(st.st_mode))
            return place(h, DS_ROOT_MISSING, "there is a file in its place");
        if (!realpath(h->q->path, to))
            snprintf(to, sizeof to, "nowhere");
        return place(h, DS_ROOT_LINK, to);
    }
    if (why == EACCES || why == EPERM) /* there, and the scan has the words for it */
        return -1;
    return place(h, DS_ROOT_ERROR, strerror(why));
}

static int refused(helper *h, const char *how) {
    char text[2 * PATH_MAX];
    snprintf(text, sizeof text,
             "the folder %s the state folder '%s' of the daemon, which each job changes: give a "
             "folder elsewhere that holds the images alone",
             how, h->state);
    return place(h, DS_ROOT_REFUSED, text);
}

/* Opens h->q->path one name after the other, following no link.  -1: the answer says why. */
static int open_root(helper *h, int above) {
    const char *p = h->q->path;
    int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct stat st = {0};
    if (fd < 0 || fstat(fd, &st))
        return place(h, DS_ROOT_ERROR, strerror(errno));
    while (*p) {
        p += strspn(p, "/");
        size_t n = strcspn(p, "/");
        char name[NAME_MAX + 1];
        if (!n)
            break;
        if (n >= sizeof name) {
            close(fd);
            return place(h, DS_ROOT_MISSING, "a name on the way to it is too long");
        }
        memcpy(name, p, n);
        name[n] = 0;
        p += n;
        int next = openat(fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (next < 0) {
            int rc = missing(h, fd, name);
            close(fd);
            return rc;
        }
        close(fd);
        fd = next;
        if (fstat(fd, &st) == 0 && h->above_count && st.st_dev == h->above[0].dev &&
            st.st_ino == h->above[0].ino) {
            close(fd);
            return refused(h, "is, or lies in,");
        }
        if (p[strspn(p, "/")] && above) {
            snprintf(h->path, sizeof h->path, "%.*s", (int)(p - h->q->path), h->q->path);
            add_watch(h, fd, 'a', h->path);
        }
    }
    h->a.dev = st.st_dev;
    h->a.ino = st.st_ino;
    for (int i = 1; i < h->above_count; i++)
        if (st.st_dev == h->above[i].dev && st.st_ino == h->above[i].ino) {
            close(fd);
            return refused(h, "holds");
        }
    return fd;
}

static void answer_root(helper *h) {
    int sub = strcmp(h->q->word, "sub") == 0, watch = h->q->op == DS_ASK_WATCH;
    int path = open_root(h, watch && !sub);
    if (path < 0)
        return;
    int fd = openat(path, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* real work: it may hang */
    close(path);
    if (fd < 0) {
        missing(h, AT_FDCWD, h->q->path);
        return;
    }
    if (!watch) {
        close(fd);
        return;
    }
    snprintf(h->path, sizeof h->path, "%s", h->q->path);
    size_t n = strlen(h->path);
    while (n > 1 && h->path[n - 1] == '/')
        h->path[--n] = 0;
    walk(h, fd, n, 0);
}

/* ---- looks ---- */

static void answer_look(helper *h) {
    char real[PATH_MAX] = "";
    ds_error err = {0};
    int rc;
    switch (h->q->op) {
    case DS_ASK_LOOK:
        rc = ds_look_at_folder(h->q->path, real, &err);
        if (!rc)
            rc = ds_look_at_place(real, h->state, &err);
        break;
    case DS_ASK_SOURCE:
        rc = ds_look_at_source(h->q->word, h->q->path, (int)h->q->flag, real, &err);
        break;
    case DS_ASK_PICTURES: rc = ds_look_for_pictures(h->q->word, h->q->path, real, &err); break;
    default: rc = ds_fail(&err, DS_EFAILED, "a helper was asked something unknown"); break;
    }
    h->a.code = rc;
    say(h, rc ? err.message : real);
    if (rc || h->q->op != DS_ASK_LOOK)
        return;
    ds_question again = *h->q; /* where it lies, whatever name or mount leads there */
    const ds_question *asked = h->q;
    snprintf(again.path, sizeof again.path, "%s", real);
    h->q = &again;
    int fd = open_root(h, 0);
    h->q = asked;
    if (fd >= 0) {
        close(fd);
        return;
    }
    if (h->a.place == DS_ROOT_REFUSED)
        h->a.code = DS_EINVAL;
    else
        say(h, real);
}

/* ---- life ---- */

static void know_state(helper *h, const char *state) {
    char path[PATH_MAX];
    struct stat st;
    snprintf(path, sizeof path, "%s", state);
    h->state = state;
    while (h->above_count < 64 && stat(path, &st) == 0) {
        h->above[h->above_count++] = (identity){st.st_dev, st.st_ino};
        char *slash = strrchr(path, '/');
        if (!slash || !path[1])
            return;
        slash[slash == path] = 0;
    }
}

static void hang_for_test(const char *path) {
    const char *file = getenv(DS_HELPER_HANG);
    char prefix[PATH_MAX];
    for (int fd; file && (fd = open(file, O_RDONLY | O_CLOEXEC)) >= 0; usleep(10000)) {
        ssize_t n = read(fd, prefix, sizeof prefix);
        close(fd);
        if (n <= 0 || strncmp(path, prefix, (size_t)n))
            return;
    }
}

void ds_helper_main(int argc, char **argv) {
    if (argc != 3 || strcmp(argv[1], DS_HELPER_ARG) != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN); /* a terminal's Ctrl-C is for the daemon */
    helper *h = ds_xcalloc(1, sizeof *h);
    ds_question *q = ds_xcalloc(1, sizeof *q);
    h->inotify = fcntl(INOTIFY, F_GETFD) < 0 ? -1 : INOTIFY;
    know_state(h, argv[2]);
    h->q = q;
    while (recv(0, q, sizeof *q, 0) == (ssize_t)sizeof *q) {
        memset(&h->a, 0, offsetof(ds_answer, text));
        h->room = q->room;
        q->word[sizeof q->word - 1] = q->path[sizeof q->path - 1] = 0;
        hang_for_test(q->path);
        if (q->op == DS_ASK_ROOT || q->op == DS_ASK_WATCH)
            answer_root(h);
        else
            answer_look(h);
        send_packet(h, 1);
    }
    _exit(0);
}
