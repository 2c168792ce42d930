//! TLS for clients: certificate, key and authorities from their files, what is asked of clients,
//! and reading the files anew while the server runs.
//!
//! A connection keeps what it began with; new ones begin with what was read last. Sessions that may
//! be resumed are forgotten when the files are read anew, and each kind of listener has its own: a
//! client that was not asked for a certificate at one cannot resume at another that asks.

mod refresh;
mod validity;

use crate::base::crypto;
use crate::base::time::{Clock, SteadySeconds};
use crate::engine::CertificateTimes;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedCipherSuite};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Sessions that can be resumed, of each kind of listener. Some 200 bytes each, and a client
/// certificate where there is one.
const SESSIONS_MAX: usize = 4096;

/// What a listener does about TLS, in memcached's words before an address of -l.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Security {
    /// notls, or a server without -Z.
    #[default]
    Plain,
    /// TLS; of clients is asked what ssl_verify_mode says.
    Usual,
    /// btls: TLS; no client is asked for a certificate.
    Unasked,
    /// mtls: TLS; every client must have a certificate.
    Asked,
}

/// Whether clients are asked for certificates (ssl_verify_mode).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Asks {
    /// They are not.
    #[default]
    Never,
    /// One that has none is let in; one that has a wrong one is not.
    IfGiven,
    /// Without one nobody is let in.
    Always,
}

/// Where what is needed stands, and how TLS is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// ssl_chain_cert: the certificate, then those that lead to an authority's. PEM.
    pub chain: PathBuf,
    /// ssl_key; None where it stands in the file of the certificate.
    pub key: Option<PathBuf>,
    /// ssl_keyformat: the key is DER, not PEM.
    pub key_is_der: bool,
    /// ssl_ca_cert: who may have signed clients' certificates. PEM.
    pub authorities: Option<PathBuf>,
    /// ssl_verify_mode.
    pub asks: Asks,
    /// ssl_min_version: TLS 1.3 alone, not 1.2.
    pub only_13: bool,
    /// ssl_ciphers: names of the suites of TLS 1.2 that may be used; None for all.
    pub suites: Option<Vec<String>>,
    /// ssl_session_cache.
    pub resumes: bool,
}

/// Why TLS cannot be had as it is asked for, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file has nothing that would do.
    #[error("{what} {}: {cause}", path.display())]
    File {
        /// What should be in it.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// Clients are to be asked for certificates that nobody could judge.
    #[error("who may have signed clients' certificates is not known; name a file with -o ssl_ca_cert=FILE")]
    NoAuthorities,
    /// A name of a suite.
    #[error("-o ssl_ciphers: there is no {name}; there are {}", suite_names().join(", "))]
    NoSuite {
        /// As it was given.
        name: String,
    },
    /// All the rest.
    #[error("{0}")]
    Refused(String),
}

/// What connections begin with, for each kind of listener.
struct Kinds {
    usual: Arc<ServerConfig>,
    unasked: Arc<ServerConfig>,
    /// None where no authorities are known.
    asked: Option<Arc<ServerConfig>>,
    expires_at: Option<i64>,
}

/// See the module.
pub struct Tls {
    options: TlsOptions,
    kinds: RwLock<Kinds>,
    clock: Clock,
    read_at_seconds: AtomicU32,
    /// Who reads the files anew: one at a time, so that what was read last counts.
    reading: Mutex<()>,
    asked: Mutex<refresh::Asked>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Tls({})", self.options.chain.display())
    }
}

impl Tls {
    /// Read the files. Fails where one of the `listeners` would ask for what cannot be judged.
    pub fn new(options: TlsOptions, listeners: &[Security], clock: Clock) -> Result<Tls, TlsError> {
        let kinds = Kinds::read(&options)?;
        if listeners.contains(&Security::Asked) && kinds.asked.is_none() {
            return Err(TlsError::NoAuthorities);
        }
        let read_at_seconds = AtomicU32::new(clock.steady().0);
        Ok(Tls {
            options,
            kinds: RwLock::new(kinds),
            clock,
            read_at_seconds,
            reading: Mutex::new(()),
            asked: Mutex::default(),
        })
    }

    /// Read the files anew. With a fault in one of them all stays as it was.
    pub fn refresh(&self) -> Result<(), TlsError> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds = Kinds::read(&self.options)?;
        // What is forgotten with the old ones is much: it goes when workers can have the new ones.
        let old = std::mem::replace(&mut *self.kinds.write().unwrap_or_else(PoisonError::into_inner), kinds);
        drop(old);
        self.read_at_seconds.store(self.clock.steady().0, Relaxed);
        Ok(())
    }

    /// When the files were read last, and until when the certificate is good.
    pub fn times(&self) -> CertificateTimes {
        CertificateTimes {
            age_seconds: self.clock.steady().since(SteadySeconds(self.read_at_seconds.load(Relaxed))),
            expires_at: self.kinds.read().unwrap_or_else(PoisonError::into_inner).expires_at,
        }
    }

    /// What was asked for.
    pub fn options(&self) -> &TlsOptions {
        &self.options
    }

    /// The server's side of a new connection.
    pub(super) fn begin(&self, security: Security) -> Result<ServerConnection, rustls::Error> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        let config = match security {
            Security::Plain | Security::Usual => &kinds.usual,
            Security::Unasked => &kinds.unasked,
            // The files had authorities at the start, and are not taken without.
            Security::Asked => kinds.asked.as_ref().unwrap_or(&kinds.usual),
        };
        ServerConnection::new(config.clone())
    }
}

impl Kinds {
    fn read(options: &TlsOptions) -> Result<Kinds, TlsError> {
        let provider = Arc::new(provider(options.suites.as_deref())?);
        let roots = options.authorities.as_deref().map(authorities).transpose()?;
        let of = |asks: Asks| config(options, asks, roots.as_ref(), &provider);
        Ok(Kinds {
            usual: of(options.asks)?,
            unasked: of(Asks::Never)?,
            asked: roots.is_some().then(|| of(Asks::Always)).transpose()?,
            expires_at: chain(&options.chain)?.first().and_then(|own| validity::not_after(own)),
        })
    }
}

fn config(
    options: &TlsOptions,
    asks: Asks,
    roots: Option<&Arc<RootCertStore>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let refused = |error: rustls::Error| TlsError::Refused(error.to_string());
    let versions: &[_] =
        if options.only_13 { &[&rustls::version::TLS13] } else { &[&rustls::version::TLS13, &rustls::version::TLS12] };
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).map_err(refused)?;
    let builder = match asks {
        Asks::Never => builder.with_no_client_auth(),
        Asks::IfGiven | Asks::Always => {
            let roots = roots.ok_or(TlsError::NoAuthorities)?;
            let mut verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
            if asks == Asks::IfGiven {
                verifier = verifier.allow_unauthenticated();
            }
            builder.with_client_cert_verifier(verifier.build().map_err(|error| TlsError::Refused(error.to_string()))?)
        }
    };
    let (chain, key) = (chain(&options.chain)?, key(options)?);
    let mut config = builder.with_single_cert(chain, key).map_err(|error| TlsError::File {
        what: "the certificate and the key do not go together:",
        path: options.chain.clone(),
        cause: error.to_string(),
    })?;
    if options.resumes {
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
    } else {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

fn file(what: &'static str, path: &Path, cause: impl fmt::Display) -> TlsError {
    TlsError::File { what, path: path.to_path_buf(), cause: cause.to_string() }
}

/// All certificates of a file, of which there must be some.
fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if found.is_empty() => Err(file(what, path, "there is no certificate in it")),
        Ok(found) => Ok(found),
        Err(error) => Err(file(what, path, error)),
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates("cannot read the certificate (-o ssl_chain_cert)", path)
}

fn key(options: &TlsOptions) -> Result<PrivateKeyDer<'static>, TlsError> {
    let path = options.key.as_deref().unwrap_or(&options.chain);
    let wrong = |cause: String| file("cannot read the private key (-o ssl_key)", path, cause);
    if options.key_is_der {
        let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        return PrivateKeyDer::try_from(bytes).map_err(|error| wrong(error.to_string()));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| wrong(error.to_string()))
}

fn authorities(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    const WHAT: &str = "cannot read the authorities (-o ssl_ca_cert)";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(WHAT, path)? {
        roots.add(certificate).map_err(|error| file(WHAT, path, error))?;
    }
    Ok(Arc::new(roots))
}

/// What OpenSSL calls the suites of TLS 1.2 that there are.
const SUITES: [(&str, SupportedCipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", crypto::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", crypto::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", crypto::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", crypto::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", crypto::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", crypto::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

fn suite_names() -> Vec<&'static str> {
    SUITES.iter().map(|(name, _)| *name).collect()
}

/// The usual one, with these suites of TLS 1.2 alone. Those of TLS 1.3 stay, as with memcached.
fn provider(names: Option<&[String]>) -> Result<CryptoProvider, TlsError> {
    let mut provider = crypto::default_provider();
    let Some(names) = names else { return Ok(provider) };
    let suite = |name: &String| SUITES.iter().find(|(known, _)| known == name).map(|(_, suite)| *suite);
    let chosen: Result<Vec<_>, _> =
        names.iter().map(|name| suite(name).ok_or_else(|| TlsError::NoSuite { name: name.clone() })).collect();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    provider.cipher_suites.extend(chosen?);
    Ok(provider)
}
