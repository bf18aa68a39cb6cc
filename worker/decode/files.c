/* worker/decode/files.c - names and opening (contract in files.h). */
#include "worker/decode/files.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

void ds_rejected_add(ds_rejected_list *list, const char *path, const char *fmt, ...) {
    list->count++;
    if (list->listed >= DS_REJECTED_LISTED || list->bytes >= DS_REJECTED_BYTES)
        return;
    if (list->listed == list->cap) {
        list->cap = list->cap ? list->cap * 2 : 16;
        list->items = ds_xrealloc(list->items, (size_t)list->cap * sizeof *list->items);
    }
    char reason[DS_REASON_SIZE];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(reason, sizeof reason, fmt, ap);
    va_end(ap);
    ds_rejected item = {ds_name_escape(path), ds_name_escape(reason)};
    int64_t bytes = (int64_t)(strlen(item.path) + strlen(item.reason));
    if (list->bytes + bytes > DS_REJECTED_BYTES) {
        free(item.path);
        free(item.reason);
        list->bytes = DS_REJECTED_BYTES; /* the list ends here: no shorter one comes later */
        return;
    }
    list->bytes += bytes;
    list->items[list->listed++] = item;
}

static int by_path(const void *a, const void *b) {
    const ds_rejected *x = a, *y = b;
    int d = strcmp(x->path, y->path);
    return d ? d : strcmp(x->reason, y->reason);
}

void ds_rejected_sort(ds_rejected_list *list) {
    if (list->listed)
        qsort(list->items, (size_t)list->listed, sizeof *list->items, by_path);
}

void ds_rejected_release(ds_rejected_list *list) {
    for (int64_t i = 0; i < list->listed; i++) {
        free(list->items[i].path);
        free(list->items[i].reason);
    }
    free(list->items);
    *list = (ds_rejected_list){0};
}

/* Length of the UTF-8 sequence at p (RFC 3629: no surrogates, no overlong form), 0 if it is none
 * or a control character. */
static int utf8_length(const unsigned char *p) {
    if (p[0] < 0x20 || p[0] == 0x7f)
        return 0;
    if (p[0] < 0x80)
        return 1;
    int n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    for (int i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xc2 && p[1] < 0xa0) || /* C1 controls */
        (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90))
        return 0;
    return n;
}

static int is_control(const unsigned char *p) {
    return p[0] < 0x20 || p[0] == 0x7f || (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0);
}

const char *ds_name_problem(const char *name) {
    const unsigned char *p = (const unsigned char *)name;
    if (!*p)
        return "empty name";
    if (strlen(name) >= DS_DATA_PATH_MAX)
        return "path longer than 4095 bytes";
    while (*p) {
        int n = utf8_length(p);
        if (!n)
            return is_control(p) ? "control character in the name" : "name is not valid UTF-8";
        p += n;
    }
    return NULL;
}

void ds_text_whole(char *text) {
    char *out = text;
    while (*text) {
        int n = utf8_length((const unsigned char *)text);
        if (!n && (unsigned char)*text < 0x80)
            n = 1;
        for (int i = 0; i < n; i++)
            *out++ = text[i];
        text += n ? n : 1;
    }
    *out = 0;
}

char *ds_name_escape(const char *name) {
    const unsigned char *p = (const unsigned char *)name;
    char *out = ds_xmalloc(strlen(name) * 4 + 1), *o = out;
    while (*p) {
        int n = utf8_length(p);
        if (n) {
            memcpy(o, p, (size_t)n);
            o += n;
            p += n;
        } else {
            o += snprintf(o, 5, "\\x%02x", *p++);
        }
    }
    *o = 0;
    return out;
}

int ds_path_beneath(const char *path) {
    if (strlen(path) >= DS_DATA_PATH_MAX)
        return 0;
    for (const char *p = path;; p++) {
        size_t n = strcspn(p, "/");
        if (!n || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
            return 0;
        p += n;
        if (!*p)
            return 1;
    }
}

/* Where openat2 is missing (old kernel, container filter): open part by part, no links at all. */
static int open_walk(int root_fd, const char *path) {
    int dir = root_fd;
    for (const char *p = path;;) {
        char part[256];
        size_t n = strcspn(p, "/");
        if (n >= sizeof part) {
            errno = ENAMETOOLONG;
            break;
        }
        memcpy(part, p, n);
        part[n] = 0;
        int last = !p[n];
        int fd = openat(dir, part,
                        O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC |
                            (last ? 0 : O_DIRECTORY));
        int saved = errno;
        if (dir != root_fd)
            close(dir);
        errno = saved;
        if (fd < 0 || last)
            return fd;
        dir = fd;
        p += n + 1;
    }
    if (dir != root_fd)
        close(dir);
    return -1;
}

static int open_inside(int root_fd, const char *path) {
    struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    /* EAGAIN: a rename raced with the resolution; the kernel asks to try again. */
    for (int tries = 0; tries < 16; tries++) {
        int fd = (int)syscall(SYS_openat2, root_fd, path, &how, sizeof how);
        if (fd >= 0)
            return fd;
        if (errno == ENOSYS || errno == EPERM)
            return open_walk(root_fd, path);
        if (errno != EAGAIN && errno != EINTR)
            return -1;
    }
    return -1;
}

int ds_machine_fails(const char *path, ds_error *err) {
    int why = errno;
    switch (why) {
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EAGAIN: return ds_fail(err, DS_EBUSY, "cannot read '%.300s': %s", path, strerror(why));
    case EIO:
    case EREMOTEIO:
    case ESTALE:
    case ETIMEDOUT:
    case ENOTCONN: /* a FUSE file system whose program has ended */
    case ECONNABORTED:
    case EHOSTDOWN:
    case ENETDOWN:
    case ENODEV:
        return ds_fail(
            err, DS_EIO,
            "cannot read '%.300s': %s: that is the disk or what is mounted, so nothing is "
            "decided of the file",
            path, strerror(why));
    default: return 0;
    }
}

int ds_open_folder(const char *path, int links, int *out, ds_error *err) {
    char part[256];
    struct stat st;
    int fd = open(links ? path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOTDIR ? ds_fail(err, DS_EINVAL, "'%s' is not a folder", path)
                                : ds_fail_errno(err, "cannot open folder '%s'", path);
    for (const char *p = path; !links && *(p += strspn(p, "/"));) {
        size_t n = strcspn(p, "/");
        snprintf(part, sizeof part, "%.*s", (int)n, p);
        p += n;
        int last = !p[strspn(p, "/")], next;
        next = n < sizeof part
                   ? openat(fd, part,
                            (last ? O_RDONLY : O_PATH) | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                   : (errno = ENAMETOOLONG, -1);
        int why = errno, link = next < 0 && (why == ENOTDIR || why == ELOOP) &&
                                !fstatat(fd, part, &st, AT_SYMLINK_NOFOLLOW) && S_ISLNK(st.st_mode);
        close(fd);
        fd = next;
        errno = why;
        if (link)
            return ds_fail(err, DS_EINVAL,
                           "'%s' leads through a link, at '%s', where a folder was when it was "
                           "added: it is not followed; put the folder back, or add the one that "
                           "the link leads to",
                           path, part);
        if (fd < 0)
            return why == ENOTDIR ? ds_fail(err, DS_EINVAL, "'%s' is not a folder", path)
                                  : ds_fail_errno(err, "cannot open folder '%s'", path);
    }
    *out = fd;
    return 0;
}

static const char *open_reason(int e) {
    switch (e) {
    case EXDEV: return "link leaves the folder (cp -rL makes a copy without links)";
    case ELOOP: return "link cannot be followed";
    case EACCES:
    case EPERM: return "cannot be read: permission denied";
    case ENOENT: return "missing";
    case ENXIO: return "not a regular file";
    default: return NULL;
    }
}

int ds_open_beneath(int root_fd, const char *path, struct stat *st, char reason[DS_REASON_SIZE]) {
    if (!ds_path_beneath(path)) {
        snprintf(reason, DS_REASON_SIZE, "path leaves the folder");
        errno = 0;
        return -1;
    }
    int fd = open_inside(root_fd, path);
    if (fd < 0) {
        int why = errno;
        const char *known = open_reason(why);
        if (known)
            snprintf(reason, DS_REASON_SIZE, "%s", known);
        else
            snprintf(reason, DS_REASON_SIZE, "cannot be opened: %s", strerror(why));
        errno = why;
        return -1;
    }
    int why = fstat(fd, st) ? errno : 0;
    if (!why && S_ISREG(st->st_mode))
        return fd;
    snprintf(reason, DS_REASON_SIZE, "%s",
             why                    ? strerror(why)
             : S_ISDIR(st->st_mode) ? "link to a folder is not followed (cp -rL makes a copy "
                                      "without links)"
                                    : "not a regular file");
    close(fd);
    errno = why;
    return -1;
}

int ds_read_hashed(int fd, uint8_t *buf, size_t size, char sha256[DS_HEX_SIZE],
                   char reason[DS_REASON_SIZE]) {
    size_t done = 0;
    /* One byte more than expected is asked for, so that a file that grew is noticed. */
    while (done < size) {
        ssize_t r = read(fd, buf + done, size - done);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0) {
            int why = errno;
            snprintf(reason, DS_REASON_SIZE, "cannot be read: %s", strerror(why));
            errno = why;
            return -1;
        }
        if (r == 0)
            break;
        done += (size_t)r;
    }
    char more;
    if (done < size || read(fd, &more, 1) > 0) {
        snprintf(reason, DS_REASON_SIZE, "changed while reading");
        errno = 0;
        return -1;
    }
    ds_digest(buf, size, sha256);
    return 0;
}
