//! A thin binding of raft-rs for Python: a synchronous step machine. No I/O, no clock, no policy.
//! Beside it, what the storage does with every byte of an entry (`rows.rs`).
//!
//! Python owns the clock, the network and the disk. raft-rs reads its storage from the entry cache,
//! a copy of the log's tail (`mirror.rs`). The cache changes only between `ready` and `advance`, on
//! a snapshot and on compaction. Only cold reads and snapshots call back into Python.

mod errors;
mod guard;
mod logging;
mod mirror;
mod node;
mod rows;
mod types;
mod wire;

use pyo3::prelude::*;

#[pymodule]
fn _engine(m: &Bound<'_, PyModule>) -> PyResult<()> {
    guard::install_panic_hook();
    errors::register(m)?;
    m.add_class::<types::ConfState>()?;
    m.add_class::<types::Entry>()?;
    m.add_class::<types::HardState>()?;
    m.add_class::<types::Message>()?;
    m.add_class::<types::PeerProgress>()?;
    m.add_class::<types::Ready>()?;
    m.add_class::<types::SoftState>()?;
    m.add_class::<types::Snapshot>()?;
    m.add_class::<types::Status>()?;
    m.add_class::<node::Config>()?;
    m.add_class::<node::Node>()?;
    m.add_function(wrap_pyfunction!(types::decode_conf_change, m)?)?;
    m.add_function(wrap_pyfunction!(types::encode_conf_change, m)?)?;
    m.add_function(wrap_pyfunction!(rows::blob_digests, m)?)?;
    m.add_function(wrap_pyfunction!(rows::seal_row, m)?)?;
    Ok(())
}
