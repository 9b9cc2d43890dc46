//! Encrypted connections.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::StoreError;

use super::address::{Address, Tls};

/// What checks the server as the address asks for.
///
/// # Errors
/// A file of authorities that cannot be read or holds none.
pub(super) fn connector(address: &Address) -> Result<MakeRustlsConnect, StoreError> {
    let provider = Arc::new(ring::default_provider());
    let fail = |error: Error| StoreError::Engine {
        path: address.shown.clone(),
        action: "setting up TLS",
        source: Box::new(error),
    };
    let versions = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(fail)?;
    let check = match address.tls {
        Tls::Disable | Tls::Prefer | Tls::Require => Check::Nothing,
        Tls::VerifyCa | Tls::VerifyFull => {
            let roots = Arc::new(roots(address.roots.as_deref())?);
            if address.tls == Tls::VerifyFull {
                return Ok(MakeRustlsConnect::new(
                    versions.with_root_certificates(roots).with_no_client_auth(),
                ));
            }
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
            Check::Authority(verifier.map_err(|e| fail(Error::General(e.to_string())))?)
        }
    };
    let config = versions
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Lenient { check, provider }))
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, StoreError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    let fail = |reason: String| StoreError::Io {
        path: file.to_owned(),
        action: "cannot be read as certificates (sslrootcert)",
        source: std::io::Error::other(reason),
    };
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| fail(e.to_string()))? {
        let certificate = certificate.map_err(|e| fail(e.to_string()))?;
        roots.add(certificate).map_err(|e| fail(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(fail("there is none in it".to_owned()));
    }
    Ok(roots)
}

/// Checks less than the name of the server: what libpq's weaker modes ask for.
#[derive(Debug)]
struct Lenient {
    check: Check,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Check {
    Nothing,
    Authority(Arc<WebPkiServerVerifier>),
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Check::Authority(verifier) = &self.check else {
            return Ok(ServerCertVerified::assertion());
        };
        // The name is checked last: an error about it says that the rest is right.
        match verifier.verify_server_cert(certificate, others, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
