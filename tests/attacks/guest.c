/*
 * The workload of the attacks. Whatever it prints proves that it ran.
 *
 *     main.wasm               prints, and ends with 7
 *     main.wasm listen PORT   tells who comes, and what they say, for ever
 *     main.wasm connect HOST  says one thing to whoever answers
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what)
{
    printf("failed to %s: %s\n", what, strerror(errno));
    return 3;
}

static void tell_peer(int fd)
{
    char path[64], json[2048];
    snprintf(path, sizeof path, "/net/peer/fd/%d", fd);
    int file = open(path, O_RDONLY);
    ssize_t got = file < 0 ? -1 : read(file, json, sizeof json - 1);
    json[got < 0 ? 0 : got] = '\0';
    printf("peer %s\n", json);
    if (file >= 0)
        close(file);
}

static int listen_on(const char *port)
{
    char path[64];
    snprintf(path, sizeof path, "/net/lis/%s", port);
    int listener = open(path, O_RDWR);
    if (listener < 0)
        return fail("listen");
    puts("listening");
    for (;;) {
        char heard[256];
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            return fail("accept");
        tell_peer(fd);
        ssize_t got = read(fd, heard, sizeof heard - 1);
        heard[got < 0 ? 0 : got] = '\0';
        printf("heard %s\n", heard);
        if (write(fd, "hello\n", 6) != 6)
            puts("nobody listened");
        close(fd);
    }
}

static int connect_to(const char *host)
{
    char path[300];
    snprintf(path, sizeof path, "/net/con/%s", host);
    int fd = open(path, O_RDWR);
    if (fd < 0)
        return fail("connect");
    tell_peer(fd);
    if (write(fd, "confidential\n", 13) != 13)
        return fail("write");
    char answer[64];
    ssize_t got = read(fd, answer, sizeof answer - 1);
    if (got <= 0)
        return fail("read");
    answer[got] = '\0';
    printf("answer %s", answer);
    return 0;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 3 && strcmp(argv[1], "listen") == 0)
        return listen_on(argv[2]);
    if (argc == 3 && strcmp(argv[1], "connect") == 0)
        return connect_to(argv[2]);
    puts("the workload ran");
    return 7;
}
