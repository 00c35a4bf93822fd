/* Echo for many connections on descriptor 3, by poll: one guest for garrison and for wasmtime. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX = 256 };
static char buffer[65536];

int main(void)
{
    struct pollfd fds[MAX] = {{.fd = 3, .events = POLLIN}};
    nfds_t used = 1;
    fputs("listening\n", stderr);
    for (;;) {
        if (poll(fds, used, -1) < 0)
            return 1;
        nfds_t before = used;
        if (fds[0].revents != 0 && used < MAX) {
            int fd = accept4(3, NULL, NULL, SOCK_NONBLOCK);
            if (fd >= 0)
                fds[used++] = (struct pollfd){.fd = fd, .events = POLLIN};
        }
        for (nfds_t i = before - 1; i > 0; i--) {
            if (fds[i].revents == 0)
                continue;
            ssize_t got = read(fds[i].fd, buffer, sizeof buffer);
            int failed = got == 0 || (got < 0 && errno != EAGAIN);
            ssize_t sent = 0;
            while (sent < got && !failed) {
                ssize_t n = write(fds[i].fd, buffer + sent, (size_t)(got - sent));
                if (n > 0)
                    sent += n;
                else if (errno != EAGAIN)
                    failed = 1;
                else
                    poll(&(struct pollfd){.fd = fds[i].fd, .events = POLLOUT}, 1, -1);
            }
            if (failed) {
                close(fds[i].fd);
                fds[i] = fds[--used];
            }
        }
    }
}
