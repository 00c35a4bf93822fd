//! Sends a line to HOST:PORT and prints the answer, as a component: the adapter counts descriptors
//! in its own way, so who is there is read as the next event and not by the descriptor.

#[path = "../rust-wasip2/peer.rs"]
mod peer;

use std::io::{BufRead, BufReader, Write};
use std::{env, error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let given: Vec<String> = env::args().skip(1).collect();
    if given.len() != 2 {
        return Err("usage: client HOST:PORT TEXT".into());
    }
    let (target, text) = (&given[0], &given[1]);
    let path = format!("/net/con/{target}");
    let stream = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let event = fs::read_to_string("/net/peer/con")?;
    println!("peer {}", peer::of(&event).ok_or("no event")?);
    writeln!(&stream, "{text}")?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    print!("echo {answer}");
    Ok(())
}
