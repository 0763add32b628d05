//! Stands in ffmpeg's place as a program that an attacker took over. What it does follows from its
//! file's name: `forger-tail` writes a file of the attacker's choice where the output belongs,
//! `forger-socket` opens a socket, `forger-crash` dies of a bad address, `forger-hog` takes all
//! memory, `forger-honest` copies its input.
//!
//! Compiled by the tests with `rustc` alone; no part of hotcell.

use std::{
    env,
    fs::{self, File},
    hint::black_box,
    io::Read as _,
    net::UdpSocket,
    path::Path,
    process::exit,
};

fn main() {
    let args: Vec<String> = env::args().collect();
    if args.iter().any(|arg| arg == "-version") {
        println!("ffmpeg version 0-forger Copyright (c) nobody");
        println!("configuration: none");
        return;
    }
    let name = Path::new(&args[0]).file_name().unwrap().to_str().unwrap();
    let output = args.last().unwrap();
    match name.rsplit_once('-').unwrap().1 {
        "tail" => fs::write(output, tail(&input())).unwrap(),
        "honest" => fs::write(output, input()).unwrap(),
        "socket" => drop(UdpSocket::bind("127.0.0.1:0")),
        "crash" => overrun(0),
        "hog" => hog(),
        _ => exit(3),
    }
}

/// The whole input, by the calls that FFmpeg needs as well: `fs::read` would ask for its size by
/// `statx`, which no cell allows.
fn input() -> Vec<u8> {
    let (mut file, mut all, mut part) = (File::open("/in/0").unwrap(), Vec::new(), [0; 1 << 16]);
    loop {
        match file.read(&mut part).unwrap() {
            0 => return all,
            size => all.extend_from_slice(&part[..size]),
        }
    }
}

/// What the last eight bytes count: the file behind the honest one.
fn tail(bytes: &[u8]) -> &[u8] {
    let (rest, size) = bytes.split_at(bytes.len() - 8);
    let size = usize::try_from(u64::from_le_bytes(size.try_into().unwrap())).unwrap();
    &rest[rest.len() - size..]
}

/// A stack that ends at its guard page: a signal without one line of `unsafe`.
fn overrun(depth: u64) {
    let frame = black_box([depth; 4096]);
    if frame[0] < u64::MAX {
        overrun(frame[0] + 1);
    }
    black_box(frame);
}

fn hog() {
    let mut held = Vec::new();
    loop {
        held.push(black_box(vec![1_u8; 1 << 24]));
    }
}
