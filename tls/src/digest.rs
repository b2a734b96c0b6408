//! SHA-256 of content that arrives in parts.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ring::digest::{Context, SHA256};

/// Fed by `Connection.receive_content`.
#[pyclass(frozen, module = "partition_tls._tls")]
pub struct Sha256(Mutex<Context>);

impl Sha256 {
    pub fn lock(&self) -> MutexGuard<'_, Context> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Sha256 {
    #[new]
    fn new() -> Self {
        Self(Mutex::new(Context::new(&SHA256)))
    }

    fn digest<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let digest = py.detach(|| self.lock().clone().finish());
        PyBytes::new(py, digest.as_ref())
    }
}
