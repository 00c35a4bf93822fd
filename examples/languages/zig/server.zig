//! An echo server. It has no TLS code: the keep does TLS on descriptor 3.
const keep = @import("keep.zig");

fn serve(client: i32) keep.Error!void {
    var buffer: [16384]u8 = undefined;
    try keep.print(&.{ "peer ", try keep.peer(client, &buffer) });
    while (true) {
        const bytes = try keep.read(client, &buffer);
        if (bytes.len == 0) return;
        try keep.write(client, bytes);
    }
}

pub fn main() keep.Error!void {
    try keep.print(&.{"listening"});
    while (true) {
        const client = try keep.accept();
        defer keep.close(client);
        // `keep` has printed what was wrong; the next client may do better.
        serve(client) catch continue;
    }
}
