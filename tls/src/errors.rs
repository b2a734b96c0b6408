//! The exceptions of this module.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(
    partition_tls,
    BadConfig,
    PyException,
    "Certificates or a key that can't be used."
);
create_exception!(
    partition_tls,
    ConnectionFailed,
    PyException,
    "The connection can't be used any more."
);

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("BadConfig", m.py().get_type::<BadConfig>())?;
    m.add("ConnectionFailed", m.py().get_type::<ConnectionFailed>())
}

pub fn bad_config(what: &str, error: impl std::fmt::Display) -> PyErr {
    BadConfig::new_err(format!("{what}: {error}"))
}
