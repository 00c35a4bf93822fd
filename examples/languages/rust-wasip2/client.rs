//! Sends a line to HOST:PORT and prints who answered, and what.

mod peer;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::{env, error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let given: Vec<String> = env::args().skip(1).collect();
    let [target, text] = given.as_slice() else {
        return Err("usage: client HOST:PORT TEXT".into());
    };
    let stream = TcpStream::connect(target)?;
    let event = fs::read_to_string("/net/peer/con")?;
    println!("peer {}", peer::of(&event).ok_or("no event")?);
    writeln!(&stream, "{text}")?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    print!("echo {answer}");
    Ok(())
}
