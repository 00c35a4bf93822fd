/* Answers requests in every way that a test asks for, well and badly: the core module of a
   component of the world wasi:http/proxy. `tests/unit/component/http_guest.py` lowers its imports. */
#define IMPORT(name) __attribute__((import_module("host"), import_name(name)))
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

IMPORT("path") void path_(u32 self, void *out);
IMPORT("authority") void authority(u32 self, void *out);
IMPORT("headers") u32 headers(u32 self);
IMPORT("consume") void consume(u32 self, void *out);
IMPORT("contents") void contents(u32 self, void *out);
IMPORT("rest") u32 rest(u32 body);
IMPORT("rest-ready") u32 rest_ready(u32 self);
IMPORT("rest-get") void rest_get(u32 self, void *out);
IMPORT("fields") u32 fields(void);
IMPORT("append") void append(u32 self, const char *, u32, const char *, u32, void *out);
IMPORT("entries") void entries(u32 self, void *out);
IMPORT("response") u32 response_(u32 fields);
IMPORT("status") u32 set_status(u32 self, u32 status);
IMPORT("body") void body_(u32 self, void *out);
IMPORT("stream") void stream_(u32 self, void *out);
IMPORT("finish") void finish_(u32 body, u32 some, u32 trailers, void *out);
IMPORT("set") void set_(u32 param, u32 failed, u32 first, u32, u64, u32, u32, u32, u32);
IMPORT("request") u32 request_(u32 fields);
IMPORT("set-authority") u32 set_authority(u32 self, u32 some, const char *, u32);
IMPORT("set-path") u32 set_path(u32 self, u32 some, const char *, u32);
IMPORT("set-scheme") u32 set_scheme(u32 self, u32 some, u32 which, u32, u32);
IMPORT("send") void send_(u32 request, u32 some, u32 options, void *out);
IMPORT("answered") u32 answered(u32 self);
IMPORT("answer") void answer(u32 self, void *out);
IMPORT("answer-status") u32 answer_status(u32 self);
IMPORT("answer-headers") u32 answer_headers(u32 self);
IMPORT("answer-consume") void answer_consume(u32 self, void *out);
IMPORT("options") u32 options_(void);
IMPORT("first-byte") u32 first_byte(u32 self, u32 some, u64 nanoseconds);
IMPORT("read") void read_(u32 self, u64 size, void *out);
IMPORT("write") void write_(u32 self, const void *data, u32 size, void *out);
IMPORT("after") u32 after(u64 nanoseconds);
IMPORT("block") void block(u32 self);
IMPORT("drop-outparam") void drop_outparam(u32 self);
IMPORT("drop-request") void drop_request(u32 self);
IMPORT("drop-output") void drop_output(u32 self);
IMPORT("drop-input") void drop_input(u32 self);
IMPORT("drop-body") void drop_body(u32 self);
IMPORT("drop-fields") void drop_fields(u32 self);
IMPORT("drop-pollable") void drop_pollable(u32 self);

struct text { const char *data; u32 size; };
struct entry { struct text name, value; };
static union { u8 byte[64]; u32 word[16]; } out __attribute__((aligned(8)));
static u32 param, given, reply, body, stream, count;

static u32 length(const char *text) { u32 n = 0; while (text[n]) n++; return n; }
static int same(struct text a, const char *b)
{
    u32 n = length(b);
    if (a.size < n) return 0;
    for (u32 i = 0; i < n; i++) if (a.data[i] != b[i]) return 0;
    return a.size == n;
}
static void put(const char *data, u32 size)
{
    while (size) {
        u32 some = size < 4096 ? size : 4096;
        write_(stream, data, some, &out);
        if (out.byte[0]) return;
        data += some, size -= some;
    }
}
static void say(const char *text) { put(text, length(text)); }
static void number(u32 n)
{
    char digits[10];
    u32 at = 10;
    do digits[--at] = '0' + n % 10; while (n /= 10);
    put(digits + at, 10 - at);
}
/* Answer with these headers, and have a stream for the body. */
static void begin(u32 with)
{
    reply = response_(with);
    body_(reply, &out);
    body = out.word[1];
    set_(param, 0, reply, 0, 0, 0, 0, 0, 0);
    stream_(body, &out);
    stream = out.word[1];
}
static int end(u32 some, u32 trailers)
{
    drop_output(stream);
    finish_(body, some, trailers, &out);
    return out.byte[0];
}
static void tell(u32 of)
{
    entries(of, &out);
    struct entry *entry = (struct entry *)out.word[0];
    for (u32 left = out.word[1]; left; left--, entry++) {
        put(entry->name.data, entry->name.size), say(": ");
        put(entry->value.data, entry->value.size), say("\n");
    }
}
static void pass(u32 from)
{
    for (;;) {
        read_(from, 65536, &out);
        if (out.byte[0]) return;
        put((const char *)out.word[1], out.word[2]);
    }
}
static u32 header(const char *name, const char *value)
{
    u32 made = fields();
    append(made, name, length(name), value, length(value), &out);
    return made;
}

__attribute__((export_name("handle"))) void handle(u32 request, u32 response_out)
{
    given = request, param = response_out;
    path_(given, &out);
    struct text path = {(const char *)out.word[1], out.word[2]};
    if (same(path, "/none")) {
        drop_outparam(param);
    } else if (same(path, "/trap")) {
        __builtin_trap();
    } else if (same(path, "/spin")) {
        for (volatile u32 i = 0;; i++) {}
    } else if (same(path, "/wait")) {
        block(after(3600ull * 1000 * 1000 * 1000));
    } else if (same(path, "/error")) {
        set_(param, 1, 15, 0, 0, 0, 0, 0, 0);
    } else if (same(path, "/empty")) {
        reply = response_(fields());
        set_status(reply, 204);
        set_(param, 0, reply, 0, 0, 0, 0, 0, 0);
    } else if (same(path, "/child")) {
        headers(given);
        drop_request(given);
    } else if (same(path, "/open-stream")) {
        begin(fields());
        finish_(body, 0, 0, &out);
    } else if (same(path, "/forbidden")) {
        u32 made = header("connection", "keep-alive");
        u32 why = out.byte[0] * 10 + out.byte[1];
        append(made, "x", 1, "a\r\nset-cookie: b", 16, &out);
        why = why * 100 + out.byte[0] * 10 + out.byte[1];
        u32 theirs = headers(given);
        append(theirs, "x", 1, "y", 1, &out);
        why = why * 100 + out.byte[0] * 10 + out.byte[1];
        begin(made), number(why), end(0, 0);
    } else if (same(path, "/half")) {
        begin(fields()), say("half");
        __builtin_trap();
    } else if (same(path, "/dropped")) {
        begin(fields()), say("half");
        drop_output(stream), drop_body(body);
    } else if (same(path, "/length")) {
        begin(header("content-length", "5")), say("hello"), end(0, 0);
    } else if (same(path, "/short")) {
        begin(header("content-length", "5")), say("hel"), end(0, 0);
    } else if (same(path, "/long")) {
        begin(header("content-length", "5")), say("hello, you"), end(0, 0);
    } else if (same(path, "/trailers")) {
        begin(fields()), say("hello"), end(1, header("x-end", "good"));
    } else if (same(path, "/late")) {
        begin(fields()), say("hello, ");
        block(after(50 * 1000 * 1000));
        say("world"), end(0, 0);
    } else if (same(path, "/headers")) {
        u32 of = headers(given);
        begin(fields());
        authority(given, &out);
        put((const char *)out.word[1], out.word[2]), say("\n"), tell(of), end(0, 0);
    } else if (same(path, "/said-and-spin")) {
        begin(fields()), say("hello");
        for (volatile u32 i = 0;; i++) {}
    } else if (same(path, "/count")) {
        begin(fields()), number(++count), end(0, 0);
    } else if (same(path, "/twice")) {
        consume(given, &out);
        u32 first = out.byte[0];
        consume(given, &out);
        first = first * 10 + out.byte[0];
        begin(fields()), number(first), end(0, 0);
    } else if (same(path, "/echo") || same(path, "/rest")) {
        consume(given, &out);
        u32 theirs = out.word[1];
        begin(fields());
        if (same(path, "/echo")) {
            contents(theirs, &out);
            u32 from = out.word[1];
            pass(from);
            u32 broken = !out.byte[4];
            drop_input(from);
            if (broken) say("broken");
        }
        u32 future = rest(theirs), ready = rest_ready(future);
        block(ready), drop_pollable(ready);
        rest_get(future, &out);
        if (!out.byte[16] && out.byte[24])
            tell(out.word[7]);
        end(0, 0);
    } else if (same(path, "/fetch") || same(path, "/fetch-late") || same(path, "/fetch-https")) {
        u32 sent = request_(fields()), with = 0;
        entries(headers(given), &out);
        struct entry *entry = (struct entry *)out.word[0];
        for (u32 left = out.word[1]; left; left--, entry++) {
            if (same(entry->name, "to")) set_authority(sent, 1, entry->value.data, entry->value.size);
            if (same(entry->name, "path")) set_path(sent, 1, entry->value.data, entry->value.size);
        }
        if (!same(path, "/fetch-https")) set_scheme(sent, 1, 0, 0, 0);
        if (same(path, "/fetch-late")) {
            with = options_();
            first_byte(with, 1, 100 * 1000 * 1000);
        }
        send_(sent, with != 0, with, &out);
        u32 code = out.byte[0] ? out.byte[8] : 255, future = out.word[2];
        if (code == 255) {
            u32 ready = answered(future);
            block(ready), drop_pollable(ready);
            answer(future, &out);
            if (out.byte[16]) code = out.byte[24];
        }
        if (code != 255) {
            begin(fields()), say("error "), number(code), end(0, 0);
            return;
        }
        u32 got = out.word[6];
        begin(fields()), number(answer_status(got)), say("\n"), tell(answer_headers(got));
        answer_consume(got, &out);
        contents(out.word[1], &out);
        u32 from = out.word[1];
        pass(from), end(0, 0);
    } else {
        begin(fields()), say("hello"), end(0, 0);
    }
}
