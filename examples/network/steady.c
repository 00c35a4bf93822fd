/* A client that never stops: steady HOST:PORT [HOST:PORT ...]
 * It talks to the first that answers, twenty times a second, and when that ends, to the next. It
 * prints whom it talks to, and how each conversation ended. */
#include "../languages/c/peer.h"

#include <errno.h>
#include <string.h>
#include <time.h>

static void rest(void)
{
    struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
    nanosleep(&pause, NULL);
}

/* Talk until it ends; the errno of the end, 0 for the end of the stream. */
static int talk(int fd)
{
    char sent[32], got[32];
    for (unsigned turn = 0;; turn++) {
        int length = snprintf(sent, sizeof sent, "%u", turn);
        if (write(fd, sent, (size_t)length) != length)
            return errno;
        for (int done = 0; done < length;) {
            ssize_t n = read(fd, got + done, (size_t)(length - done));
            if (n <= 0)
                return n < 0 ? errno : 0;
            done += (int)n;
        }
        if (memcmp(sent, got, (size_t)length) != 0)
            return EBADMSG;
        rest();
    }
}

int main(int argc, char **argv)
{
    char path[512], peer[MAX_PEER], event[MAX_PEER];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("steady");
    for (;;) {
        for (int i = 1; i < argc; i++) {
            snprintf(path, sizeof path, "/net/con/%s", argv[i]);
            int fd = open(path, O_RDWR);
            if (fd < 0 || read_peer(fd, peer) < 0)
                continue;
            /* The same again, as an event: every connection is one, and is taken once. */
            if (read_event("con", event) > 0)
                printf("connected %s\n", event);
            printf("talking to %s\n", peer);
            printf("ended: %s\n", strerror(talk(fd)));
            close(fd);
        }
        rest();
    }
}
