//! One connection. Its calls block, so each needs a thread, and they exclude each other; `shutdown`
//! ends a running one from another thread.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::mem::ManuallyDrop;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, ServerConnection};

use crate::config::{ClientConfig, ServerConfig};
use crate::digest::Sha256;
use crate::errors::ConnectionFailed;

/// Bytes of content per read of a file, and of plain text that TLS holds at most.
const BLOCK_BYTES: usize = 256 * 1024;
/// Bytes per read of a socket: TLS by itself would read less than a record at a time.
const SOCKET_BYTES: usize = 256 * 1024;
/// The most that `read` returns.
const READ_BYTES_MAX: usize = 1024 * 1024;

#[pyclass(frozen, module = "partition_tls._tls")]
pub struct Connection {
    /// For `shutdown` and `set_timeout`, which must not wait for a running call.
    socket: TcpStream,
    channel: Mutex<Channel>,
}

struct Channel {
    layer: Layer,
    /// One block of a file.
    block: Vec<u8>,
}

enum Layer {
    Plain(BufReader<TcpStream>),
    Tls(Box<rustls::Connection>, BufReader<TcpStream>),
}

impl Read for Layer {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Layer::Plain(socket) => socket.read(into),
            Layer::Tls(tls, socket) => loop {
                match tls.reader().read(into) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        receive_records(tls, socket)?;
                    }
                    outcome => return outcome,
                }
            },
        }
    }
}

impl Write for Layer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Layer::Plain(socket) => socket.get_mut().write(data),
            Layer::Tls(tls, socket) => {
                let taken = tls.writer().write(data)?;
                send_records(tls, socket)?;
                Ok(taken)
            }
        }
    }

    /// Nothing waits: each write is complete.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn receive_records(
    tls: &mut rustls::Connection,
    socket: &mut BufReader<TcpStream>,
) -> io::Result<()> {
    if tls.read_tls(socket)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let outcome = tls.process_new_packets();
    // An alert, the answer to a change of keys.
    let sent = send_records(tls, socket);
    outcome.map_err(io::Error::other)?;
    sent
}

fn send_records(tls: &mut rustls::Connection, socket: &mut BufReader<TcpStream>) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(socket.get_mut()) {
            // Not to the caller, who would write the same text again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => drop(outcome?),
        }
    }
    Ok(())
}

fn failed(error: io::Error) -> PyErr {
    let text = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the other side closed it".to_owned(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            "the other side did nothing in time".to_owned()
        }
        _ => error.to_string(),
    };
    ConnectionFailed::new_err(text)
}

/// A Python file's descriptor, which stays Python's.
fn borrowed(descriptor: RawFd) -> ManuallyDrop<File> {
    // Safety: the caller keeps the file open during the call, as `_tls.pyi` asks for.
    ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) })
}

/// What goes wrong while content is moved: on the connection, or at the file.
enum Fault {
    Connection(io::Error),
    File(io::Error),
}

impl From<Fault> for PyErr {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Connection(error) => failed(error),
            // With its number, by which a full disk is told from a broken one.
            Fault::File(error) => match error.raw_os_error() {
                Some(code) => PyOSError::new_err((code, error.to_string())),
                None => PyOSError::new_err(error.to_string()),
            },
        }
    }
}

impl Connection {
    fn new(socket: TcpStream, tls: Option<rustls::Connection>) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        let mut reader = BufReader::with_capacity(SOCKET_BYTES, socket.try_clone()?);
        let layer = match tls {
            None => Layer::Plain(reader),
            Some(mut tls) => {
                tls.set_buffer_limit(Some(BLOCK_BYTES));
                while tls.is_handshaking() {
                    send_records(&mut tls, &mut reader)?;
                    if tls.is_handshaking() {
                        receive_records(&mut tls, &mut reader)?;
                    }
                }
                send_records(&mut tls, &mut reader)?;
                Layer::Tls(Box::new(tls), reader)
            }
        };
        let block = Vec::new();
        Ok(Self {
            socket,
            channel: Mutex::new(Channel { layer, block }),
        })
    }

    /// Takes the descriptor over, also if it fails. `tls` makes our side of a handshake; None without
    /// TLS.
    fn open(
        py: Python<'_>,
        descriptor: RawFd,
        timeout_s: f64,
        tls: impl FnOnce() -> io::Result<Option<rustls::Connection>> + Send,
    ) -> PyResult<Self> {
        // Safety: the caller gives the descriptor away.
        let socket = unsafe { TcpStream::from_raw_fd(descriptor) };
        py.detach(|| {
            set_timeout(&socket, timeout_s)?;
            Self::new(socket, tls()?)
        })
        .map_err(failed)
    }

    fn lock(&self) -> MutexGuard<'_, Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call without Python's lock. After a failure of the connection, which may have come in
    /// the middle of something, nothing more is moved.
    fn call<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Channel) -> Result<T, Fault> + Send,
    ) -> PyResult<T> {
        let outcome = py.detach(|| work(&mut self.lock()));
        if let Err(Fault::Connection(_)) = outcome {
            self.shutdown();
        }
        outcome.map_err(PyErr::from)
    }
}

impl Channel {
    fn send(&mut self, file: &File, mut offset: u64, count: u64) -> Result<u64, Fault> {
        self.block.resize(BLOCK_BYTES, 0);
        let end = offset + count;
        let begin = offset;
        while offset < end {
            let wanted = (end - offset).min(BLOCK_BYTES as u64) as usize;
            let block = &mut self.block[..wanted];
            let found = file.read_at(block, offset).map_err(Fault::File)?;
            if found == 0 {
                break;
            }
            let block = &self.block[..found];
            self.layer.write_all(block).map_err(Fault::Connection)?;
            offset += found as u64;
        }
        Ok(offset - begin)
    }

    fn receive(&mut self, file: &mut File, count: u64, digest: &Sha256) -> Result<(), Fault> {
        self.block.resize(BLOCK_BYTES, 0);
        let mut digest = digest.lock();
        let mut left = count;
        while left > 0 {
            let wanted = left.min(BLOCK_BYTES as u64) as usize;
            let block = &mut self.block[..wanted];
            self.layer.read_exact(block).map_err(Fault::Connection)?;
            file.write_all(block).map_err(Fault::File)?;
            digest.update(block);
            left -= wanted as u64;
        }
        Ok(())
    }
}

#[pymethods]
impl Connection {
    #[staticmethod]
    fn connect(
        py: Python<'_>,
        descriptor: RawFd,
        config: Option<&ClientConfig>,
        server_name: String,
        timeout_s: f64,
    ) -> PyResult<Self> {
        let config = config.map(|found| found.0.clone());
        Self::open(py, descriptor, timeout_s, || {
            let Some(config) = config else {
                return Ok(None);
            };
            let name = ServerName::try_from(server_name).map_err(io::Error::other)?;
            let client = ClientConnection::new(config, name).map_err(io::Error::other)?;
            Ok(Some(client.into()))
        })
    }

    #[staticmethod]
    fn accept(
        py: Python<'_>,
        descriptor: RawFd,
        config: Option<&ServerConfig>,
        timeout_s: f64,
    ) -> PyResult<Self> {
        let config = config.map(|found| found.0.clone());
        Self::open(py, descriptor, timeout_s, || {
            let Some(config) = config else {
                return Ok(None);
            };
            let server = ServerConnection::new(config).map_err(io::Error::other)?;
            Ok(Some(server.into()))
        })
    }

    fn peer_names(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        py.detach(|| {
            let channel = self.lock();
            let Layer::Tls(tls, _) = &channel.layer else {
                return Ok(Vec::new());
            };
            let Some([first, ..]) = tls.peer_certificates() else {
                return Ok(Vec::new());
            };
            uri_names(first)
        })
        .map_err(|error| ConnectionFailed::new_err(error.to_string()))
    }

    fn set_timeout(&self, seconds: f64) -> PyResult<()> {
        set_timeout(&self.socket, seconds).map_err(failed)
    }

    fn write(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        self.call(py, |channel| {
            channel.layer.write_all(data).map_err(Fault::Connection)
        })
    }

    fn read<'py>(&self, py: Python<'py>, count: usize) -> PyResult<Bound<'py, PyBytes>> {
        if count > READ_BYTES_MAX {
            return Err(ConnectionFailed::new_err(format!(
                "{count} bytes are to be read at once; at most {READ_BYTES_MAX} are allowed"
            )));
        }
        let mut data = vec![0; count];
        self.call(py, |channel| {
            let into = data.as_mut_slice();
            channel.layer.read_exact(into).map_err(Fault::Connection)
        })?;
        Ok(PyBytes::new(py, &data))
    }

    fn send_content(
        &self,
        py: Python<'_>,
        descriptor: RawFd,
        offset: u64,
        count: u64,
    ) -> PyResult<u64> {
        let file = borrowed(descriptor);
        self.call(py, |channel| channel.send(&file, offset, count))
    }

    fn receive_content(
        &self,
        py: Python<'_>,
        descriptor: RawFd,
        count: u64,
        digest: &Sha256,
    ) -> PyResult<()> {
        let mut file = borrowed(descriptor);
        self.call(py, |channel| channel.receive(&mut file, count, digest))
    }

    fn shutdown(&self) {
        // It fails if the other side has ended the connection already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn set_timeout(socket: &TcpStream, seconds: f64) -> io::Result<()> {
    let timeout = Duration::try_from_secs_f64(seconds).map_err(io::Error::other)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))
}

fn uri_names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, webpki::Error> {
    let certificate = webpki::EndEntityCert::try_from(certificate)?;
    Ok(certificate.valid_uri_names().map(str::to_owned).collect())
}
