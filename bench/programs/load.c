/* Load for an echo over TLS 1.3: every connection sends a message and waits for it to come back.
 *
 *     load PORT CONNECTIONS SIZE SECONDS [again]
 *
 * It prints how many messages came back in a second; with `again`, once for each line that it reads,
 * over the same connections. It verifies no certificate: a measurement.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX = 1024 };

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

int main(int argc, char **argv)
{
    static SSL *ssl[MAX];
    static struct pollfd fds[MAX];
    static int sent[MAX], received[MAX];
    int again = argc == 6 && strcmp(argv[5], "again") == 0;
    if (argc != 5 && !again)
        return 2;
    int count = atoi(argv[2]), size = atoi(argv[3]);
    double seconds = atof(argv[4]);
    char *message = calloc(1, (size_t)size), *answer = malloc((size_t)size);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    signal(SIGPIPE, SIG_IGN);
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    for (int i = 0; i < count; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
            fail("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        ssl[i] = SSL_new(context);
        SSL_set_fd(ssl[i], fd);
        if (SSL_connect(ssl[i]) != 1)
            fail("handshake");
        fcntl(fd, F_SETFL, O_NONBLOCK);
        fds[i].fd = fd;
        fds[i].events = POLLIN | POLLOUT;
    }
    char line[16];
    while (!again || fgets(line, sizeof line, stdin) != NULL) {
        long done = 0;
        double start = now() + seconds / 4, end = start + seconds;
        int measuring = 0;
        while (now() < end) {
            if (!measuring && now() >= start) {
                measuring = 1;
                done = 0;
            }
            if (poll(fds, (nfds_t)count, 2000) <= 0)
                fail("no answer");
            for (int i = 0; i < count; i++) {
                if (fds[i].revents == 0)
                    continue;
                for (;;) {
                    while (sent[i] < size) {
                        int n = SSL_write(ssl[i], message + sent[i], size - sent[i]);
                        if (n <= 0)
                            break;
                        sent[i] += n;
                    }
                    int n = SSL_read(ssl[i], answer, size - received[i]);
                    if (n <= 0) {
                        int code = SSL_get_error(ssl[i], n);
                        if (code != SSL_ERROR_WANT_READ && code != SSL_ERROR_WANT_WRITE)
                            fail("read");
                        break;
                    }
                    if ((received[i] += n) == size) {
                        received[i] = sent[i] = 0;
                        done++;
                    }
                }
                fds[i].events = POLLIN | (sent[i] < size ? POLLOUT : 0);
            }
        }
        printf("%.0f\n", (double)done / seconds);
        fflush(stdout);
        if (!again)
            break;
    }
    return 0;
}
