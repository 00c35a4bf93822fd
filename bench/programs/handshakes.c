/* New TLS 1.3 connections with a client certificate, one after the other, for some seconds:
 *   handshakes PORT SECONDS CHAIN KEY [resume]
 * A connection counts when the server has answered a byte, so after it has judged the client. With
 * `resume` each goes on with the session of the one before, and one that is not resumed is a fault. */
#include <openssl/ssl.h>

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static SSL_SESSION *session;

static int once(SSL_CTX *context, struct sockaddr_in *where, int resume)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    char byte = 'x';
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)where, sizeof *where) != 0)
        return 0;
    SSL *ssl = SSL_new(context);
    SSL_set_fd(ssl, fd);
    if (session != NULL)
        SSL_set_session(ssl, session);
    int good = SSL_connect(ssl) == 1 && SSL_write(ssl, &byte, 1) == 1 && SSL_read(ssl, &byte, 1) == 1;
    if (resume) {
        good = good && (session == NULL || SSL_session_reused(ssl));
        SSL_SESSION_free(session);
        session = SSL_get1_session(ssl);
    }
    SSL_shutdown(ssl);
    SSL_free(ssl);
    close(fd);
    return good;
}

int main(int argc, char **argv)
{
    if (argc != 5 && argc != 6)
        return 2;
    struct sockaddr_in where = {.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)atoi(argv[1])),
                                .sin_addr = {htonl(INADDR_LOOPBACK)}};
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_session_cache_mode(context, argc == 6 ? SSL_SESS_CACHE_CLIENT : SSL_SESS_CACHE_OFF);
    SSL_CTX_set1_groups_list(context, "X25519");
    if (SSL_CTX_use_certificate_chain_file(context, argv[3]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, argv[4], SSL_FILETYPE_PEM) != 1)
        return 3;
    double start = now(), end = start + atof(argv[2]);
    int count = 0, failed = 0;
    while (now() < end)
        if (once(context, &where, argc == 6))
            count++;
        else if (++failed > 3)
            return 1;
    printf("%.1f\n", count / (now() - start));
    return 0;
}
