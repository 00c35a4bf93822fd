/* Sends a line to HOST:PORT by wasi:sockets itself, and says who answered, and what. */
#include "keep.h"

#include <stdlib.h>

/* The address that stands for a host, with the port: "HOST:PORT" in, as the keep means it. */
static bool address_of(guest_string_t target, wasi_sockets_tcp_ip_socket_address_t *found)
{
    wasi_sockets_network_own_network_t network = wasi_sockets_instance_network_instance_network();
    wasi_sockets_ip_name_lookup_own_resolve_address_stream_t stream;
    wasi_sockets_ip_name_lookup_option_ip_address_t next;
    wasi_sockets_network_error_code_t error;
    size_t colon = target.len;
    while (colon > 0 && target.ptr[colon - 1] != ':')
        colon--;
    char port[6] = "";
    if (colon == 0 || target.len - colon >= sizeof port)
        return failed("no HOST:PORT", 0);
    memcpy(port, target.ptr + colon, target.len - colon);
    guest_string_t host = {target.ptr, colon - 1};
    if (!wasi_sockets_ip_name_lookup_resolve_addresses(
            wasi_sockets_network_borrow_network(network), &host, &stream, &error)
        || !wasi_sockets_ip_name_lookup_method_resolve_address_stream_resolve_next_address(
            wasi_sockets_ip_name_lookup_borrow_resolve_address_stream(stream), &next, &error))
        return failed("resolve", error);
    wasi_sockets_ip_name_lookup_resolve_address_stream_drop_own(stream);
    found->tag = WASI_SOCKETS_NETWORK_IP_SOCKET_ADDRESS_IPV4;
    found->val.ipv4.port = (uint16_t)atoi(port);
    found->val.ipv4.address = next.val.val.ipv4;
    return true;
}

/* Connect; the keep has checked who is there when this returns. */
static bool connect_to(
    guest_string_t target,
    tcp_socket *made,
    wasi_sockets_tcp_tuple2_own_input_stream_own_output_stream_t *streams)
{
    wasi_sockets_network_own_network_t network = wasi_sockets_instance_network_instance_network();
    wasi_sockets_tcp_ip_socket_address_t remote;
    wasi_sockets_network_error_code_t error;
    if (!address_of(target, &remote))
        return false;
    if (!wasi_sockets_tcp_create_socket_create_tcp_socket(
            WASI_SOCKETS_NETWORK_IP_ADDRESS_FAMILY_IPV4, made, &error))
        return failed("create", error);
    wasi_sockets_tcp_borrow_tcp_socket_t socket = wasi_sockets_tcp_borrow_tcp_socket(*made);
    if (!wasi_sockets_tcp_method_tcp_socket_start_connect(
            socket, wasi_sockets_network_borrow_network(network), &remote, &error)
        || !wasi_sockets_tcp_method_tcp_socket_finish_connect(socket, streams, &error))
        return failed("connect", error);
    return true;
}

/* Copy what comes up to the end of a line. */
static bool copy_line(wasi_io_streams_own_input_stream_t from, output to)
{
    for (bool ended = false; !ended;) {
        bytes came;
        wasi_io_streams_stream_error_t error;
        if (!wasi_io_streams_method_input_stream_blocking_read(
                wasi_io_streams_borrow_input_stream(from), MOST, &came, &error)) {
            wasi_io_streams_stream_error_free(&error);
            return false;
        }
        ended = came.len > 0 && came.ptr[came.len - 1] == '\n';
        put(to, came.ptr, came.len);
        guest_list_u8_free(&came);
    }
    return true;
}

bool exports_wasi_cli_run_run(void)
{
    guest_list_string_t arguments;
    wasi_cli_environment_get_arguments(&arguments);
    if (arguments.len != 3)
        return failed("usage: client HOST:PORT LINE", 0);
    tcp_socket socket;
    wasi_sockets_tcp_tuple2_own_input_stream_own_output_stream_t streams;
    if (!connect_to(arguments.ptr[1], &socket, &streams))
        return false;
    output to = wasi_cli_stdout_get_stdout();
    say_peer(to, socket);
    put(streams.f1, arguments.ptr[2].ptr, arguments.ptr[2].len);
    say(streams.f1, "\n");
    say(to, "echo ");
    return copy_line(streams.f0, to);
}
