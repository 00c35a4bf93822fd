/* The same echo without WebAssembly: OpenSSL in C. native PORT CERTIFICATE KEY */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX = 256 };
static char buffer[65536];

int main(int argc, char **argv)
{
    static struct pollfd fds[MAX];
    static SSL *ssl[MAX];
    int one = 1, used = 1;
    if (argc != 4)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_num_tickets(context, 0);
    if (SSL_CTX_use_certificate_chain_file(context, argv[2]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, argv[3], SSL_FILETYPE_PEM) != 1)
        return 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fds[0].fd = socket(AF_INET, SOCK_STREAM, 0);
    fds[0].events = POLLIN;
    setsockopt(fds[0].fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fds[0].fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fds[0].fd, 512) != 0)
        return 1;
    for (;;) {
        poll(fds, (nfds_t)used, -1);
        int before = used;
        if (fds[0].revents != 0 && used < MAX) {
            int fd = accept(fds[0].fd, NULL, NULL);
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            ssl[used] = SSL_new(context);
            SSL_set_fd(ssl[used], fd);
            if (fd >= 0 && SSL_accept(ssl[used]) == 1) {
                fcntl(fd, F_SETFL, O_NONBLOCK);
                fds[used++] = (struct pollfd){.fd = fd, .events = POLLIN};
            }
        }
        for (int i = before - 1; i > 0; i--) {
            if (fds[i].revents == 0)
                continue;
            int got = SSL_read(ssl[i], buffer, sizeof buffer), result = got;
            while (got > 0 && (result = SSL_write(ssl[i], buffer, got)) <= 0 &&
                   SSL_get_error(ssl[i], result) == SSL_ERROR_WANT_WRITE)
                poll(&(struct pollfd){.fd = fds[i].fd, .events = POLLOUT}, 1, -1);
            if (result <= 0 && SSL_get_error(ssl[i], result) != SSL_ERROR_WANT_READ) {
                close(fds[i].fd);
                SSL_free(ssl[i]);
                fds[i] = fds[--used];
                ssl[i] = ssl[used];
            }
        }
    }
}
