//! Certificates and keys, and what both sides check, as `partition_proto.connection.contexts` does:
//! both need a certificate of the authority, and a client checks the server's name.

use std::sync::Arc;

use pyo3::prelude::*;
use rustls::crypto::{ring, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::RootCertStore;

use crate::errors::bad_config;

#[pyclass(frozen, module = "partition_tls._tls")]
pub struct ClientConfig(pub Arc<rustls::ClientConfig>);

#[pyclass(frozen, module = "partition_tls._tls")]
pub struct ServerConfig(pub Arc<rustls::ServerConfig>);

struct Parts {
    provider: Arc<CryptoProvider>,
    authority: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn parts(authority: &[u8], certificate: &[u8], key: &[u8]) -> PyResult<Parts> {
    let mut roots = RootCertStore::empty();
    for found in certificates("the authority", authority)? {
        // An intermediate CA is trusted without its issuer, as by gRPC.
        roots
            .add(found)
            .map_err(|error| bad_config("the authority", error))?;
    }
    Ok(Parts {
        provider: Arc::new(ring::default_provider()),
        authority: roots,
        chain: certificates("the certificate", certificate)?,
        key: PrivateKeyDer::from_pem_slice(key).map_err(|error| bad_config("the key", error))?,
    })
}

fn certificates(what: &str, pem: &[u8]) -> PyResult<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| bad_config(what, error))?;
    if found.is_empty() {
        return Err(bad_config(what, "no certificate is in the PEM text"));
    }
    Ok(found)
}

#[pymethods]
impl ClientConfig {
    #[new]
    fn new(authority: &[u8], certificate: &[u8], key: &[u8]) -> PyResult<Self> {
        let parts = parts(authority, certificate, key)?;
        let mut config = rustls::ClientConfig::builder_with_provider(parts.provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad_config("TLS", error))?
            .with_root_certificates(parts.authority)
            .with_client_auth_cert(parts.chain, parts.key)
            .map_err(|error| bad_config("the certificate and its key", error))?;
        // Nobody resumes a session: a ticket would outlive its certificate.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

#[pymethods]
impl ServerConfig {
    #[new]
    fn new(authority: &[u8], certificate: &[u8], key: &[u8]) -> PyResult<Self> {
        let parts = parts(authority, certificate, key)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(parts.authority),
            parts.provider.clone(),
        )
        .build()
        .map_err(|error| bad_config("the authority", error))?;
        let mut config = rustls::ServerConfig::builder_with_provider(parts.provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad_config("TLS", error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(parts.chain, parts.key)
            .map_err(|error| bad_config("the certificate and its key", error))?;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Self(Arc::new(config)))
    }
}
