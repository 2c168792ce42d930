//! TLS 1.3 under the control connection. It needs no certificates: the listening side shows a raw
//! public key (RFC 7250) that it has made at its start, and the other side takes any. Who is at the
//! other end is proven behind the handshake, by the shared secret ([`super::secret`]). The proofs
//! cover a value that only the two ends of this one session can compute (its [`Binding`]), so
//! nobody in between can pass them on from one session to another.
//!
//! Whoever records a connection learns nothing of it, not even later, with the secret in hand.

use crate::base::crypto;
use crate::sys::random::random;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage, ServerConfig, ServerConnection};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{Connection, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::net::IpAddr;
use std::sync::Arc;

/// A private key of Ed25519 as PKCS #8 has it (RFC 8410), up to its 32 bytes.
const ED25519_PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// What a channel binding of this kind is called (tls-exporter, RFC 9266).
const BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// A value of one TLS session, which its two ends can compute and nobody else.
pub type Binding = [u8; 32];

/// By which this process listens for control connections.
#[derive(Debug, Clone)]
pub struct Listening(Arc<ServerConfig>);

impl Listening {
    /// With a new key. Err: the kernel gives no random bytes.
    pub fn new() -> std::io::Result<Listening> {
        let pkcs8 = [&ED25519_PKCS8[..], &random::<32>()?].concat();
        let made = || {
            let key = crypto::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8))?;
            let public = key.public_key().ok_or(Error::General("a key without its public part".into()))?.to_vec();
            let shown = Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], key));
            let builder = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&TLS13])?
                .with_no_client_auth();
            let mut config = builder.with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(shown)));
            // Each connection has keys of its own.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Ok(Listening(Arc::new(config)))
        };
        made().map_err(|error: Error| std::io::Error::other(error))
    }

    /// The listening side of a new connection.
    pub(super) fn begin(&self) -> Result<Connection, Error> {
        ServerConnection::new(self.0.clone()).map(Connection::from)
    }
}

/// The side of a new connection that has connected to `peer`.
pub(super) fn begin(peer: IpAddr) -> Result<Connection, Error> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let mut config =
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyKey(provider()))).with_no_client_auth();
    config.resumption = Resumption::disabled();
    // An address is no name, so none is sent.
    ClientConnection::new(Arc::new(config), ServerName::IpAddress(peer.into())).map(Connection::from)
}

/// The binding of a session whose handshake is done.
pub(super) fn binding(tls: &Connection) -> Result<Binding, Error> {
    tls.export_keying_material(Binding::default(), BINDING_LABEL, Some(b""))
}

/// The usual one, with X25519 alone: the peer does not choose what a handshake costs.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: vec![crypto::kx_group::X25519], ..crypto::default_provider() })
}

/// Any raw key will do, if its owner is at the other end.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        _shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
