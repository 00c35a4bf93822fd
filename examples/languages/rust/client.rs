//! Send a line to HOST:PORT and print the answer. To connect is to open a file; the keep does TLS.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Error, ErrorKind, Result, Write};
use std::os::wasi::io::AsRawFd;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().collect();
    if arguments.len() != 3 {
        return Err(Error::new(ErrorKind::InvalidInput, "usage: HOST:PORT TEXT"));
    }
    let (address, text) = (&arguments[1], &arguments[2]);
    let mut stream = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/net/con/{address}"))?;
    let peer = fs::read_to_string(format!("/net/peer/fd/{}", stream.as_raw_fd()))?;
    println!("peer {peer}");
    stream.write_all(format!("{text}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    print!("echo {answer}");
    Ok(())
}
