//! A broker client that speaks the bare protocol, for tests of what a login may do.
//!
//! Promises: every verdict is the server's own answer to that very command (`+OK`, or `-ERR` with
//! the subject in it), never a time-out. Refuses: anything that the protocol does not say.
//! It is blocking: the server is another process, and a test has nothing else to do meanwhile.
//!
//! Source: docs.nats.io, "Client Protocol"; `verbose` makes the server acknowledge each command.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use hotcell_nats_config::creds::Creds;
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// Commands that are sent before their answers are read: their answers fit every socket buffer.
const PIPELINE_MAX: usize = 100;

/// Silence after which the server is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// The connection.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The server does not take the login.
    #[error("the server refuses the login: {0}")]
    Refused(String),
    /// The server said something that is no answer to what was sent.
    #[error("unexpected line of the server: {0}")]
    Unexpected(String),
    /// The login's key cannot sign.
    #[error("the key cannot sign")]
    Sign(#[source] nkeys::error::Error),
}

/// What can be tried with a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// `PUB`, without a reply subject.
    Publish,
    /// `SUB`, taken back at once.
    Subscribe,
    /// `SUB` in a queue group, taken back at once.
    QueueSubscribe,
}

/// A message that was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Where it was published.
    pub subject: String,
    /// Where an answer goes.
    pub reply: Option<String>,
    /// Header lines.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Delivered {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A user's JWT and its key.
pub struct Identity {
    jwt: String,
    key: KeyPair,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.key.public_key())
    }
}

impl Identity {
    /// From a JWT and its key.
    #[must_use]
    pub fn new(jwt: String, key: KeyPair) -> Self {
        Self { jwt, key }
    }

    /// The same JWT with another key: what a thief of the JWT alone has.
    #[must_use]
    pub fn with_key(self, key: KeyPair) -> Self {
        Self { key, ..self }
    }

    /// From a credential file.
    #[must_use]
    pub fn of(creds: Creds) -> Self {
        let lines = creds.text.lines().map(str::trim);
        let jwt = lines.skip_while(|line| !line.starts_with("-----BEGIN NATS USER JWT")).nth(1);
        Self { jwt: jwt.unwrap_or_default().to_owned(), key: creds.key }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Raw {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    subscriptions: u64,
    delivered: VecDeque<Delivered>,
}

enum Line {
    Ok,
    Pong,
    Denied(String),
}

impl Raw {
    /// Connects to `address` (`nats://host:port`), with or without a login.
    ///
    /// # Errors
    /// `Refused` when the server does not take it; `Io`, `Unexpected`, `Sign`.
    pub fn connect(address: &str, identity: Option<&Identity>) -> Result<Self, RawError> {
        let writer = TcpStream::connect(address.trim_start_matches("nats://"))?;
        writer.set_read_timeout(Some(SILENCE_MAX))?;
        writer.set_nodelay(true)?;
        let reader = BufReader::new(writer.try_clone()?);
        let mut raw = Self { reader, writer, subscriptions: 0, delivered: VecDeque::new() };
        let info = raw.line()?;
        let body = info.strip_prefix("INFO ").ok_or(RawError::Unexpected(info.clone()))?;
        let info: Value =
            serde_json::from_str(body).map_err(|_| RawError::Unexpected(body.to_owned()))?;
        let nonce = info.get("nonce").and_then(Value::as_str).unwrap_or_default();
        let mut options = json!({
            "verbose": true, "pedantic": false, "headers": true, "no_responders": true,
            "lang": "raw", "version": "1", "protocol": 1, "name": "raw",
        });
        if let (Some(identity), Some(options)) = (identity, options.as_object_mut()) {
            let sig = identity.key.sign(nonce.as_bytes()).map_err(RawError::Sign)?;
            options.insert("jwt".to_owned(), Value::from(identity.jwt.as_str()));
            options.insert("sig".to_owned(), Value::from(BASE64URL.encode(sig)));
        }
        let hello = format!("CONNECT {options}\r\nPING\r\n");
        raw.writer.write_all(hello.as_bytes())?;
        for expected in ["+OK", "PONG"] {
            let line = raw.line()?;
            if line != expected {
                return Err(RawError::Refused(line));
            }
        }
        Ok(raw)
    }

    /// Tries each act, and returns for each whether the server allowed it. A `PING` closes each
    /// batch, so that no answer is outstanding.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn try_all(&mut self, acts: &[(Act, &str)]) -> Result<Vec<bool>, RawError> {
        let mut verdicts = Vec::with_capacity(acts.len());
        for batch in acts.chunks(PIPELINE_MAX) {
            let mut commands = String::new();
            for (act, subject) in batch {
                self.subscriptions += 1;
                let sid = self.subscriptions;
                commands.push_str(&match act {
                    Act::Publish => format!("PUB {subject} 0\r\n\r\n"),
                    Act::Subscribe => format!("SUB {subject} {sid}\r\nUNSUB {sid}\r\n"),
                    Act::QueueSubscribe => format!("SUB {subject} q {sid}\r\nUNSUB {sid}\r\n"),
                });
            }
            commands.push_str("PING\r\n");
            self.writer.write_all(commands.as_bytes())?;
            for (act, subject) in batch {
                verdicts.push(self.verdict(subject)?);
                if *act != Act::Publish {
                    self.expect_ok()?;
                }
            }
            match self.answer()? {
                Line::Pong => {}
                Line::Ok => return Err(RawError::Unexpected("+OK".to_owned())),
                Line::Denied(text) => return Err(RawError::Unexpected(text)),
            }
        }
        Ok(verdicts)
    }

    /// Whether the server lets this login do `act` on `subject`.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn may(&mut self, act: Act, subject: &str) -> Result<bool, RawError> {
        Ok(self.try_all(&[(act, subject)])? == [true])
    }

    /// Subscribes and stays subscribed. False when the server denies it.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn subscribe(&mut self, subject: &str) -> Result<bool, RawError> {
        self.subscriptions += 1;
        let command = format!("SUB {subject} {}\r\n", self.subscriptions);
        self.writer.write_all(command.as_bytes())?;
        self.verdict(subject)
    }

    /// Publishes a message with headers. False when the server denies it.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn publish(
        &mut self,
        subject: &str,
        reply: Option<&str>,
        headers: &[(&str, String)],
        body: &[u8],
    ) -> Result<bool, RawError> {
        let mut head = "NATS/1.0\r\n".to_owned();
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let (head_bytes, total) = (head.len(), head.len() + body.len());
        let to = reply.map_or_else(|| subject.to_owned(), |reply| format!("{subject} {reply}"));
        let mut bytes = format!("HPUB {to} {head_bytes} {total}\r\n{head}").into_bytes();
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n");
        self.writer.write_all(&bytes)?;
        self.verdict(subject)
    }

    /// The next message for this connection's subscriptions.
    ///
    /// # Errors
    /// `Io` when none comes in time; `Unexpected`.
    pub fn next_message(&mut self) -> Result<Delivered, RawError> {
        loop {
            if let Some(message) = self.delivered.pop_front() {
                return Ok(message);
            }
            let line = self.line()?;
            if !self.aside(&line)? {
                return Err(RawError::Unexpected(line));
            }
        }
    }

    /// Messages that the server had sent before it answered a `PING` sent now.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn settled(&mut self) -> Result<Vec<Delivered>, RawError> {
        self.writer.write_all(b"PING\r\n")?;
        match self.answer()? {
            Line::Pong => Ok(self.delivered.drain(..).collect()),
            Line::Ok => Err(RawError::Unexpected("+OK".to_owned())),
            Line::Denied(text) => Err(RawError::Unexpected(text)),
        }
    }

    fn verdict(&mut self, subject: &str) -> Result<bool, RawError> {
        match self.answer()? {
            Line::Ok => Ok(true),
            Line::Denied(text) if text.contains(&format!("\"{subject}\"")) => Ok(false),
            Line::Denied(text) => Err(RawError::Unexpected(text)),
            Line::Pong => Err(RawError::Unexpected("PONG".to_owned())),
        }
    }

    fn expect_ok(&mut self) -> Result<(), RawError> {
        match self.answer()? {
            Line::Ok => Ok(()),
            Line::Pong => Err(RawError::Unexpected("PONG".to_owned())),
            Line::Denied(text) => Err(RawError::Unexpected(text)),
        }
    }

    fn answer(&mut self) -> Result<Line, RawError> {
        loop {
            let line = self.line()?;
            if line == "+OK" {
                return Ok(Line::Ok);
            }
            if line == "PONG" {
                return Ok(Line::Pong);
            }
            if line.starts_with("-ERR 'Permissions Violation for ") {
                return Ok(Line::Denied(line));
            }
            if !self.aside(&line)? {
                return Err(RawError::Unexpected(line));
            }
        }
    }

    /// Takes what the server sends of its own accord. False when `line` is something else.
    fn aside(&mut self, line: &str) -> Result<bool, RawError> {
        if line == "PING" {
            self.writer.write_all(b"PONG\r\n")?;
            return Ok(true);
        }
        if line.starts_with("INFO ") {
            return Ok(true);
        }
        let words: Vec<&str> = line.split(' ').collect();
        let number =
            |text: &str| text.parse::<usize>().map_err(|_| RawError::Unexpected(line.to_owned()));
        let (subject, reply, head, total) = match *words.as_slice() {
            ["MSG", subject, _, total] => (subject, None, 0, number(total)?),
            ["MSG", subject, _, reply, total] => (subject, Some(reply), 0, number(total)?),
            ["HMSG", subject, _, head, total] => (subject, None, number(head)?, number(total)?),
            ["HMSG", subject, _, reply, head, total] => {
                (subject, Some(reply), number(head)?, number(total)?)
            }
            _ => return Ok(false),
        };
        let mut bytes = vec![0; total + 2];
        self.reader.read_exact(&mut bytes)?;
        bytes.truncate(total);
        let body = bytes.split_off(head.min(total));
        let head = String::from_utf8_lossy(&bytes).into_owned();
        let headers = head.lines().filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        self.delivered.push_back(Delivered {
            subject: subject.to_owned(),
            reply: reply.map(str::to_owned),
            headers: headers.collect(),
            body,
        });
        Ok(true)
    }

    fn line(&mut self) -> Result<String, RawError> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(RawError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}
