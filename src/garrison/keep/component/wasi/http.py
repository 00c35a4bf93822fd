"""wasi:http: requests that come, and requests that go, by the keep's one network.

The functions stand in `http_fields`, `http_bodies` and `http_messages`; what sends requests is
`garrison.keep.component.http.client`.
"""

from __future__ import annotations

from garrison.keep.component.http.client import (
    future_incoming_response_get,
    future_incoming_response_subscribe,
    outgoing_handler_handle,
)
from garrison.keep.component.wasi.http_bodies import (
    future_trailers_get,
    future_trailers_subscribe,
    incoming_body_finish,
    incoming_body_stream,
    outgoing_body_finish,
    outgoing_body_write,
)
from garrison.keep.component.wasi.http_fields import (
    fields_append,
    fields_clone,
    fields_delete,
    fields_entries,
    fields_from_list,
    fields_get,
    fields_has,
    fields_new,
    fields_set,
    types_http_error_code,
)
from garrison.keep.component.wasi.http_messages import (
    incoming_request_authority,
    incoming_request_consume,
    incoming_request_headers,
    incoming_request_method,
    incoming_request_path_with_query,
    incoming_request_scheme,
    incoming_response_consume,
    incoming_response_headers,
    incoming_response_status,
    outgoing_request_authority,
    outgoing_request_body,
    outgoing_request_headers,
    outgoing_request_method,
    outgoing_request_new,
    outgoing_request_path_with_query,
    outgoing_request_scheme,
    outgoing_request_set_authority,
    outgoing_request_set_method,
    outgoing_request_set_path_with_query,
    outgoing_request_set_scheme,
    outgoing_response_body,
    outgoing_response_headers,
    outgoing_response_new,
    outgoing_response_set_status_code,
    outgoing_response_status_code,
    request_options_between_bytes_timeout,
    request_options_connect_timeout,
    request_options_first_byte_timeout,
    request_options_new,
    request_options_set_between_bytes_timeout,
    request_options_set_connect_timeout,
    request_options_set_first_byte_timeout,
    response_outparam_set,
)

__all__ = [
    "fields_append", "fields_clone", "fields_delete", "fields_entries", "fields_from_list",
    "fields_get", "fields_has", "fields_new", "fields_set", "future_incoming_response_get",
    "future_incoming_response_subscribe", "future_trailers_get", "future_trailers_subscribe",
    "incoming_body_finish", "incoming_body_stream", "incoming_request_authority",
    "incoming_request_consume", "incoming_request_headers", "incoming_request_method",
    "incoming_request_path_with_query", "incoming_request_scheme", "incoming_response_consume",
    "incoming_response_headers", "incoming_response_status", "outgoing_body_finish",
    "outgoing_body_write", "outgoing_handler_handle", "outgoing_request_authority",
    "outgoing_request_body", "outgoing_request_headers", "outgoing_request_method",
    "outgoing_request_new", "outgoing_request_path_with_query", "outgoing_request_scheme",
    "outgoing_request_set_authority", "outgoing_request_set_method",
    "outgoing_request_set_path_with_query", "outgoing_request_set_scheme",
    "outgoing_response_body", "outgoing_response_headers", "outgoing_response_new",
    "outgoing_response_set_status_code", "outgoing_response_status_code",
    "request_options_between_bytes_timeout", "request_options_connect_timeout",
    "request_options_first_byte_timeout", "request_options_new",
    "request_options_set_between_bytes_timeout", "request_options_set_connect_timeout",
    "request_options_set_first_byte_timeout", "response_outparam_set", "types_http_error_code",
]  # fmt: skip

WIT = """
package wasi:http;
interface types {
    use wasi:clocks/monotonic-clock.{duration};
    use wasi:io/streams.{input-stream, output-stream};
    use wasi:io/error.{error as io-error};
    use wasi:io/poll.{pollable};
    variant method {
        get, head, post, put, delete, connect, options, trace, patch, other(string),
    }
    variant scheme { HTTP, HTTPS, other(string) }
    record DNS-error-payload { rcode: option<string>, info-code: option<u16> }
    record TLS-alert-received-payload { alert-id: option<u8>, alert-message: option<string> }
    record field-size-payload { field-name: option<string>, field-size: option<u32> }
    variant error-code {
        DNS-timeout, DNS-error(DNS-error-payload), destination-not-found,
        destination-unavailable, destination-IP-prohibited, destination-IP-unroutable,
        connection-refused, connection-terminated, connection-timeout, connection-read-timeout,
        connection-write-timeout, connection-limit-reached, TLS-protocol-error,
        TLS-certificate-error, TLS-alert-received(TLS-alert-received-payload),
        HTTP-request-denied, HTTP-request-length-required, HTTP-request-body-size(option<u64>),
        HTTP-request-method-invalid, HTTP-request-URI-invalid, HTTP-request-URI-too-long,
        HTTP-request-header-section-size(option<u32>),
        HTTP-request-header-size(option<field-size-payload>),
        HTTP-request-trailer-section-size(option<u32>),
        HTTP-request-trailer-size(field-size-payload), HTTP-response-incomplete,
        HTTP-response-header-section-size(option<u32>),
        HTTP-response-header-size(field-size-payload), HTTP-response-body-size(option<u64>),
        HTTP-response-trailer-section-size(option<u32>),
        HTTP-response-trailer-size(field-size-payload),
        HTTP-response-transfer-coding(option<string>),
        HTTP-response-content-coding(option<string>), HTTP-response-timeout,
        HTTP-upgrade-failed, HTTP-protocol-error, loop-detected, configuration-error,
        internal-error(option<string>),
    }
    http-error-code: func(err: borrow<io-error>) -> option<error-code>;
    variant header-error { invalid-syntax, forbidden, immutable }
    type field-key = string;
    type field-name = field-key;
    type field-value = list<u8>;
    resource fields {
        constructor();
        from-list: static func(entries: list<tuple<field-name, field-value>>)
            -> result<fields, header-error>;
        get: func(name: field-name) -> list<field-value>;
        has: func(name: field-name) -> bool;
        set: func(name: field-name, value: list<field-value>) -> result<_, header-error>;
        delete: func(name: field-name) -> result<_, header-error>;
        append: func(name: field-name, value: field-value) -> result<_, header-error>;
        entries: func() -> list<tuple<field-name, field-value>>;
        clone: func() -> fields;
    }
    type headers = fields;
    type trailers = fields;
    resource request-options {
        constructor();
        connect-timeout: func() -> option<duration>;
        set-connect-timeout: func(duration: option<duration>) -> result;
        first-byte-timeout: func() -> option<duration>;
        set-first-byte-timeout: func(duration: option<duration>) -> result;
        between-bytes-timeout: func() -> option<duration>;
        set-between-bytes-timeout: func(duration: option<duration>) -> result;
    }
    type status-code = u16;
    resource future-trailers {
        subscribe: func() -> pollable;
        get: func() -> option<result<result<option<trailers>, error-code>>>;
    }
    resource incoming-body {
        %stream: func() -> result<input-stream>;
        finish: static func(this: incoming-body) -> future-trailers;
    }
    resource incoming-request {
        method: func() -> method;
        path-with-query: func() -> option<string>;
        scheme: func() -> option<scheme>;
        authority: func() -> option<string>;
        headers: func() -> headers;
        consume: func() -> result<incoming-body>;
    }
    resource incoming-response {
        status: func() -> status-code;
        headers: func() -> headers;
        consume: func() -> result<incoming-body>;
    }
    resource outgoing-body {
        write: func() -> result<output-stream>;
        finish: static func(this: outgoing-body, trailers: option<trailers>)
            -> result<_, error-code>;
    }
    resource outgoing-request {
        constructor(headers: headers);
        body: func() -> result<outgoing-body>;
        method: func() -> method;
        set-method: func(method: method) -> result;
        path-with-query: func() -> option<string>;
        set-path-with-query: func(path-with-query: option<string>) -> result;
        scheme: func() -> option<scheme>;
        set-scheme: func(scheme: option<scheme>) -> result;
        authority: func() -> option<string>;
        set-authority: func(authority: option<string>) -> result;
        headers: func() -> headers;
    }
    resource outgoing-response {
        constructor(headers: headers);
        status-code: func() -> status-code;
        set-status-code: func(status-code: status-code) -> result;
        headers: func() -> headers;
        body: func() -> result<outgoing-body>;
    }
    resource response-outparam {
        set: static func(param: response-outparam, response: result<outgoing-response, error-code>);
    }
    resource future-incoming-response {
        subscribe: func() -> pollable;
        get: func() -> option<result<result<incoming-response, error-code>>>;
    }
}
interface incoming-handler {
    use types.{incoming-request, response-outparam};
    handle: func(request: incoming-request, response-out: response-outparam);
}
interface outgoing-handler {
    use types.{outgoing-request, request-options, future-incoming-response, error-code};
    handle: func(request: outgoing-request, options: option<request-options>)
        -> result<future-incoming-response, error-code>;
}
"""
