//! Send a line to HOST:PORT and print the answer. To connect is to open a file; the keep does TLS.
const std = @import("std");
const keep = @import("keep.zig");

pub fn main(init: std.process.Init) !void {
    const arguments = try init.minimal.args.toSlice(init.arena.allocator());
    if (arguments.len != 3) return error.UsageHostPortText;
    var buffer: [16384]u8 = undefined;

    const path = try std.mem.concat(init.arena.allocator(), u8, &.{ "/net/con/", arguments[1] });
    const server = try keep.connect(path);
    defer keep.close(server);
    try keep.print(&.{ "peer ", try keep.peer(server, &buffer) });

    try keep.write(server, arguments[2]);
    try keep.write(server, "\n");
    var length: usize = 0;
    while (std.mem.indexOfScalar(u8, buffer[0..length], '\n') == null) {
        const bytes = try keep.read(server, buffer[length..]);
        if (bytes.len == 0) return error.NoAnswer;
        length += bytes.len;
    }
    try keep.print(&.{ "echo ", buffer[0 .. length - 1] });
}
