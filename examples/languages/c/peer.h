/* Who is at the other end of a connection, as the keep read it from the certificate. */
#ifndef PEER_H
#define PEER_H

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { MAX_PEER = 4096 };

/* Read what the keep says of the other end of `fd`: JSON in `text`, ended by a NUL.
 * Its length; -1 with errno where `fd` is no connection. */
static inline ssize_t read_peer(int fd, char text[MAX_PEER])
{
    char path[32];
    snprintf(path, sizeof path, "/net/peer/fd/%d", fd);
    int file = open(path, O_RDONLY);
    if (file < 0)
        return -1;
    ssize_t length = read(file, text, MAX_PEER - 1);
    close(file);
    if (length >= 0)
        text[length] = '\0';
    return length;
}

#endif
