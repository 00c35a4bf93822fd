// A guest with one command for each thing that a test looks at. Output is for the test to read.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <wasi/api.h>

extern char **environ;

#define CHECK(condition)                                                  \
    do {                                                                  \
        if (!(condition)) {                                               \
            printf("line %d: %s: %s\n", __LINE__, #condition, strerror(errno)); \
            exit(1);                                                      \
        }                                                                 \
    } while (0)

static int cat(const char *path) {
    char buffer[4096];
    ssize_t count;
    int fd = open(path, O_RDONLY);
    if (fd < 0) {
        printf("%s\n", strerror(errno));
        return 1;
    }
    while ((count = read(fd, buffer, sizeof buffer)) > 0) fwrite(buffer, 1, count, stdout);
    CHECK(count == 0);
    close(fd);
    return 0;
}

static int list(const char *path) {
    DIR *folder = opendir(path);
    struct dirent *entry;
    CHECK(folder);
    while ((entry = readdir(folder))) printf("%s\n", entry->d_name);
    closedir(folder);
    return 0;
}

static int files(void) {
    char buffer[16] = {0};
    struct stat found;
    CHECK(mkdir("/tmp/d", 0700) == 0);
    int fd = open("/tmp/d/a", O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0);
    CHECK(write(fd, "0123456789", 10) == 10);
    CHECK(lseek(fd, 4, SEEK_SET) == 4);
    CHECK(read(fd, buffer, 3) == 3 && !strcmp(buffer, "456"));
    CHECK(pwrite(fd, "x", 1, 0) == 1);
    CHECK(ftruncate(fd, 5) == 0);
    CHECK(fstat(fd, &found) == 0 && found.st_size == 5 && S_ISREG(found.st_mode));
    CHECK(rename("/tmp/d/a", "/tmp/b") == 0);
    CHECK(access("/tmp/d/a", F_OK) != 0 && errno == ENOENT);
    CHECK(symlink("b", "/tmp/l") == 0);
    CHECK(stat("/tmp/l", &found) == 0 && found.st_size == 5);
    CHECK(lstat("/tmp/l", &found) == 0 && S_ISLNK(found.st_mode));
    CHECK(link("/tmp/b", "/tmp/c") == 0);
    CHECK(unlink("/tmp/b") == 0);
    CHECK(cat("/tmp/c") == 0);
    CHECK(rmdir("/tmp/d") == 0);
    CHECK(open("/pkg/new", O_WRONLY | O_CREAT, 0600) < 0 && errno == EROFS);
    CHECK(open("/pkg/main.wasm", O_WRONLY) < 0 && errno == EROFS);
    CHECK(open("/../etc/passwd", O_RDONLY) < 0);
    printf("\n");
    return list("/tmp");
}

static int talk(const char *path) {
    char buffer[64] = {0};
    int fd = open(path, O_RDWR);
    if (fd < 0) {
        printf("%s\n", strerror(errno));
        return 1;
    }
    CHECK(write(fd, "ping", 4) == 4);
    CHECK(shutdown(fd, SHUT_WR) == 0);
    CHECK(read(fd, buffer, sizeof buffer) > 0);
    printf("%s\n", buffer);
    sprintf(buffer, "/net/peer/fd/%d", fd);
    CHECK(cat(buffer) == 0);
    printf("\n");
    return cat("/net/peer/con");
}

// Writes the words to a file that answers, and prints the answer.
static int ask(const char *path, char **words) {
    char buffer[4096];
    ssize_t count;
    int fd = open(path, O_RDWR);
    for (; fd >= 0 && *words; words++)
        if (write(fd, *words, strlen(*words)) < 0) break;
    while (fd >= 0 && !*words && (count = read(fd, buffer, sizeof buffer)) > 0) write(1, buffer, count);
    if (fd < 0 || *words || count < 0) {
        printf("%s\n", strerror(errno));
        return 1;
    }
    return close(fd);
}

static int keys(void) {
    char path[64] = "/key/";
    unsigned char text[64 + 5];
    int fd = open("/key/generate", O_RDWR);
    CHECK(write(fd, "ES", 2) == 2 && write(fd, "256", 3) == 3);
    CHECK(read(fd, path + 5, 36) == 36 && read(fd, text, 1) == 0);
    CHECK(list("/key") == 0);
    strcpy(path + 41, "/sign");
    CHECK((fd = open(path, O_RDWR)) >= 0);
    CHECK(write(fd, "hello", 5) == 5 && read(fd, text, sizeof text) == 64);
    memcpy(text + 64, "hello", 5);
    strcpy(path + 41, "/verify");
    CHECK((fd = open(path, O_RDWR)) >= 0);
    CHECK(write(fd, text, 69) == 69 && read(fd, path, 9) == 9 && !memcmp(path, "verified\n", 9));
    text[0] ^= 1;
    CHECK(write(fd, text, 69) == 69 && read(fd, path, 9) < 0 && errno == EBADMSG);
    return 0;
}

static int serve(int listener) {
    char buffer[64] = {0};
    CHECK(listener >= 0);
    struct pollfd wanted = {.fd = listener, .events = POLLIN};
    CHECK(poll(&wanted, 1, 10000) == 1 && wanted.revents & POLLIN);
    int fd = accept(listener, NULL, NULL);
    CHECK(fd >= 0);
    CHECK(recv(fd, buffer + 4, 2, MSG_PEEK) == 2);
    CHECK(recv(fd, buffer, 4, 0) == 4 && !memcmp(buffer, buffer + 4, 2));
    CHECK(send(fd, buffer, 4, 0) == 4);
    CHECK(recv(listener, buffer, 4, 0) < 0);
    return cat("/net/peer/lis");
}

static int polled(void) {
    struct pollfd wanted = {.fd = 0, .events = POLLIN};
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK(poll(&wanted, 1, 50) == 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    long passed = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
    CHECK(passed >= 49);
    printf("waited\n");
    fflush(stdout);
    CHECK(poll(&wanted, 1, 10000) == 1 && wanted.revents & POLLIN);
    char c;
    CHECK(read(0, &c, 1) == 1);
    printf("read %c\n", c);
    return 0;
}

static volatile int zero;

static int deeper(int n) {
    volatile char room[256];
    room[0] = (char)n;
    return deeper(n + 1) + room[0];
}

// What is kept here is not optimized away.
static char *volatile kept;

static int grow(int mebibytes) {
    for (int i = 0; i < mebibytes; i++) {
        char *block = malloc(1 << 20);
        if (!block) {
            printf("refused\n");
            return 3;
        }
        kept = block;
    }
    // What was grown is used by a host function.
    char *block = malloc(1 << 20);
    CHECK(block && getentropy(block + (1 << 20) - 256, 256) == 0);
    printf("grown\n");
    return 0;
}

static int fill(void) {
    static char block[1 << 16];
    int fd = open("/tmp/full", O_WRONLY | O_CREAT, 0600);
    CHECK(fd >= 0);
    while (write(fd, block, sizeof block) > 0) {}
    printf("%s\n", strerror(errno));
    CHECK(unlink("/tmp/full") == 0);
    close(fd);
    // The room is there again.
    fd = open("/tmp/again", O_WRONLY | O_CREAT, 0600);
    CHECK(write(fd, block, sizeof block) == sizeof block);
    return 0;
}

// Each right that is given up takes what it allowed along; what needs no right of it goes on.
static int rights(void) {
    __wasi_filesize_t place;
    __wasi_filestat_t found;
    __wasi_fdstat_t all;
    __wasi_size_t count;
    char byte;
    __wasi_iovec_t in = {(uint8_t *)&byte, 1};
    __wasi_ciovec_t out = {(uint8_t *)&byte, 1};
    int fd = open("/tmp/rights", O_RDWR | O_CREAT, 0600), folder = open("/tmp", O_RDONLY | O_DIRECTORY);
    CHECK(fd >= 0 && folder >= 0);
    CHECK(__wasi_fd_fdstat_get(fd, &all) == 0);
#define WITHOUT(right, call, errno)                                                          \
    do {                                                                                     \
        CHECK(call == 0);                                                                    \
        CHECK(__wasi_fd_fdstat_set_rights(fd, all.fs_rights_base & ~(right), 0) == 0);       \
        CHECK(call == errno);                                                                \
        CHECK(__wasi_fd_fdstat_set_rights(fd, all.fs_rights_base, 0) == __WASI_ERRNO_NOTCAPABLE); \
        close(fd);                                                                           \
        CHECK((fd = open("/tmp/rights", O_RDWR)) >= 0);                                      \
    } while (0)
    WITHOUT(__WASI_RIGHTS_FD_DATASYNC, __wasi_fd_datasync(fd), __WASI_ERRNO_NOTCAPABLE);
    WITHOUT(__WASI_RIGHTS_FD_SYNC, __wasi_fd_sync(fd), __WASI_ERRNO_NOTCAPABLE);
    WITHOUT(__WASI_RIGHTS_FD_ADVISE, __wasi_fd_advise(fd, 0, 1, 0), __WASI_ERRNO_NOTCAPABLE);
    WITHOUT(__WASI_RIGHTS_FD_ALLOCATE, __wasi_fd_allocate(fd, 0, 1), __WASI_ERRNO_NOTCAPABLE);
    WITHOUT(__WASI_RIGHTS_FD_FDSTAT_SET_FLAGS, __wasi_fd_fdstat_set_flags(fd, 1),
            __WASI_ERRNO_NOTCAPABLE);
    WITHOUT(__WASI_RIGHTS_FD_FILESTAT_GET, __wasi_fd_filestat_get(fd, &found),
            __WASI_ERRNO_NOTCAPABLE);
    WITHOUT(__WASI_RIGHTS_FD_FILESTAT_SET_TIMES, __wasi_fd_filestat_set_times(fd, 1, 1, 1),
            __WASI_ERRNO_NOTCAPABLE);
    WITHOUT(__WASI_RIGHTS_FD_SEEK, __wasi_fd_seek(fd, 0, 2, &place), __WASI_ERRNO_NOTCAPABLE);
    WITHOUT(__WASI_RIGHTS_FD_SEEK, __wasi_fd_pread(fd, &in, 1, 0, &count), __WASI_ERRNO_NOTCAPABLE);
    WITHOUT(__WASI_RIGHTS_FD_SEEK, __wasi_fd_pwrite(fd, &out, 1, 0, &count), __WASI_ERRNO_NOTCAPABLE);
    WITHOUT(__WASI_RIGHTS_FD_SEEK | __WASI_RIGHTS_FD_TELL, __wasi_fd_seek(fd, 0, 1, &place),
            __WASI_ERRNO_NOTCAPABLE);
    WITHOUT(__WASI_RIGHTS_FD_SEEK | __WASI_RIGHTS_FD_TELL, __wasi_fd_tell(fd, &place),
            __WASI_ERRNO_NOTCAPABLE);
    WITHOUT(__WASI_RIGHTS_FD_READ, __wasi_fd_read(fd, &in, 1, &count), __WASI_ERRNO_BADF);
    WITHOUT(__WASI_RIGHTS_FD_WRITE, __wasi_fd_write(fd, &out, 1, &count), __WASI_ERRNO_BADF);
    // Who may seek may tell; who only tells tells by seeking nowhere, too.
    CHECK(__wasi_fd_fdstat_set_rights(fd, __WASI_RIGHTS_FD_SEEK, 0) == 0);
    CHECK(__wasi_fd_tell(fd, &place) == 0 && __wasi_fd_seek(fd, 1, 0, &place) == 0);
    close(fd);
    // Without the right to write there is none to the size, whatever was asked for.
    CHECK(__wasi_path_open(folder, 0, "rights", 0, ~(__wasi_rights_t)__WASI_RIGHTS_FD_WRITE &
          ((1 << 30) - 1), 0, 0, (__wasi_fd_t *)&fd) == 0);
    CHECK(ftruncate(fd, 1) != 0 && errno == EINVAL);
    CHECK(__wasi_fd_allocate(fd, 0, 100) == __WASI_ERRNO_NOTCAPABLE);
    // A place among the names counts before they were read from their start, too.
    uint8_t names[200];
    CHECK(__wasi_fd_readdir(folder, names, sizeof names, 2, &count) == 0 && count == 24 + 6);
    CHECK(!memcmp(names + 24, "rights", 6));
    // A directory is no descriptor to the functions of sockets.
    CHECK(__wasi_sock_shutdown(folder, 1) == __WASI_ERRNO_BADF);
    CHECK(__wasi_sock_shutdown(fd, 1) == __WASI_ERRNO_NOTSOCK);
    return 0;
}

static int devices(void) {
    char buffer[32] = "xxxxxxxx", empty[32] = {0};
    int fd = open("/dev/zero", O_RDONLY);
    CHECK(read(fd, buffer, 32) == 32 && !memcmp(buffer, empty, 32));
    fd = open("/dev/urandom", O_RDONLY);
    CHECK(read(fd, buffer, 32) == 32 && memcmp(buffer, empty, 32));
    fd = open("/dev/null", O_RDWR);
    CHECK(write(fd, buffer, 32) == 32 && read(fd, buffer, 32) == 0);
    return list("/dev");
}

int main(int count, char **args) {
    const char *command = count > 1 ? args[1] : "hello";
    if (!strcmp(command, "hello")) return puts("hello") < 0;
    if (!strcmp(command, "args")) {
        for (int i = 0; i < count; i++) printf("%s\n", args[i]);
        for (char **entry = environ; *entry; entry++) printf("%s\n", *entry);
        return 0;
    }
    if (!strcmp(command, "cat")) return cat(args[2]);
    if (!strcmp(command, "list")) return list(args[2]);
    if (!strcmp(command, "files")) return files();
    if (!strcmp(command, "rights")) return rights();
    if (!strcmp(command, "devices")) return devices();
    if (!strcmp(command, "ask")) return ask(args[2], args + 3);
    if (!strcmp(command, "keys")) return keys();
    if (!strcmp(command, "talk")) return talk(args[2]);
    if (!strcmp(command, "serve")) return serve(open(args[2], O_RDWR));
    if (!strcmp(command, "serve-preopened")) return serve(atoi(args[2]));
    if (!strcmp(command, "poll")) return polled();
    if (!strcmp(command, "grow")) return grow(atoi(args[2]));
    if (!strcmp(command, "fill")) return fill();
    if (!strcmp(command, "recurse")) return deeper(0);
    if (!strcmp(command, "exit")) exit(atoi(args[2]));
    if (!strcmp(command, "abort")) abort();
    if (!strcmp(command, "divide")) return 100 / zero;
    puts("ready");
    fflush(stdout);
    if (!strcmp(command, "spin")) for (;;) zero = zero;
    if (!strcmp(command, "calls")) for (struct timespec t;;) clock_gettime(CLOCK_REALTIME, &t);
    if (!strcmp(command, "sleep")) sleep(1000);
    if (!strcmp(command, "read")) return (int)read(0, &count, 1);
    if (!strcmp(command, "write")) for (;;) write(1, args, 4096);
    return 2;
}
