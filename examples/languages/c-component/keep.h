/* What the two programs share: printing, and who a peer is. `guest.h` is made by wit-bindgen. */
#ifndef KEEP_H
#define KEEP_H

#include "guest.h"

#include <stdio.h>
#include <string.h>

typedef wasi_io_streams_own_output_stream_t output;
typedef wasi_sockets_tcp_own_tcp_socket_t tcp_socket;
typedef guest_list_u8_t bytes;

/* `blocking-write-and-flush` takes no more at once. */
enum { MOST = 4096 };

/* Write all; false if the other end has gone. */
static inline bool put(output to, const void *data, size_t size)
{
    wasi_io_streams_stream_error_t error;
    for (size_t sent = 0; sent < size; sent += MOST) {
        bytes part = {(uint8_t *)data + sent, size - sent < MOST ? size - sent : MOST};
        if (!wasi_io_streams_method_output_stream_blocking_write_and_flush(
                wasi_io_streams_borrow_output_stream(to), &part, &error)) {
            wasi_io_streams_stream_error_free(&error);
            return false;
        }
    }
    return true;
}

static inline void say(output to, const char *text)
{
    put(to, text, strlen(text));
}

/* Say what could not be done, with the number of a case of wasi:sockets/network, `error-code`. */
static inline bool failed(const char *what, wasi_sockets_network_error_code_t error)
{
    char line[80];
    snprintf(line, sizeof line, "%s: error-code %d\n", what, error);
    output to = wasi_cli_stderr_get_stderr();
    say(to, line);
    wasi_io_streams_output_stream_drop_own(to);
    return false;
}

static inline void say_field(output to, const char *name, const guest_option_string_t *value)
{
    if (!value->is_some)
        return;
    /* None of these needs to be escaped in JSON. */
    say(to, ", \"");
    say(to, name);
    say(to, "\": \"");
    put(to, value->val.ptr, value->val.len);
    say(to, "\"");
}

/* Print who is at the other end of a socket, as the keep read it from the certificate. */
static inline void say_peer(output to, tcp_socket of)
{
    static const char *const kinds[] = {"anonymous", "local", "keep"};
    garrison_keep_peer_option_peer_t found;
    found.is_some = garrison_keep_peer_of_socket(wasi_sockets_tcp_borrow_tcp_socket(of), &found.val);
    if (!found.is_some)
        return;
    const garrison_keep_peer_peer_t *peer = &found.val;
    say(to, "peer {\"kind\": \"");
    say(to, kinds[peer->kind]);
    say(to, "\"");
    say_field(to, "workload", &peer->workload);
    say_field(to, "digest", &peer->digest);
    say_field(to, "tee", &peer->tee);
    say_field(to, "measurement", &peer->measurement);
    say_field(to, "spiffe_id", &peer->spiffe_id);
    say(to, "}\n");
    garrison_keep_peer_option_peer_free(&found);
}

#endif
