/* daemon/http/tcp.c - see tcp.h. */
#include "daemon/http/tcp.h"

#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOKEN_LEAST 16
#define TOKEN_MOST 512

/* "[::1]:7" -> "::1", "7" */
static int split(const char *where, char host[64], char port[8], ds_error *err) {
    const char *colon = strrchr(where, ':');
    size_t n = colon ? (size_t)(colon - where) : 0, digits = colon ? strlen(colon + 1) : 0;
    int brackets = n > 2 && where[0] == '[' && where[n - 1] == ']';
    if (n == 0 || n >= 64 || digits == 0 || digits > 5 ||
        strspn(colon + 1, "0123456789") != digits || strtol(colon + 1, NULL, 10) > 65535 ||
        (!brackets && memchr(where, ':', n)))
        return ds_fail(err, DS_EINVAL,
                       "--listen '%.80s': give HOST:PORT, as 127.0.0.1:7777 or [::1]:7777", where);
    snprintf(host, 64, "%.*s", (int)(n - 2 * (size_t)brackets), where + brackets);
    snprintf(port, 8, "%s", colon + 1);
    return 0;
}

static int open_one(const struct addrinfo *a) {
    int one = 1, fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, 128)) {
        int e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    return fd;
}

static void name_of(int fd, char bound[DS_TCP_NAME]) {
    struct sockaddr_storage addr;
    socklen_t n = sizeof addr;
    char host[64] = "?", port[8] = "?";
    if (!getsockname(fd, (struct sockaddr *)&addr, &n))
        getnameinfo((struct sockaddr *)&addr, n, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(bound, DS_TCP_NAME, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

int ds_tcp_check(const char *where, ds_error *err) {
    char host[64], port[8];
    return split(where, host, port, err);
}

int ds_tcp_listen(const char *where, int *fd, char bound[DS_TCP_NAME], ds_error *err) {
    char host[64], port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    int rc = split(where, host, port, err);
    if (rc)
        return rc;
    int e = getaddrinfo(host, port, &hints, &list);
    if (e)
        return ds_fail(err, DS_EINVAL, "--listen '%s': %s", where, gai_strerror(e));
    *fd = -1;
    for (const struct addrinfo *a = list; a && *fd < 0; a = a->ai_next)
        *fd = open_one(a);
    e = errno;
    freeaddrinfo(list);
    errno = e;
    if (*fd < 0 && errno == EADDRINUSE)
        return ds_fail(err, DS_ECONFLICT,
                       "another program listens on %s: stop it or choose another --listen", where);
    if (*fd < 0)
        return ds_fail_errno(err, "cannot listen on %s", where);
    name_of(*fd, bound);
    return 0;
}

int ds_token_read(const char *path, char digest[DS_HEX_SIZE], ds_error *err) {
    struct stat st;
    char text[TOKEN_MOST + 3];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return ds_fail_errno(err, "cannot read token file '%s'", path);
    int plain = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    ssize_t n = plain ? read(fd, text, sizeof text - 1) : 0;
    close(fd);
    if (!plain)
        return ds_fail(err, DS_EINVAL, "token file '%s' is not a regular file", path);
    if (n < 0)
        return ds_fail_errno(err, "cannot read token file '%s'", path);
    if (st.st_mode & 077)
        return ds_fail(err, DS_EPERM,
                       "token file '%s' can be read by others (mode %04o): chmod 600 '%s'", path,
                       st.st_mode & 07777u, path);
    text[n] = 0;
    n -= n && text[n - 1] == '\n';
    text[n] = 0;
    int bad = n < TOKEN_LEAST || n > TOKEN_MOST;
    for (ssize_t i = 0; i < n && !bad; i++)
        bad = text[i] <= ' ' || text[i] > '~';
    if (bad)
        return ds_fail(err, DS_EINVAL,
                       "token file '%s' must hold %d to %d printable characters without spaces, as "
                       "from: openssl rand -hex 32",
                       path, TOKEN_LEAST, TOKEN_MOST);
    ds_digest(text, (size_t)n, digest);
    explicit_bzero(text, sizeof text);
    return 0;
}

int ds_token_good(const char *digest, const char *header) {
    char have[DS_HEX_SIZE];
    if (!header || strncasecmp(header, "Bearer ", 7))
        return 0;
    header += 7;
    ds_digest(header, strlen(header), have); /* digests: nothing is learnt from the time it takes */
    unsigned char differ = 0;
    for (int i = 0; i < DS_HEX_SIZE - 1; i++)
        differ |= (unsigned char)(have[i] ^ digest[i]);
    return !differ;
}
