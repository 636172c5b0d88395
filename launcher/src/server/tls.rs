//! The server's side of TLS (rustls): a certificate and its key from PEM files, and a stream.
//!
//! The files are read again when they have changed, as those of a mounted Secret do: what is there
//! then counts for the next connection, unless it is no good. TLS 1.2 and 1.3; clients are not asked
//! for certificates. Runs on the connections' threads.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use devices::event::Event;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, ServerConnection};

use super::stream::Stream;
use crate::image::fetch::certificates::missing_features;

/// Largest file of certificates or of a key, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Plain bytes that may wait inside for the connection to take them.
const BUFFER: usize = 64 << 10;

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("{} cannot be read as {what}; name a PEM file that has one", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// They do not go together, or are of a kind that is not known.
    #[error(
        "the certificate in {} and the key in {} cannot be used; give a certificate with its own \
         key, RSA or ECDSA", certificate.display(), key.display()
    )]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The processor.
    #[error("this processor lacks {0}, which Berth's TLS needs; leave the certificate away")]
    Processor(String),
}

/// When each of the two files was last written, and how long it is.
type Stamp = [Option<(SystemTime, u64)>; 2];

/// A certificate that is kept up to date with its files.
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<(Stamp, Arc<ServerConfig>)>,
}

impl Certificate {
    /// Reads a certificate (with those between it and its authority behind it) and its key.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(certificate: &Path, key: &Path) -> Result<Certificate, TlsError> {
        let missing = missing_features();
        if !missing.is_empty() {
            return Err(TlsError::Processor(missing.join(", ")));
        }
        let stamp = stamp(certificate, key);
        let current = Mutex::new((stamp, load(certificate, key)?));
        Ok(Certificate { certificate: certificate.to_owned(), key: key.to_owned(), current })
    }

    /// What a connection is to be made with now.
    pub fn current(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.certificate, &self.key);
        if stamp != current.0 {
            // Looked at once, good or bad.
            current.0 = stamp;
            match load(&self.certificate, &self.key) {
                Ok(config) => current.1 = config,
                Err(error) => log::warn!("the last good certificate stays in use: {error}"),
            }
        }
        Arc::clone(&current.1)
    }
}

fn stamp(certificate: &Path, key: &Path) -> Stamp {
    [certificate, key].map(|path| {
        let data = fs::metadata(path).ok()?;
        Some((data.modified().ok()?, data.len()))
    })
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let failed = |path: &Path, what, source| TlsError::Read { path: path.to_owned(), what, source };
    let chain = bytes(certificate)
        .and_then(|bytes| {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
            chain.map_err(io::Error::other)
        })
        .and_then(|chain| match chain.is_empty() {
            true => Err(io::Error::other("there is no certificate in it")),
            false => Ok(chain),
        })
        .map_err(|error| failed(certificate, "a certificate", error))?;
    let secret = bytes(key)
        .and_then(|bytes| PrivateKeyDer::from_pem_slice(&bytes).map_err(io::Error::other))
        .map_err(|error| failed(key, "a key", error))?;
    let unusable = |source| TlsError::Unusable {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    };
    let provider = Arc::new(rustls_graviola::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(unusable)?;
    // Nobody resumes sessions here; and TigerVNC 1.12 does not look at what it has already got behind
    // a ticket until more comes, which is never.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// TLS over a stream.
pub struct TlsStream {
    tls: ServerConnection,
    /// What came before it was known to be TLS.
    first: io::Cursor<Vec<u8>>,
    inner: Box<dyn Stream>,
    /// The last read found something, so there may be more.
    more: bool,
}

impl TlsStream {
    /// Shakes hands with a client that speaks TLS over `inner`; `first` is what it has said so far.
    /// Nothing else is said before that is done, though TLS 1.3 would let a server (RFC 8446 §2):
    /// not every client looks for it.
    ///
    /// # Errors
    /// It has not worked, or not until `deadline`, or `stop` was signalled meanwhile.
    pub fn accept(
        inner: Box<dyn Stream>,
        first: Vec<u8>,
        config: Arc<ServerConfig>,
        (stop, deadline): (&Event, Instant),
    ) -> io::Result<TlsStream> {
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(BUFFER));
        let mut stream = TlsStream { tls, first: io::Cursor::new(first), inner, more: true };
        while !stream.shake()? {
            stream.wait(stop, deadline)?;
        }
        Ok(stream)
    }

    /// Goes on with the handshake as far as it goes; `true`: it is done, and everything was sent.
    fn shake(&mut self) -> io::Result<bool> {
        let blocks = |error: &io::Error| error.kind() == ErrorKind::WouldBlock;
        while self.tls.is_handshaking() {
            match self.take_in() {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if blocks(&error) => break,
                Err(error) => return Err(error),
            }
        }
        match self.send_out() {
            Ok(()) => Ok(!self.tls.is_handshaking()),
            Err(error) if blocks(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sleeps until the handshake may go on.
    fn wait(&self, stop: &Event, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        let timeout = PollTimeout::try_from(left.as_millis().saturating_add(1));
        let mut flags = PollFlags::POLLIN;
        flags.set(PollFlags::POLLOUT, self.tls.wants_write());
        let mut fds =
            [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(self.inner.fd(), flags)];
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [stop, _] = &fds;
        match stop.any() {
            Some(true) => Err(ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }

    /// Takes in what has arrived; zero bytes are the end.
    fn take_in(&mut self) -> io::Result<usize> {
        // rustls takes zero bytes for the end, so what is used up is not asked again.
        let used_up = self.first.position() >= self.first.get_ref().len() as u64;
        let count = match used_up {
            true => self.tls.read_tls(&mut self.inner)?,
            false => self.tls.read_tls(&mut self.first)?,
        };
        if let Err(error) = self.tls.process_new_packets() {
            // The peer is told why, if it will still listen.
            let _ = self.send_out();
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        Ok(count)
    }

    /// Sends what waits.
    fn send_out(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            if self.tls.write_tls(&mut self.inner)? == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.read_plain(buffer);
        self.more = matches!(read, Ok(1..));
        read
    }
}

impl TlsStream {
    fn read_plain(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            let taken = self.take_in();
            // Answers of the handshake; what cannot go now goes with the next flush.
            match self.send_out() {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
            if taken? == 0 {
                return Ok(0);
            }
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.send_out();
        match self.tls.writer().write(bytes) {
            Ok(0) if !bytes.is_empty() => sent.and(Err(ErrorKind::WouldBlock.into())),
            taken => taken,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_out()?;
        self.inner.flush()
    }
}

impl Stream for TlsStream {
    fn fd(&self) -> BorrowedFd<'_> {
        self.inner.fd()
    }

    fn has_buffered(&self) -> bool {
        self.more
    }
}
