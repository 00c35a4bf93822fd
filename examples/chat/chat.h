/*
 * What the chat server and its client share: buffers, lines, safe text, and who the peer is.
 *
 * Neither program has any TLS code. A connection that they hold is already encrypted, and its
 * other end is already admitted, by the keep and the workload's Enarx.toml.
 *
 * The protocol: lines of UTF-8. The first line of a client is its name; every other is a message.
 * A message of MAX_MESSAGE bytes ends there; what follows is another message, with the name in front
 * again, so that nobody can make a line of somebody else's. The server speaks first: a client that
 * hears nothing was not let in.
 */
#ifndef CHAT_H
#define CHAT_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    MAX_MESSAGE = 1024,    /* bytes of a client's line, its end not counted */
    MAX_LINE = 4096,       /* bytes of a server's line: a message or a peer, and words around it */
    MAX_QUEUE = 32 * 1024, /* bytes that may wait for a reader, before it counts as too slow */
    MAX_PEER = 4096,       /* bytes of a peer's description */
    MAX_FIELD = 512,       /* bytes of one field of it, and of a path */
};

/* Bytes on their way out, in order. */
struct queue {
    size_t length;
    char bytes[MAX_QUEUE];
};

/* Append; false, and nothing appended, where there is no room. */
static inline bool queue_put(struct queue *queue, const char *bytes, size_t length)
{
    if (length > MAX_QUEUE - queue->length)
        return false;
    memcpy(queue->bytes + queue->length, bytes, length);
    queue->length += length;
    return true;
}

/* Write what `fd` takes now; false where the connection is broken. */
static inline bool queue_flush(struct queue *queue, int fd)
{
    while (queue->length > 0) {
        ssize_t sent = write(fd, queue->bytes, queue->length);
        if (sent < 0)
            return errno == EAGAIN || errno == EINTR;
        queue->length -= (size_t)sent;
        memmove(queue->bytes, queue->bytes + sent, queue->length);
    }
    return true;
}

/* Bytes on their way in, until they are whole lines. */
struct lines {
    size_t limit; /* of one line: at most MAX_LINE */
    size_t length;
    char bytes[MAX_LINE];
};

/* Read what is there: its length, 0 at the end, -1 with errno. Call it only with all lines taken. */
static inline ssize_t lines_read(struct lines *lines, int fd)
{
    ssize_t got = read(fd, lines->bytes + lines->length, lines->limit - lines->length);
    if (got > 0)
        lines->length += (size_t)got;
    return got;
}

/* Take the next line into `line`, ended by a NUL; `last` takes an unfinished one too. */
static inline bool lines_take(struct lines *lines, bool last, char line[MAX_LINE + 1])
{
    const char *newline = memchr(lines->bytes, '\n', lines->length);
    size_t length = newline != NULL ? (size_t)(newline - lines->bytes) : lines->length;
    if (newline == NULL && lines->length < lines->limit && !(last && lines->length > 0))
        return false;
    memcpy(line, lines->bytes, length);
    line[length] = '\0';
    size_t used = length + (newline != NULL);
    lines->length -= used;
    memmove(lines->bytes, lines->bytes + used, lines->length);
    return true;
}

/* The length of the printable UTF-8 character at `text`, or 0 where there is none. */
static inline size_t printable(const unsigned char *text)
{
    if (text[0] >= 0x20 && text[0] < 0x7f)
        return 1;
    size_t length = text[0] >= 0xf0 ? 4 : text[0] >= 0xe0 ? 3 : 2;
    if (text[0] < 0xc2 || text[0] > 0xf4)
        return 0;
    unsigned long point = text[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        point = point << 6 | (text[i] & 0x3f);
    }
    /* Refused: overlong forms, surrogates, what is beyond Unicode, ... */
    if ((length == 3 && point < 0x800) || (length == 4 && point < 0x10000) || point > 0x10ffff ||
        (point >= 0xd800 && point < 0xe000))
        return 0;
    /* ... controls, line separators, and marks that change the direction of the text after them. */
    if (point < 0xa0 || point == 0x61c || (point >= 0x200e && point <= 0x200f) ||
        (point >= 0x2028 && point <= 0x202e) || (point >= 0x2066 && point <= 0x2069))
        return 0;
    return length;
}

/* Replace, in place, every byte that a terminal could take for a command. */
static inline void make_printable(char *text)
{
    unsigned char *byte = (unsigned char *)text;
    while (*byte != '\0') {
        size_t length = printable(byte);
        if (length == 0)
            *byte = '?';
        byte += length == 0 ? 1 : length;
    }
}

/* Read the JSON string at `text` into `value` (MAX_FIELD + 1 bytes); NULL where it is not one.
 * A string with an escape is skipped, and `value` is "": no name or digest needs one. */
static inline const char *json_string(const char *text, char *value)
{
    size_t length = 0;
    bool plain = true;
    if (*text++ != '"')
        return NULL;
    for (; *text != '"'; text++) {
        if ((unsigned char)*text < 0x20)
            return NULL;
        if (*text == '\\') {
            plain = false;
            if (*++text == '\0')
                return NULL;
        } else if (plain && length < MAX_FIELD) {
            value[length++] = *text;
        } else {
            plain = false;
        }
    }
    value[plain ? length : 0] = '\0';
    return text + 1;
}

/* Find the string `key` in `json`, one flat object of strings and nothing else. */
static inline bool json_field(const char *json, const char *key, char value[MAX_FIELD + 1])
{
    char name[MAX_FIELD + 1];
    char other[MAX_FIELD + 1];
    bool found = false;
    if (*json++ != '{')
        return false;
    do {
        while (*json == ' ')
            json++;
        if ((json = json_string(json, name)) == NULL || *json++ != ':')
            return false;
        while (*json == ' ')
            json++;
        bool wanted = strcmp(name, key) == 0;
        if ((wanted && found) || (json = json_string(json, wanted ? value : other)) == NULL)
            return false;
        found = found || wanted;
    } while (*json++ == ',');
    return json[-1] == '}' && found && value[0] != '\0';
}

enum { PEER_TEXT = 2 * MAX_FIELD + 2 };

/* Describe the other end of the stream `fd`, as the keep knows it from the certificate:
 * `slug@digest`, `local@digest` or `anonymous`. False with errno where it is not known. */
static inline bool describe_peer(int fd, char text[PEER_TEXT])
{
    char path[MAX_FIELD];
    char json[MAX_PEER + 1];
    char kind[MAX_FIELD + 1], name[MAX_FIELD + 1] = "local", digest[MAX_FIELD + 1];
    size_t length = 0;
    ssize_t got;

    snprintf(path, sizeof path, "/net/peer/fd/%d", fd);
    int file = open(path, O_RDONLY);
    if (file < 0)
        return false;
    while ((got = read(file, json + length, MAX_PEER - length)) > 0)
        length += (size_t)got;
    int error = errno;
    close(file);
    errno = error;
    if (got < 0)
        return false;
    json[length] = '\0';

    errno = EPROTO;
    if (!json_field(json, "kind", kind))
        return false;
    if (strcmp(kind, "anonymous") == 0) {
        strcpy(text, kind);
        return true;
    }
    bool keep = strcmp(kind, "keep") == 0;
    if (!keep && strcmp(kind, "local") != 0)
        return false;
    if ((keep && !json_field(json, "workload", name)) || !json_field(json, "digest", digest))
        return false;
    snprintf(text, PEER_TEXT, "%s@%s", name, digest);
    make_printable(text);
    return true;
}

#endif
