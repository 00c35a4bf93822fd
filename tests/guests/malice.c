// What a hostile program tries against its own keep: one command each.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wasi/api.h>

static volatile int zero;

static int bomb(void) {
    for (unsigned mebibytes = 0;; mebibytes++) {
        char *block = malloc(1 << 20);
        if (!block) {
            printf("%s after %u MiB\n", strerror(errno), mebibytes);
            return 3;
        }
        // Kept from the optimizer, which would leave it all out.
        for (volatile char *page = block; page < block + (1 << 20); page += 4096) *page = 1;
    }
}

static int deeper(int depth) {
    volatile char frame[1000];
    frame[depth % 1000] = 1;
    return deeper(depth + 1) + frame[depth % 7];
}

static int descriptors(void) {
    int count = 0;
    while (open("/dev/null", O_RDWR) >= 0) count++;
    printf("%s after %d\n", strerror(errno), count);
    return 4;
}

static int writes(const char *path, int count) {
    int fd = *path ? open(path, O_WRONLY | O_CREAT, 0600) : 1;
    for (int i = 0; i < count; i++)
        if (write(fd, "x", 1) != 1) {
            fprintf(stderr, "%s after %d\n", strerror(errno), i);
            return 5;
        }
    return 0;
}

static int renumber(void) {
    // The root takes the place of standard output and error, and standard input's is closed.
    int copy = open("/dev/null", O_WRONLY);
    if (__wasi_fd_renumber(3, 1) || __wasi_fd_renumber(copy, 2) || close(0)) return 10;
    if (write(1, "x", 1) >= 0 || errno != EBADF) return 11;
    if (write(2, "lost", 4) != 4) return 12;
    if (open("/tmp/x", O_RDONLY) >= 0) return 13;
    if (__wasi_fd_renumber(1, 1000) != __WASI_ERRNO_BADF) return 14;
    if (__wasi_fd_renumber(1000, 1) != __WASI_ERRNO_BADF) return 15;
    if (__wasi_fd_renumber(~0u, 1) != __WASI_ERRNO_BADF) return 16;
    abort();
}

static int close_all(void) {
    for (int fd = 0; fd < 100; fd++) close(fd);
    if (open("/tmp/x", O_RDWR | O_CREAT, 0600) >= 0) return 10;
    if (puts("nobody hears") >= 0 && fflush(stdout) == 0) return 11;
    abort();
}

static int nest(void) {
    // As deep as the quota lets; each step by a descriptor of its own, for no path is as long.
    int fd = open("/tmp", O_RDONLY | O_DIRECTORY), depth = 0;
    while (mkdirat(fd, "d", 0700) == 0) {
        int next = openat(fd, "d", O_RDONLY | O_DIRECTORY);
        if (next < 0) return 10;
        close(fd);
        fd = next;
        depth++;
    }
    printf("%s after %d\n", strerror(errno), depth);
    // Into itself: the whole depth is looked at.
    if (renameat(AT_FDCWD, "/tmp/d", fd, "e") == 0) return 11;
    return 6;
}

static int links(void) {
    if (symlink("a", "/tmp/b") || symlink("b", "/tmp/a")) return 10;
    if (open("/tmp/a", O_RDONLY) >= 0 || errno == ENOENT) return 11;
    if (symlink("../../../../etc/passwd", "/tmp/c") || open("/tmp/c", O_RDONLY) >= 0) return 12;
    return 7;
}

static int polls(void) {
    static __wasi_subscription_t wanted[8193];
    static __wasi_event_t events[8193];
    __wasi_size_t count;
    for (int i = 0; i < 8193; i++) wanted[i].u.u.fd_read.file_descriptor = i % 5, wanted[i].u.tag = 1;
    if (__wasi_poll_oneoff(wanted, events, 8193, &count) != __WASI_ERRNO_INVAL) return 10;
    if (__wasi_poll_oneoff(wanted, events, 0, &count) != __WASI_ERRNO_INVAL) return 11;
    for (int i = 0; i < 20; i++)
        if (__wasi_poll_oneoff(wanted, events, 8192, &count) || !count) return 12;
    return 8;
}

int main(int count, char **args) {
    const char *command = count > 1 ? args[1] : "";
    if (!strcmp(command, "spin")) for (;;) zero = zero;
    if (!strcmp(command, "yield")) for (;;) sched_yield();
    if (!strcmp(command, "sleep")) sleep(100000);
    if (!strcmp(command, "wait")) for (struct pollfd none = {.fd = 0, .events = POLLIN};;) poll(&none, 1, -1);
    if (!strcmp(command, "bomb")) return bomb();
    if (!strcmp(command, "bomb-abort")) { bomb(); abort(); }
    if (!strcmp(command, "recurse")) return deeper(zero);
    if (!strcmp(command, "descriptors")) return descriptors();
    if (!strcmp(command, "writes")) return writes(args[2], atoi(args[3]));
    if (!strcmp(command, "renumber")) return renumber();
    if (!strcmp(command, "close")) return close_all();
    if (!strcmp(command, "nest")) return nest();
    if (!strcmp(command, "links")) return links();
    if (!strcmp(command, "polls")) return polls();
    return 99;
}
