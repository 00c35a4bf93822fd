/* An echo server for many clients at once, by wasi:sockets itself, on the port that is its argument.
 * It has no TLS code: the keep does TLS under the socket, and says who each client is. */
#include "keep.h"

#include <stdlib.h>

enum { MAX_CLIENTS = 64 };

/* A client, and what to wait for before reading from it. */
struct client {
    tcp_socket socket;
    wasi_io_streams_own_input_stream_t in;
    output out;
    wasi_io_poll_own_pollable_t readable;
};

static struct client clients[MAX_CLIENTS];
static size_t used;

static bool listen_on(uint16_t port, tcp_socket *made)
{
    wasi_sockets_network_own_network_t network = wasi_sockets_instance_network_instance_network();
    wasi_sockets_tcp_ip_socket_address_t at = {
        .tag = WASI_SOCKETS_NETWORK_IP_SOCKET_ADDRESS_IPV4,
        .val.ipv4 = {.port = port, .address = {127, 0, 0, 1}},
    };
    wasi_sockets_network_error_code_t error;
    if (!wasi_sockets_tcp_create_socket_create_tcp_socket(
            WASI_SOCKETS_NETWORK_IP_ADDRESS_FAMILY_IPV4, made, &error))
        return failed("create", error);
    wasi_sockets_tcp_borrow_tcp_socket_t listener = wasi_sockets_tcp_borrow_tcp_socket(*made);
    if (!wasi_sockets_tcp_method_tcp_socket_start_bind(
            listener, wasi_sockets_network_borrow_network(network), &at, &error)
        || !wasi_sockets_tcp_method_tcp_socket_finish_bind(listener, &error)
        || !wasi_sockets_tcp_method_tcp_socket_start_listen(listener, &error)
        || !wasi_sockets_tcp_method_tcp_socket_finish_listen(listener, &error))
        return failed("listen", error);
    return true;
}

/* Take the next client; the keep has checked who it is. */
static void take(tcp_socket listener, output to)
{
    wasi_sockets_tcp_tuple3_own_tcp_socket_own_input_stream_own_output_stream_t taken;
    wasi_sockets_network_error_code_t error;
    if (!wasi_sockets_tcp_method_tcp_socket_accept(
            wasi_sockets_tcp_borrow_tcp_socket(listener), &taken, &error))
        return; /* it went away again */
    struct client *client = &clients[used++];
    *client = (struct client){.socket = taken.f0, .in = taken.f1, .out = taken.f2};
    client->readable = wasi_io_streams_method_input_stream_subscribe(
        wasi_io_streams_borrow_input_stream(client->in));
    say_peer(to, client->socket);
}

/* Send back what came; false at the end of the client. */
static bool echo(struct client *client)
{
    bytes came;
    wasi_io_streams_stream_error_t error;
    if (!wasi_io_streams_method_input_stream_read(
            wasi_io_streams_borrow_input_stream(client->in), MOST, &came, &error)) {
        wasi_io_streams_stream_error_free(&error);
        return false;
    }
    bool goes_on = put(client->out, came.ptr, came.len);
    guest_list_u8_free(&came);
    return goes_on;
}

/* End a client; the last takes its place. What belongs to another goes first. */
static void end(struct client *client)
{
    wasi_io_poll_pollable_drop_own(client->readable);
    wasi_io_streams_input_stream_drop_own(client->in);
    wasi_io_streams_output_stream_drop_own(client->out);
    wasi_sockets_tcp_tcp_socket_drop_own(client->socket);
    *client = clients[--used];
}

bool exports_wasi_cli_run_run(void)
{
    guest_list_string_t arguments;
    wasi_cli_environment_get_arguments(&arguments);
    char port[6] = "";
    if (arguments.len == 2 && arguments.ptr[1].len < sizeof port)
        memcpy(port, arguments.ptr[1].ptr, arguments.ptr[1].len);
    guest_list_string_free(&arguments);

    tcp_socket listener;
    if (!listen_on((uint16_t)atoi(port), &listener))
        return false;
    output to = wasi_cli_stdout_get_stdout();
    say(to, "listening\n");
    wasi_io_poll_own_pollable_t next = wasi_sockets_tcp_method_tcp_socket_subscribe(
        wasi_sockets_tcp_borrow_tcp_socket(listener));
    for (;;) {
        wasi_io_poll_borrow_pollable_t wanted[1 + MAX_CLIENTS];
        for (size_t i = 0; i < used; i++)
            wanted[i] = wasi_io_poll_borrow_pollable(clients[i].readable);
        wanted[used] = wasi_io_poll_borrow_pollable(next);
        /* When all places are taken, others wait for one. */
        wasi_io_poll_list_borrow_pollable_t list = {wanted, used + (used < MAX_CLIENTS)};
        guest_list_u32_t ready;
        wasi_io_poll_poll(&list, &ready);
        bool more = false;
        /* From the last on, so that one that ends moves none that is still to be looked at. */
        for (size_t i = ready.len; i-- > 0;) {
            if (ready.ptr[i] == list.len - 1 && list.len > used)
                more = true;
            else if (!echo(&clients[ready.ptr[i]]))
                end(&clients[ready.ptr[i]]);
        }
        guest_list_u32_free(&ready);
        if (more)
            take(listener, to);
    }
}
