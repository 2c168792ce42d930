//! Who may give commands, and by what: the users of `-Y` or `-S`, TLS with `-Z`; and a word where
//! everybody may who gets as far as to a port.

use super::{Args, listeners};
use crate::base::time::Clock;
use crate::server::tls::{Asks, Security, Tls, TlsOptions};
use crate::server::users::{Means, Users};
use anyhow::{Context, ensure};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Permissions of a file that others than its owner and its group may read.
const FOR_OTHERS: u32 = 0o004;

/// Where memcached is told who the users of -S are.
const SASL_VARIABLE: &str = "MEMCACHED_SASL_PWDB";

/// The users of -Y or of -S, if one of them is given.
pub fn users(args: &Args) -> anyhow::Result<Option<Arc<Users>>> {
    let (option, path, means) = if let Some(path) = &args.auth_file {
        ("-Y (--auth-file)", path.clone(), Means::Token)
    } else if args.enable_sasl {
        let named = std::env::var_os(SASL_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
        let path = args.sasl_pwdb.clone().or(named);
        let path = path.with_context(|| {
            format!("-S (--enable-sasl): nobody says who the users are; name a file with lines user:password in --sasl-pwdb or {SASL_VARIABLE}")
        })?;
        ("-S (--enable-sasl)", path, Means::Sasl)
    } else {
        return Ok(None);
    };
    let users = Users::of_file(&path, means).context(option)?;
    if std::fs::metadata(&path).is_ok_and(|file| file.permissions().mode() & FOR_OTHERS != 0) {
        log::warn!(
            "{option} {}: everybody on this host may read the passwords; chmod o= takes that away",
            path.display()
        );
    }
    Ok(Some(Arc::new(users)))
}

/// What is spoken where `spoken` was asked for: with -Y text alone, in which users name themselves.
/// With -S it must be the binary protocol alone, which is usual then.
pub fn protocol<'s>(args: &Args, spoken: &'s str) -> anyhow::Result<&'s str> {
    ensure!(
        !(args.auth_file.is_some() && args.enable_sasl),
        "-Y (--auth-file) asks who clients are in text, -S (--enable-sasl) in the binary protocol; leave one of them out, or \
         start two servers"
    );
    ensure!(
        args.enable_sasl || args.sasl_pwdb.is_none(),
        "--sasl-pwdb without -S (--enable-sasl): nobody would be asked; add -S, or leave it out"
    );
    ensure!(
        !args.enable_sasl || spoken == listeners::BINARY,
        "-S (--enable-sasl): users say who they are in the binary protocol, and text is to be spoken as well; leave one of \
         them out, or give -B binary"
    );
    if args.auth_file.is_none() {
        return Ok(spoken);
    }
    ensure!(
        spoken != listeners::BINARY,
        "-Y (--auth-file): users say who they are in text, and the binary protocol alone is to be spoken; leave one of them out"
    );
    Ok(listeners::ASCII)
}

/// TLS, if -Z is given; `options` are those of -o, `listeners` what each does about it.
pub fn tls(args: &Args, options: Option<TlsOptions>, listeners: &[Security]) -> anyhow::Result<Option<Arc<Tls>>> {
    if !args.enable_ssl {
        ensure!(
            options.is_none(),
            "-o ssl_... without -Z (--enable-ssl): nothing would be sealed; add -Z, or leave it out"
        );
        return Ok(None);
    }
    let options = options.filter(|options| !options.chain.as_os_str().is_empty());
    let options = options.context("-Z (--enable-ssl) needs a certificate: -o ssl_chain_cert=FILE,ssl_key=FILE")?;
    ensure!(
        !listeners.is_empty(),
        "-Z (--enable-ssl) is for TCP, and there is none: give a port with -p or -l, or leave it out"
    );
    Ok(Some(Arc::new(Tls::new(options, listeners, Clock::default()).context("-Z (--enable-ssl)")?)))
}

/// Tell it where other hosts reach a port and nobody is asked who they are. Once for all ports.
pub fn warn_of_openness(args: &Args, served: &[(SocketAddr, Security)], asks: Asks) {
    let asked = |security: Security| match security {
        Security::Plain | Security::Unasked => false,
        Security::Usual => asks == Asks::Always,
        Security::Asked => true,
    };
    let open = served.iter().find(|(address, security)| !address.ip().is_loopback() && !asked(*security));
    if let Some((address, _)) = open.filter(|_| args.auth_file.is_none() && !args.enable_sasl) {
        log::warn!(
            "{address} is not for this host alone, and nobody is asked who they are: whoever reaches it may read, write and flush \
             everything; name users with -Y or -S, or listen where only trusted clients are"
        );
    }
}

/// The rows of `stats settings` about TLS, in memcached's names.
pub fn tls_rows(tls: Option<&Tls>) -> Vec<(&'static str, String)> {
    let usual = TlsOptions::default();
    let options = tls.map_or(&usual, Tls::options);
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_string();
    let path = |path: Option<&Path>| path.map(|path| path.display().to_string());
    let asks = match options.asks {
        // OpenSSL's numbers.
        Asks::Never => 0,
        Asks::IfGiven => 1,
        Asks::Always => 3,
    };
    vec![
        ("ssl_enabled", yes(tls.is_some())),
        ("ssl_chain_cert", path(tls.map(|_| options.chain.as_path())).unwrap_or("(null)".to_string())),
        ("ssl_key", path(options.key.as_deref()).unwrap_or("(null)".to_string())),
        ("ssl_verify_mode", asks.to_string()),
        ("ssl_keyformat", if options.key_is_der { "2" } else { "1" }.to_string()),
        ("ssl_ciphers", options.suites.as_ref().map_or("NULL".to_string(), |names| names.join(":"))),
        ("ssl_ca_cert", path(options.authorities.as_deref()).unwrap_or("NULL".to_string())),
        ("ssl_session_cache", yes(options.resumes)),
        ("ssl_min_version", if options.only_13 { "tlsv1.3" } else { "tlsv1.2" }.to_string()),
    ]
}
