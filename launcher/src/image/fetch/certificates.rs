//! Which certificate authorities are trusted, and what TLS is done with.
//!
//! The host's own bundle, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name instead, and a file
//! given for images beside it: PEM. None are built in. The cryptography is graviola's, behind
//! rustls: it needs no C compiler, but a processor of 2015 or later, which is looked at first.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// Largest file of certificates, in bytes.
const MAX_FILE: u64 = 8 << 20;
/// Most files looked at in a directory of certificates.
const MAX_FILES: usize = 1024;

/// Where distributions keep their bundle.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What a user says of certificate authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// `--image-ca`: trusted as well.
    pub added: Option<PathBuf>,
    /// `SSL_CERT_FILE`: instead of the host's.
    pub file: Option<PathBuf>,
    /// `SSL_CERT_DIR`: instead of the host's; several, separated by colons.
    pub directories: Vec<PathBuf>,
}

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file that was named.
    #[error("the certificates in {} cannot be read; name a file of PEM certificates", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to trust.
    #[error(
        "no certificate authorities are known here, so no https server can be trusted; install \
         ca-certificates, or name a file of PEM certificates with --image-ca or SSL_CERT_FILE"
    )]
    Nobody,
    /// The processor.
    #[error(
        "this processor lacks {0}, which Berth's TLS needs; fetch the image by other means and \
         give its path, or fetch it over http with --image-sha256"
    )]
    Processor(String),
}

impl Trust {
    /// What the environment says.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let of = |name| variable(name).filter(|value| !value.is_empty());
        let directories = of("SSL_CERT_DIR").unwrap_or_default();
        let directories = directories.split(':').filter(|dir| !dir.is_empty());
        Self {
            added: None,
            file: of("SSL_CERT_FILE").map(PathBuf::from),
            directories: directories.map(PathBuf::from).collect(),
        }
    }

    /// How TLS is done.
    ///
    /// # Errors
    /// See [`TrustError`].
    pub fn tls(&self) -> Result<TlsConfig, TrustError> {
        let missing = missing_features();
        if !missing.is_empty() {
            return Err(TrustError::Processor(missing.join(", ")));
        }
        let roots = self.roots()?;
        if roots.is_empty() {
            return Err(TrustError::Nobody);
        }
        let provider = Arc::new(rustls_graviola::default_provider());
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(provider)
            .build())
    }

    fn roots(&self) -> Result<Vec<Certificate<'static>>, TrustError> {
        let mut roots = Vec::new();
        let named = |path: &Path| {
            let read = |source| TrustError::Read { path: path.to_owned(), source };
            certificates(path).map_err(read)
        };
        for path in self.added.iter().chain(&self.file) {
            roots.extend(named(path)?);
        }
        for directory in &self.directories {
            let failed = |source| TrustError::Read { path: directory.clone(), source };
            let entries = fs::read_dir(directory).map_err(failed)?;
            for entry in entries.take(MAX_FILES).flatten().filter(|entry| entry.path().is_file()) {
                // Such directories hold other files as well.
                roots.extend(certificates(&entry.path()).unwrap_or_default());
            }
        }
        if self.file.is_none() && self.directories.is_empty() {
            let found = BUNDLES.iter().map(Path::new).find(|path| path.exists());
            roots.extend(found.map(named).transpose()?.unwrap_or_default());
        }
        Ok(roots)
    }
}

/// The certificates in a PEM file: at least one.
fn certificates(path: &Path) -> io::Result<Vec<Certificate<'static>>> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    let found: Vec<Certificate<'static>> = parse_pem(&bytes)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(io::Error::other("there is no certificate in it"));
    }
    Ok(found)
}

/// What graviola needs and this processor has not (graviola's README, "Limitations"); without
/// looking first, it would panic.
pub fn missing_features() -> Vec<&'static str> {
    let features = [
        ("AES", std::arch::is_x86_feature_detected!("aes")),
        ("PCLMULQDQ", std::arch::is_x86_feature_detected!("pclmulqdq")),
        ("SSSE3", std::arch::is_x86_feature_detected!("ssse3")),
        ("AVX", std::arch::is_x86_feature_detected!("avx")),
        ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
        ("BMI1", std::arch::is_x86_feature_detected!("bmi1")),
        ("BMI2", std::arch::is_x86_feature_detected!("bmi2")),
        ("ADX", std::arch::is_x86_feature_detected!("adx")),
    ];
    features.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        let trust = Trust::from_environment(|name| match name {
            "SSL_CERT_FILE" => Some("/a".to_owned()),
            "SSL_CERT_DIR" => Some("/b::/c".to_owned()),
            _ => None,
        });
        assert_eq!(trust.file, Some("/a".into()));
        assert_eq!(trust.directories, [PathBuf::from("/b"), "/c".into()]);
    }

    #[test]
    fn files_without_certificates_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let none = dir.path().join("none.pem");
        let text = dir.path().join("text.pem");
        fs::write(&text, "hello").unwrap();
        for path in [&none, &text, &dir.path().to_owned()] {
            let trust = Trust { added: Some(path.clone()), ..Trust::default() };
            let error = trust.roots().unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
        let empty = Trust { directories: vec![dir.path().to_owned()], ..Trust::default() };
        assert!(empty.roots().unwrap().is_empty());
    }
}
