// A keep's network for AssemblyScript, which has no sockets: the functions of WASI preview 1, called directly.

// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "sock_accept")
declare function sock_accept(fd: i32, flags: i32, result: usize): i32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "fd_prestat_get")
declare function fd_prestat_get(fd: i32, result: usize): i32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "path_open")
declare function path_open(
  folder: i32, lookup: i32, path: usize, length: usize, flags: i32, rights: i64, inheriting: i64,
  fdflags: i32, result: usize,
): i32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "fd_read")
declare function fd_read(fd: i32, vectors: usize, count: i32, result: usize): i32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(fd: i32, vectors: usize, count: i32, result: usize): i32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "fd_close")
declare function fd_close(fd: i32): i32;

const READ: i64 = 1 << 1;
const WRITE: i64 = 1 << 6;

// Room for what a function answers: an iovec at 0, a number at 8.
const answer = memory.data(16, 8);

function check(what: string, error: i32): void {
  if (error != 0) throw new Error(what + ": errno " + error.toString());
}

// The root directory: the first preopened one, after any sockets.
function root(): i32 {
  let fd = 2;
  do {
    fd++;
    check("no root directory", fd_prestat_get(fd, answer));
  } while (load<u8>(answer) != 0);
  return fd;
}

function open(path: string, rights: i64): i32 {
  const bytes = String.UTF8.encode(path.substring(1));
  const error = path_open(
    root(), 1, changetype<usize>(bytes), bytes.byteLength, 0, rights, 0, 0, answer + 8,
  );
  check(path, error);
  return load<i32>(answer + 8);
}

// To connect is to open a file.
export function connect(address: string): i32 {
  return open("/net/con/" + address, READ | WRITE);
}

export function accept(listener: i32): i32 {
  check("accept", sock_accept(listener, 0, answer + 8));
  return load<i32>(answer + 8);
}

// Read what is there; nothing at the end.
export function read(fd: i32): Uint8Array {
  const buffer = new Uint8Array(16384);
  store<usize>(answer, buffer.dataStart);
  store<usize>(answer, buffer.length, 4);
  check("read", fd_read(fd, answer, 1, answer + 8));
  return buffer.slice(0, load<i32>(answer + 8));
}

export function write(fd: i32, bytes: Uint8Array): void {
  let done = 0;
  while (done < bytes.length) {
    store<usize>(answer, bytes.dataStart + done);
    store<usize>(answer, bytes.length - done, 4);
    check("write", fd_write(fd, answer, 1, answer + 8));
    done += load<i32>(answer + 8);
  }
}

export function close(fd: i32): void {
  check("close", fd_close(fd));
}

// Who is at the other end, as JSON: the keep read it from the certificate.
export function peer(fd: i32): string {
  const file = open("/net/peer/fd/" + fd.toString(), READ);
  const text = String.UTF8.decode(read(file).buffer);
  close(file);
  return text;
}
