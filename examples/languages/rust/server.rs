//! An echo server. It has no TLS code: the keep does TLS on descriptor 3.

use std::fs;
use std::io::{Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::wasi::io::{AsRawFd, FromRawFd};

fn serve(mut client: TcpStream) -> Result<()> {
    let peer = fs::read_to_string(format!("/net/peer/fd/{}", client.as_raw_fd()))?;
    println!("peer {peer}");
    let mut buffer = [0; 16384];
    loop {
        let got = client.read(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        client.write_all(&buffer[..got])?;
    }
}

fn main() {
    // The keep opened it, and nothing else in this program uses it.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    println!("listening");
    loop {
        let served = listener.accept().and_then(|(client, _)| serve(client));
        if let Err(error) = served {
            eprintln!("a client: {error}");
        }
    }
}
