/* Nanoseconds per call of a few functions of WASI, one line each: a name and a number. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static char buffer[1024];
static int null;

static void clock_time(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
}

static void random_32(void) { getentropy(buffer, 32); }

static void write_100(void)
{
    if (write(null, buffer, 100) != 100)
        abort();
}

static void open_read_close(void)
{
    int fd = open("/tmp/file", O_RDONLY);
    if (fd < 0 || read(fd, buffer, sizeof buffer) != sizeof buffer)
        abort();
    close(fd);
}

static void measure(const char *name, void (*call)(void), int count)
{
    call();
    long long start = now();
    for (int i = 0; i < count; i++)
        call();
    printf("%s %lld\n", name, (now() - start) / count);
}

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 100000;
    int file = open("/tmp/file", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, buffer, sizeof buffer) != sizeof buffer || close(file) != 0)
        return 1;
    if ((null = open("/dev/null", O_WRONLY)) < 0)
        return 1;
    measure("clock_time_get", clock_time, count);
    measure("random_get 32 B", random_32, count);
    measure("fd_write 100 B to /dev/null", write_100, count);
    measure("open, read 1 KiB, close in /tmp", open_read_close, count / 4);
    return 0;
}
