/* echo.c again, for WASI 0.2: the core module of a component, whose imports `testing.component`
   lowers. The host's lists all come to one place: each is used before the next one comes. */
#define IMPORT(name) __attribute__((import_module("host"), import_name(name)))
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

IMPORT("network") u32 network(void);
IMPORT("create") void create(u32 family, void *out);
IMPORT("bind") void bind_(u32 self, u32 net, u32 kind, u32 port, u32 a, u32 b, u32 c, u32 d,
                          u32, u32, u32, u32, u32, u32, void *out);
IMPORT("bound") void bound(u32 self, void *out);
IMPORT("listen") void listen_(u32 self, void *out);
IMPORT("listening") void listening(u32 self, void *out);
IMPORT("accept") void accept_(u32 self, void *out);
IMPORT("incoming") u32 incoming(u32 self);
IMPORT("readable") u32 readable(u32 self);
IMPORT("writable") u32 writable(u32 self);
IMPORT("block") void block(u32 self);
IMPORT("poll") void poll_(const u32 *wanted, u32 count, void *out);
IMPORT("read") void read_(u32 self, u64 size, void *out);
IMPORT("check") void check(u32 self, void *out);
IMPORT("write") void write_(u32 self, const u8 *data, u32 size, void *out);
IMPORT("drop-socket") void drop_socket(u32 self);
IMPORT("drop-input") void drop_input(u32 self);
IMPORT("drop-output") void drop_output(u32 self);
IMPORT("drop-pollable") void drop_pollable(u32 self);

enum { MAX = 256 };
/* What a function returns by address: a result's case, then what it carries. */
static struct { u32 failed, first, second, third; } out __attribute__((aligned(8)));
static u32 sockets[MAX], inputs[MAX], outputs[MAX], pollables[MAX], happened[MAX];

static int echo(u32 i)
{
    read_(inputs[i], 65536, &out);
    if (out.failed & 0xff)
        return 0;
    const u8 *data = (const u8 *)out.first;
    u32 left = out.second;
    while (left) {
        check(outputs[i], &out);
        if (out.failed & 0xff)
            return 0;
        u32 size = out.second ? out.second : left;
        if (!out.second) {
            u32 pollable = writable(outputs[i]);
            block(pollable);
            drop_pollable(pollable);
            continue;
        }
        size = size < left ? size : left;
        write_(outputs[i], data, size, &out);
        if (out.failed & 0xff)
            return 0;
        data += size;
        left -= size;
    }
    return 1;
}

__attribute__((export_name("run"))) u32 run(void)
{
    u32 net = network(), used = 1;
    create(0, &out);
    sockets[0] = out.first;
    bind_(sockets[0], net, 0, PORT, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, &out);
    bound(sockets[0], &out);
    listen_(sockets[0], &out);
    listening(sockets[0], &out);
    if (out.failed & 0xff)
        return 1;
    pollables[0] = incoming(sockets[0]);
    for (;;) {
        poll_(pollables, used, &out);
        u32 count = out.first & 0xffff, *which = (u32 *)out.failed;
        for (u32 i = 0; i < count; i++)
            happened[i] = which[i];
        /* From the last on, for one that ends gives its place to the last. */
        for (u32 i = count; i-- > 0;) {
            u32 n = happened[i];
            if (n == 0) {
                accept_(sockets[0], &out);
                if (out.failed & 0xff || used == MAX)
                    continue;
                sockets[used] = out.first;
                inputs[used] = out.second;
                outputs[used] = out.third;
                pollables[used] = readable(inputs[used]);
                used++;
            } else if (!echo(n)) {
                drop_pollable(pollables[n]);
                drop_input(inputs[n]);
                drop_output(outputs[n]);
                drop_socket(sockets[n]);
                used--;
                sockets[n] = sockets[used];
                inputs[n] = inputs[used];
                outputs[n] = outputs[used];
                pollables[n] = pollables[used];
            }
        }
    }
}
