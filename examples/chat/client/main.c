/*
 * A chat client: lines of standard input go to the server, lines of the server to standard output.
 *
 *     main.wasm [HOST:PORT [NAME]]      (or CHAT_SERVER and CHAT_NAME in the environment)
 *
 * Without a NAME the first line of standard input is the name. At the end of input it sends what is
 * left, says that no more will come, prints the server's last lines and ends with 0. It ends with 1,
 * and a reason, where the connection cannot be made, is not let in, or breaks.
 */
#include "../chat.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

/* How long the server may take for its last lines. */
enum { LAST_WORDS_MS = 10000 };

static const char *server;

_Noreturn static void fail(const char *what, int error)
{
    fflush(stdout);
    fprintf(stderr, "%s: %s: %s%s\n", server, what, strerror(error),
            error == EACCES ? " (the keep refused)" : "");
    exit(EXIT_FAILURE);
}

/* Print all whole lines of the server. It is not trusted with the terminal either. */
static void print_lines(struct lines *in, bool last)
{
    char line[MAX_LINE + 1];
    while (lines_take(in, last, line)) {
        make_printable(line);
        puts(line);
    }
    if (fflush(stdout) != 0)
        fail("standard output", errno);
}

/* Move lines both ways until the input and then the connection ends. */
static void converse(int fd, struct queue *out)
{
    static struct lines in = {.limit = MAX_LINE};
    bool open_input = true, half_closed = false, greeted = false;

    for (;;) {
        if (!queue_flush(out, fd))
            fail("sending", errno);
        if (!open_input && out->length == 0 && !half_closed) {
            if (shutdown(fd, SHUT_WR) < 0)
                fail("saying goodbye", errno);
            half_closed = true;
        }
        /* Input waits while the server does not read. A negative fd is not polled. */
        bool room = MAX_QUEUE - out->length >= MAX_LINE;
        struct pollfd waits[] = {
            {.fd = fd, .events = (short)(POLLIN | (out->length > 0 ? POLLOUT : 0))},
            {.fd = open_input && room ? STDIN_FILENO : -1, .events = POLLIN},
        };
        int ready = poll(waits, 2, half_closed ? LAST_WORDS_MS : -1);
        if (ready < 0 && errno != EINTR)
            fail("waiting", errno);
        if (ready == 0)
            fail("waiting for the server's last lines", ETIMEDOUT);
        if (ready <= 0)
            continue;

        if ((waits[0].revents & ~POLLOUT) != 0) {
            ssize_t got = lines_read(&in, fd);
            if (got < 0 && errno != EAGAIN && errno != EINTR)
                fail(greeted ? "receiving" : "not let in", errno);
            print_lines(&in, got == 0);
            greeted = greeted || got > 0;
            if (got == 0) {
                if (!greeted)
                    fail("not let in", ECONNRESET);
                if (!half_closed)
                    fail("the server ended the conversation", ECONNRESET);
                return;
            }
        }
        if (waits[1].fd >= 0 && waits[1].revents != 0) {
            char bytes[MAX_LINE];
            ssize_t got = read(STDIN_FILENO, bytes, sizeof bytes);
            if (got < 0 && errno != EAGAIN && errno != EINTR)
                fail("standard input", errno);
            if (got > 0)
                queue_put(out, bytes, (size_t)got);
            open_input = got != 0;
        }
    }
}

int main(int argc, char **argv)
{
    static struct queue out;
    char path[MAX_FIELD];
    char peer[PEER_TEXT];
    const char *name = argc > 2 ? argv[2] : getenv("CHAT_NAME");

    server = argc > 1 ? argv[1] : getenv("CHAT_SERVER");
    if (argc > 3 || server == NULL || strlen(server) > 300 ||
        (name != NULL && strlen(name) > MAX_MESSAGE)) {
        fprintf(stderr, "usage: chat-client HOST:PORT [NAME]   (or set CHAT_SERVER, CHAT_NAME)\n");
        return 2;
    }
    snprintf(path, sizeof path, "/net/con/%s", server);
    int fd = open(path, O_RDWR);
    if (fd < 0)
        fail("cannot connect", errno);
    if (!describe_peer(fd, peer))
        fail("cannot tell who is there", errno);
    printf("connected to %s\n", peer);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        fail("cannot unblock", errno);
    if (name != NULL) {
        queue_put(&out, name, strlen(name));
        queue_put(&out, "\n", 1);
    }
    fflush(stdout);
    converse(fd, &out);
    return EXIT_SUCCESS;
}
