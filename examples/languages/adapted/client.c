/* Send a line to HOST:PORT and print the answer, as a component: the adapter counts descriptors in
 * its own way, so who is there is read as the next event and not by the descriptor. */
#include "../c/peer.h"

#include <errno.h>
#include <string.h>

int main(int argc, char **argv)
{
    char path[512], event[MAX_PEER], answer[1024];
    if (argc != 3) {
        fprintf(stderr, "usage: %s HOST:PORT TEXT\n", argv[0]);
        return 2;
    }
    snprintf(path, sizeof path, "/net/con/%s", argv[1]);
    int fd = open(path, O_RDWR);
    if (fd < 0 || read_event("con", event) < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 1;
    }
    /* {"host": ..., "peer": {...}, "port": ...}, and a peer has nothing nested. */
    char *peer = strstr(event, "\"peer\"");
    char *end = peer ? strchr(peer, '}') : NULL;
    if (end == NULL) {
        fprintf(stderr, "no event: %s\n", event);
        return 1;
    }
    peer = strchr(peer, '{');
    printf("peer %.*s\n", (int)(end + 1 - peer), peer);
    size_t length = strlen(argv[2]);
    argv[2][length] = '\n';
    ssize_t got = write(fd, argv[2], length + 1) < 0 ? -1 : read(fd, answer, sizeof answer);
    if (got <= 0) {
        fprintf(stderr, "no answer: %s\n", got ? strerror(errno) : "the end");
        return 1;
    }
    printf("echo %.*s", (int)got, answer);
    return close(fd) == 0 ? 0 : 1;
}
