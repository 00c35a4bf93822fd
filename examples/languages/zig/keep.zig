//! A keep's network for Zig without a C library: the functions of WASI preview 1, called directly.
const std = @import("std");
const wasi = std.os.wasi;

pub const Error = error{Wasi};

/// The listener that the keep opened.
pub const listener: wasi.fd_t = 3;

fn check(what: []const u8, code: wasi.errno_t) Error!void {
    if (code == .SUCCESS) return;
    std.debug.print("{s}: {t}\n", .{ what, code });
    return error.Wasi;
}

/// The root directory: the first preopened one, after any sockets.
fn root() Error!wasi.fd_t {
    var fd: wasi.fd_t = 3;
    while (true) : (fd += 1) {
        // The name of a socket has another tag, which the type does not know.
        var prestat: [@sizeOf(wasi.prestat_t)]u8 align(@alignOf(wasi.prestat_t)) = undefined;
        try check("no root directory", wasi.fd_prestat_get(fd, @ptrCast(&prestat)));
        if (prestat[0] == 0) return fd;
    }
}

fn open(path: []const u8, rights: wasi.rights_t) Error!wasi.fd_t {
    var fd: wasi.fd_t = undefined;
    const name = path[1..];
    try check(path, wasi.path_open(try root(), .{}, name.ptr, name.len, .{}, rights, .{}, .{}, &fd));
    return fd;
}

/// To connect is to open `/net/con/HOST:PORT`.
pub fn connect(path: []const u8) Error!wasi.fd_t {
    return open(path, .{ .FD_READ = true, .FD_WRITE = true });
}

pub fn accept() Error!wasi.fd_t {
    var fd: wasi.fd_t = undefined;
    try check("accept", wasi.sock_accept(listener, .{}, &fd));
    return fd;
}

/// Read what is there; nothing at the end.
pub fn read(fd: wasi.fd_t, buffer: []u8) Error![]u8 {
    var size: usize = undefined;
    const vector = [_]wasi.iovec_t{.{ .base = buffer.ptr, .len = buffer.len }};
    try check("read", wasi.fd_read(fd, &vector, 1, &size));
    return buffer[0..size];
}

pub fn write(fd: wasi.fd_t, bytes: []const u8) Error!void {
    var left = bytes;
    while (left.len > 0) {
        var size: usize = undefined;
        const vector = [_]wasi.ciovec_t{.{ .base = left.ptr, .len = left.len }};
        try check("write", wasi.fd_write(fd, &vector, 1, &size));
        left = left[size..];
    }
}

pub fn close(fd: wasi.fd_t) void {
    _ = wasi.fd_close(fd);
}

/// Print a line, its parts put together.
pub fn print(parts: []const []const u8) Error!void {
    for (parts) |part| try write(1, part);
    try write(1, "\n");
}

/// Who is at the other end, as JSON: the keep read it from the certificate.
pub fn peer(fd: wasi.fd_t, buffer: []u8) Error![]const u8 {
    var name: [32]u8 = undefined;
    const path = std.fmt.bufPrint(&name, "/net/peer/fd/{d}", .{fd}) catch unreachable;
    const file = try open(path, .{ .FD_READ = true });
    defer close(file);
    return read(file, buffer);
}
