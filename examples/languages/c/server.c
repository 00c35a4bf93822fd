/* An echo server for many clients at once. It has no TLS code: the keep does TLS on descriptor 3. */
#include "peer.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { LISTENER = 3, MAX_CLIENTS = 64 };

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

/* Echo what came; false at the end of the client. */
static int echo(int fd)
{
    char buffer[16384];
    ssize_t got = read(fd, buffer, sizeof buffer);
    for (ssize_t sent = 0, n; sent < got; sent += n)
        if ((n = write(fd, buffer + sent, (size_t)(got - sent))) < 0)
            return 0;
    return got > 0 || (got < 0 && errno == EAGAIN);
}

int main(void)
{
    struct pollfd fds[1 + MAX_CLIENTS] = {{.fd = LISTENER, .events = POLLIN}};
    nfds_t used = 1;
    char peer[MAX_PEER];

    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("listening");
    for (;;) {
        if (poll(fds, used, -1) < 0)
            fail("poll");
        for (nfds_t i = used - 1; i > 0; i--) {
            if (fds[i].revents == 0 || echo(fds[i].fd))
                continue;
            close(fds[i].fd);
            fds[i] = fds[--used];
        }
        if (fds[0].revents != 0 && used <= MAX_CLIENTS) {
            int fd = accept(LISTENER, NULL, NULL);
            if (fd < 0)
                continue; /* it went away again */
            if (read_peer(fd, peer) < 0)
                fail("peer");
            printf("peer %s\n", peer);
            fds[used++] = (struct pollfd){.fd = fd, .events = POLLIN};
        }
    }
}
