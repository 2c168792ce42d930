//! Certificates made in a test: an authority, and who it has signed; and clients that speak TLS.

use super::{Client, WAIT_MAX};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// An authority, and a folder with the files of whom it signs.
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("the file is written");
        let certificate = certificate.der().clone();
        Authority { folder, issuer: Issuer::new(params, key), certificate }
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Write `NAME.pem` and `NAME.key` of somebody called so, for localhost.
    pub fn sign(&self, name: &str) {
        let mut params = CertificateParams::new(vec!["localhost".to_string(), "127.0.0.1".to_string()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.path(&format!("{name}.pem")), signed.pem()).expect("the file is written");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("the file is written");
    }

    /// What -o says of the files of `name`.
    pub fn options(&self, name: &str) -> String {
        let path = |file: String| self.path(&file).display().to_string();
        format!("ssl_chain_cert={},ssl_key={}", path(format!("{name}.pem")), path(format!("{name}.key")))
    }

    /// What a client that trusts this authority has, with the certificate of `name`, if any.
    pub fn client(
        &self,
        name: Option<&str>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("an authority");
        let provider = Arc::new(remora::base::crypto::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        let builder = builder.with_root_certificates(roots);
        Arc::new(match name {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).expect("a certificate");
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).expect("a key");
                builder.with_client_auth_cert(vec![chain], key).expect("a pair")
            }
        })
    }
}

/// A client's end, its handshake done.
pub fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut stream = TcpStream::connect_timeout(&address, WAIT_MAX)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    stream.set_write_timeout(Some(WAIT_MAX))?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = ClientConnection::new(config.clone(), name).expect("a client");
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(tls, stream))
}

/// The same, as other tests talk.
pub fn client(config: &Arc<ClientConfig>, address: SocketAddr) -> Client {
    Client::over(connect(config, address).expect("a handshake"))
}
