/* Who is at the other end of a connection, as the keep read it from the certificate. */
#ifndef PEER_H
#define PEER_H

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { MAX_PEER = 4096 };

static inline ssize_t read_told(const char *path, char text[MAX_PEER])
{
    int file = open(path, O_RDONLY);
    if (file < 0)
        return -1;
    ssize_t length = read(file, text, MAX_PEER - 1);
    close(file);
    if (length >= 0)
        text[length] = '\0';
    return length;
}

/* Read what the keep says of the other end of `fd`: JSON in `text`, ended by a NUL.
 * Its length; -1 with errno where `fd` is no connection. */
static inline ssize_t read_peer(int fd, char text[MAX_PEER])
{
    char path[32];
    snprintf(path, sizeof path, "/net/peer/fd/%d", fd);
    return read_told(path, text);
}

/* Take the next connection that was made (`direction` "con": host, port and peer) or accepted
 * ("lis": addr and peer), of those that were not taken yet: JSON in `text`, ended by a NUL.
 * Its length; -1 with EAGAIN where there is none. */
static inline ssize_t read_event(const char *direction, char text[MAX_PEER])
{
    char path[32];
    snprintf(path, sizeof path, "/net/peer/%s", direction);
    return read_told(path, text);
}

#endif
