/* tests/long/hung_fuse.c - a file system that answers, until it does not.
 *
 * hung_fuse DIR PICTURE HANG: mounts at DIR (as root, through /dev/fuse) a folder with the one file
 * a.png, a copy of PICTURE.  While the file HANG exists, requests (if it says "read": those that read
 * the picture) are taken and not answered: who made them cannot be interrupted, not even killed. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char picture[1 << 20];
static size_t size;
static int dev;

static void answer(uint64_t unique, int error, const void *data, size_t n) {
    struct fuse_out_header h = {
        .len = (uint32_t)(sizeof h + (error ? 0 : n)), .error = -error, .unique = unique};
    struct iovec part[2] = {{&h, sizeof h}, {(void *)(uintptr_t)data, error ? 0 : n}};
    if (writev(dev, part, 2) < 0 && errno != ENOENT)
        perror("hung_fuse: answer");
}

static struct fuse_attr attributes(uint64_t node) {
    return (struct fuse_attr){.ino = node,
                              .size = node == 1 ? 0 : size,
                              .mode = node == 1 ? S_IFDIR | 0755 : S_IFREG | 0644,
                              .nlink = 1,
                              .mtime = 1700000000,
                              .blksize = 4096};
}

static void list(uint64_t unique, uint64_t offset) {
    char buf[64] = {0};
    struct fuse_dirent *e = (struct fuse_dirent *)(void *)buf;
    if (offset) {
        answer(unique, 0, NULL, 0);
        return;
    }
    e->ino = 2;
    e->off = 1;
    e->namelen = 5;
    e->type = S_IFREG >> 12;
    memcpy(e->name, "a.png", 5);
    answer(unique, 0, buf, FUSE_DIRENT_SIZE(e));
}

static void serve(const struct fuse_in_header *in, const void *arg) {
    switch (in->opcode) {
    case FUSE_INIT: {
        const struct fuse_init_in *i = arg;
        struct fuse_init_out o = {.major = FUSE_KERNEL_VERSION,
                                  .minor = i->minor < 31 ? i->minor : 31,
                                  .max_readahead = 65536,
                                  .max_write = 65536};
        answer(in->unique, 0, &o, sizeof o);
        break;
    }
    case FUSE_LOOKUP: {
        struct fuse_entry_out o = {.nodeid = 2, .attr = attributes(2)};
        answer(in->unique, strcmp(arg, "a.png") ? ENOENT : 0, &o, sizeof o);
        break;
    }
    case FUSE_GETATTR: {
        struct fuse_attr_out o = {.attr = attributes(in->nodeid)};
        answer(in->unique, 0, &o, sizeof o);
        break;
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
        struct fuse_open_out o = {.fh = 1};
        answer(in->unique, 0, &o, sizeof o);
        break;
    }
    case FUSE_READDIR: list(in->unique, ((const struct fuse_read_in *)arg)->offset); break;
    case FUSE_READ: {
        const struct fuse_read_in *r = arg;
        size_t from = r->offset < size ? r->offset : size,
               n = r->size < size - from ? r->size : size - from;
        answer(in->unique, 0, picture + from, n);
        break;
    }
    case FUSE_STATFS: {
        struct fuse_statfs_out o = {.st = {.bsize = 4096, .namelen = 255}};
        answer(in->unique, 0, &o, sizeof o);
        break;
    }
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH:
    case FUSE_ACCESS: answer(in->unique, 0, NULL, 0); break;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT: break;
    default: answer(in->unique, ENOSYS, NULL, 0);
    }
}

static int hangs(const char *file, uint32_t opcode) {
    char word[8] = "";
    int fd = open(file, O_RDONLY);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, word, sizeof word - 1);
    close(fd);
    return n < 4 || memcmp(word, "read", 4) != 0 || opcode == FUSE_READ;
}

int main(int argc, char **argv) {
    static char buf[1 << 20];
    char options[100];
    if (argc != 4) {
        fprintf(stderr, "usage: hung_fuse DIR PICTURE HANG\n");
        return 2;
    }
    int fd = open(argv[2], O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, picture, sizeof picture);
    dev = open("/dev/fuse", O_RDWR);
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", dev);
    if (n <= 0 || dev < 0 ||
        mount("hung_fuse", argv[1], "fuse.hung", MS_NOSUID | MS_NODEV, options)) {
        perror("hung_fuse: cannot mount");
        return 77;
    }
    size = (size_t)n;
    while ((n = read(dev, buf, sizeof buf)) > 0 || errno == EINTR) {
        const struct fuse_in_header *in = (const struct fuse_in_header *)(const void *)buf;
        if (n < (ssize_t)sizeof *in)
            continue;
        while (in->opcode != FUSE_INIT && hangs(argv[3], in->opcode))
            usleep(20000);
        serve(in, buf + sizeof *in);
    }
    return 0;
}
