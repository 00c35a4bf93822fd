/*
 * A chat server for many clients at once: one thread, one poll loop, nothing that blocks.
 *
 *     main.wasm [[ADDRESS:]PORT]      (or CHAT_LISTEN in the environment)
 *
 * It prints who joins and who leaves, and never what they say: its standard output belongs to the
 * host, which is not trusted. A client that does not read is dropped; nobody waits for it.
 */
#include "../chat.h"

#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { MAX_CLIENTS = 64, MAX_NAME = 32 };

struct client {
    int fd; /* -1: a free place */
    bool known; /* its peer was described, so it is part of the conversation */
    bool leaving; /* it said all that it will say; what waits for it is still sent */
    char peer[PEER_TEXT];
    char name[MAX_NAME + 1]; /* empty until its first line */
    struct lines in;
    struct queue out;
};

static struct client clients[MAX_CLIENTS];

static void tell(struct client *client, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void tell_others(const struct client *from, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Free the place of `client`. Its name is out of use before the others hear of it. */
static void drop(struct client *client, const char *why)
{
    char name[MAX_NAME + 1];
    bool known = client->known;
    close(client->fd);
    client->fd = -1;
    client->known = false;
    strcpy(name, client->name[0] != '\0' ? client->name : "somebody");
    if (!known)
        return;
    printf("left: %s (%s)\n", client->peer, why);
    tell_others(client, "* %s left\n", name);
}

/* Queue `text` for `client`, who is dropped if it has too much to read already. */
static void enqueue(struct client *client, const char *text)
{
    if (!queue_put(&client->out, text, strlen(text)))
        drop(client, "reads too slowly");
}

static void tell(struct client *client, const char *format, ...)
{
    char text[MAX_LINE + 1];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    enqueue(client, text);
}

static void tell_others(const struct client *from, const char *format, ...)
{
    char text[MAX_LINE + 1];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (struct client *client = clients; client < clients + MAX_CLIENTS; client++)
        if (client != from && client->known)
            enqueue(client, text);
}

/* Accept all who wait. Whoever finds no place hears so, as far as one write goes. */
static void accept_all(int listener)
{
    static const char FULL[] = "* no place is free; come again later\n";
    for (;;) {
        struct sockaddr address;
        socklen_t size = sizeof address;
        int fd = accept4(listener, &address, &size, SOCK_NONBLOCK);
        if (fd < 0 && (errno == ECONNABORTED || errno == EINTR))
            continue;
        if (fd < 0 && errno != EAGAIN) {
            fprintf(stderr, "accept: %s\n", strerror(errno));
            exit(EXIT_FAILURE);
        }
        if (fd < 0)
            return;
        struct client *client = clients;
        while (client < clients + MAX_CLIENTS && client->fd >= 0)
            client++;
        if (client == clients + MAX_CLIENTS) {
            if (write(fd, FULL, sizeof FULL - 1) < 0)
                fprintf(stderr, "no place is free: %s\n", strerror(errno));
            close(fd);
            continue;
        }
        memset(client, 0, sizeof *client);
        client->fd = fd;
        client->in.limit = MAX_MESSAGE;
    }
}

/* Make `client` part of the conversation as soon as the keep knows who it is. */
static void meet(struct client *client)
{
    if (!describe_peer(client->fd, client->peer)) {
        if (errno == EAGAIN) /* the handshake is still under way */
            return;
        fprintf(stderr, "a client's identity: %s\n", strerror(errno));
        drop(client, "unknown");
        return;
    }
    client->known = true;
    printf("joined: %s\n", client->peer);
    tell_others(client, "* somebody joined from %s\n", client->peer);
    tell(client, "* welcome; your first line is your name\n");
}

/* The first line of `client`: its name, if it is fit for one and nobody has it. */
static void take_name(struct client *client, const char *name)
{
    if (name[0] == '\0' || strlen(name) > MAX_NAME || strchr(name, ':') != NULL || name[0] == '*') {
        tell(client, "* a name has 1 to %d bytes, no colon, and no star in front\n", MAX_NAME);
        return;
    }
    for (const struct client *other = clients; other < clients + MAX_CLIENTS; other++) {
        if (other->known && strcmp(other->name, name) == 0) {
            tell(client, "* %s is taken; choose another name\n", name);
            return;
        }
    }
    strcpy(client->name, name);
    tell_others(client, "* %s is %s\n", client->name, client->peer);
}

/* Read from `client`, once, and act on each line. */
static void hear(struct client *client)
{
    char line[MAX_LINE + 1];
    ssize_t got = lines_read(&client->in, client->fd);
    if (got < 0) {
        if (errno != EAGAIN && errno != EINTR)
            drop(client, strerror(errno));
        return;
    }
    while (client->fd >= 0 && lines_take(&client->in, got == 0, line)) {
        line[strcspn(line, "\r")] = '\0';
        make_printable(line);
        if (client->name[0] == '\0')
            take_name(client, line);
        else if (line[0] != '\0')
            tell_others(client, "%s: %s\n", client->name, line);
    }
    client->leaving = got == 0;
}

/* Wait, and serve everybody who is ready. */
static void serve(int listener)
{
    struct pollfd waits[MAX_CLIENTS + 1];
    struct client *who[MAX_CLIENTS + 1];
    nfds_t count = 1;

    waits[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    for (struct client *client = clients; client < clients + MAX_CLIENTS; client++) {
        if (client->fd < 0)
            continue;
        int events = (client->leaving ? 0 : POLLIN) | (client->out.length > 0 ? POLLOUT : 0);
        who[count] = client;
        waits[count++] = (struct pollfd){.fd = client->fd, .events = (short)events};
    }
    if (poll(waits, count, -1) < 0) {
        if (errno == EINTR)
            return;
        fprintf(stderr, "poll: %s\n", strerror(errno));
        exit(EXIT_FAILURE);
    }
    /* Newcomers first: they hear what is said from here on. */
    if (waits[0].revents != 0)
        accept_all(listener);
    for (nfds_t i = 1; i < count; i++)
        if (who[i]->fd >= 0 && who[i]->known && !who[i]->leaving &&
            (waits[i].revents & ~POLLOUT) != 0)
            hear(who[i]);
    for (struct client *client = clients; client < clients + MAX_CLIENTS; client++) {
        if (client->fd >= 0 && !client->known)
            meet(client);
        /* What was just said goes out at once; what does not fit waits for POLLOUT. */
        if (client->fd >= 0 && !queue_flush(&client->out, client->fd))
            drop(client, strerror(errno));
        if (client->fd >= 0 && client->leaving && client->out.length == 0)
            drop(client, "said goodbye");
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char path[MAX_FIELD];
    const char *address = argc > 1 ? argv[1] : getenv("CHAT_LISTEN");
    if (argc > 2 || address == NULL || strlen(address) > 300) {
        fprintf(stderr, "usage: chat-server [ADDRESS:]PORT   (or set CHAT_LISTEN)\n");
        return 2;
    }
    for (struct client *client = clients; client < clients + MAX_CLIENTS; client++)
        client->fd = -1;
    snprintf(path, sizeof path, "/net/lis/%s", address);
    int listener = open(path, O_RDWR | O_NONBLOCK);
    if (listener < 0) {
        fprintf(stderr, "cannot listen on %s: %s\n", address, strerror(errno));
        return EXIT_FAILURE;
    }
    printf("listening on %s\n", address);
    fflush(stdout);
    for (;;)
        serve(listener);
}
