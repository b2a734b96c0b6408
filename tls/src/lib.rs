//! Connections of blocking threads that move the content of files, with TLS or without. Python
//! says what is moved and judges it; its lock is free while bytes are on their way.

mod config;
mod connection;
mod digest;
mod errors;

use pyo3::prelude::*;

#[pymodule]
fn _tls(m: &Bound<'_, PyModule>) -> PyResult<()> {
    errors::register(m)?;
    m.add_class::<config::ClientConfig>()?;
    m.add_class::<config::ServerConfig>()?;
    m.add_class::<connection::Connection>()?;
    m.add_class::<digest::Sha256>()?;
    Ok(())
}
