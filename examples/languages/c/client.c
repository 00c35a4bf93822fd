/* Send a line to HOST:PORT and print the answer. To connect is to open a file; the keep does TLS. */
#include "peer.h"

#include <errno.h>
#include <string.h>

int main(int argc, char **argv)
{
    char path[512], peer[MAX_PEER], answer[1024];
    if (argc != 3) {
        fprintf(stderr, "usage: %s HOST:PORT TEXT\n", argv[0]);
        return 2;
    }
    snprintf(path, sizeof path, "/net/con/%s", argv[1]);
    int fd = open(path, O_RDWR);
    if (fd < 0 || read_peer(fd, peer) < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 1;
    }
    printf("peer %s\n", peer);
    FILE *stream = fdopen(fd, "r+");
    if (stream == NULL || fprintf(stream, "%s\n", argv[2]) < 0 || fflush(stream) != 0 ||
        fgets(answer, sizeof answer, stream) == NULL) {
        fprintf(stderr, "no answer: %s\n", strerror(errno));
        return 1;
    }
    printf("echo %s", answer);
    return fclose(stream) == 0 ? 0 : 1;
}
