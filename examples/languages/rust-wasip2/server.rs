//! Sends back what it gets on the port that is its argument, and says who sent it. It is what
//! anybody writes for any machine; `std::net` of this target is `wasi:sockets`.

mod peer;

use std::io::{Read, Result, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::{env, fs};

fn serve(mut client: TcpStream) -> Result<()> {
    let event = fs::read_to_string("/net/peer/lis")?;
    println!("peer {}", peer::of(&event).unwrap_or("unknown"));
    let mut buffer = [0; 16384];
    loop {
        let got = client.read(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        client.write_all(&buffer[..got])?;
    }
}

fn main() -> Result<()> {
    let port = env::args().nth(1).and_then(|given| given.parse().ok());
    let port: u16 = port.expect("usage: server PORT");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    println!("listening");
    for client in listener.incoming() {
        if let Err(error) = client.and_then(serve) {
            eprintln!("a client: {error}");
        }
    }
    Ok(())
}
