//! The few words in the clear before TLS begins, for three protocols.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::settings::StartTls;

/// The longest line, and the longest answer, before TLS.
const ANSWER_BYTES_MAX: usize = 8 * 1024;
/// `StartTLS` as an extended request (RFC 4511, 4.14.1).
const LDAP_REQUEST: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
/// `SSLRequest`: its length and its code.
const POSTGRES_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];

/// Asks for TLS.
///
/// # Errors
/// In words: the other side does not want it, or does not speak this protocol.
pub(super) async fn ask(stream: &mut TcpStream, protocol: StartTls) -> Result<(), String> {
    match protocol {
        StartTls::Smtp => {
            reply(stream, "220").await?;
            say(stream, b"EHLO tenure.invalid\r\n").await?;
            reply(stream, "250").await?;
            say(stream, b"STARTTLS\r\n").await?;
            reply(stream, "220").await
        }
        StartTls::Postgres => {
            say(stream, POSTGRES_REQUEST).await?;
            match stream.read_u8().await.map_err(broken)? {
                b'S' => Ok(()),
                b'N' => Err("the server has no TLS".to_owned()),
                _ => Err("it does not speak PostgreSQL's protocol".to_owned()),
            }
        }
        StartTls::Ldap => {
            say(stream, LDAP_REQUEST).await?;
            extended(stream).await
        }
    }
}

async fn say(stream: &mut TcpStream, words: &[u8]) -> Result<(), String> {
    stream.write_all(words).await.map_err(broken)
}

fn broken(error: io::Error) -> String {
    format!("the connection ended before TLS began: {error}")
}

/// Reads one answer of SMTP, all its lines, and not a byte more: what follows belongs to TLS.
async fn reply(stream: &mut TcpStream, wanted: &str) -> Result<(), String> {
    let mut bytes = 0;
    loop {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.push(stream.read_u8().await.map_err(broken)?);
            bytes += 1;
            if bytes > ANSWER_BYTES_MAX {
                return Err("it talks without end instead of offering TLS".to_owned());
            }
        }
        if line.get(3) == Some(&b'-') && line.starts_with(wanted.as_bytes()) {
            continue;
        }
        if line.starts_with(wanted.as_bytes()) {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line);
        return Err(format!("it answered `{}`", line.trim().escape_debug()));
    }
}

/// Reads the answer to an extended request of LDAP.
async fn extended(stream: &mut TcpStream) -> Result<(), String> {
    let strange = || "it does not speak LDAP".to_owned();
    if stream.read_u8().await.map_err(broken)? != 0x30 {
        return Err(strange());
    }
    let length = match stream.read_u8().await.map_err(broken)? {
        short @ 0..=0x7f => usize::from(short),
        long @ 0x81..=0x84 => {
            let mut length = 0_usize;
            for _ in 0..(long & 0x7f) {
                let byte = stream.read_u8().await.map_err(broken)?;
                length = length << 8 | usize::from(byte);
            }
            length
        }
        _ => return Err(strange()),
    };
    if length > ANSWER_BYTES_MAX {
        return Err(strange());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(broken)?;
    // The number of the message, then an ExtendedResponse that begins with the result code.
    let result = match body.as_slice() {
        [2, 1, 1, 0x78, length, rest @ ..] => match length {
            0x81 => rest.get(1..),
            0x82 => rest.get(2..),
            0x84 => rest.get(4..),
            _ => Some(rest),
        },
        _ => None,
    };
    match result {
        Some([0x0a, 1, 0, ..]) => Ok(()),
        Some([0x0a, 1, code, ..]) => Err(format!("the directory refuses StartTLS (result {code})")),
        _ => Err(strange()),
    }
}
