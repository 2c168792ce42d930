//! Compiles native/, the C layer over RDMA verbs, against the system's headers. Without them, or
//! with REMORA_VERBS=off, a layer that answers "not supported" takes its place; REMORA_VERBS=on
//! makes missing headers an error. The cfg `remora_verbs` says which it was.

use std::path::{Path, PathBuf};

/// Where compilers look for headers, and where those of the distribution's packages are.
const INCLUDES: [&str; 2] = ["/usr/include", "/usr/local/include"];
const HEADERS: [&str; 2] = ["/usr/include/infiniband/verbs.h", "/usr/include/rdma/rdma_cma.h"];

/// Compiles only where the headers are.
const PROBE: &str =
    "#include <infiniband/verbs.h>\n#include <rdma/rdma_cma.h>\nint remora_probe(void) { return IBV_WC_SUCCESS; }\n";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(remora_verbs)");
    println!("cargo::rerun-if-env-changed=REMORA_VERBS");
    for file in ["build.rs", "native"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let wanted = std::env::var("REMORA_VERBS").unwrap_or_default();
    let present = wanted != "off" && headers_present();
    assert!(
        present || wanted != "on",
        "REMORA_VERBS=on, but <infiniband/verbs.h> or <rdma/rdma_cma.h> is missing: apt-get install libibverbs-dev librdmacm-dev"
    );
    // Headers that are installed later are looked for again: where an entry is added, the folder
    // changes.
    let watched: &[&str] = if present { &HEADERS } else { &INCLUDES };
    for path in watched.iter().filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    if present {
        println!("cargo::rustc-cfg=remora_verbs");
        compile(&["native/libraries.c", "native/device.c", "native/connection.c"]);
    } else {
        let why = if wanted == "off" { "REMORA_VERBS=off" } else { "apt-get install libibverbs-dev librdmacm-dev" };
        println!("cargo::warning=built without RDMA verbs ({why}); shm and tcp do without");
        compile(&["native/absent.c"]);
    }
}

fn headers_present() -> bool {
    let probe = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("probe.c");
    std::fs::write(&probe, PROBE).expect("a writable OUT_DIR");
    cc::Build::new().file(&probe).cargo_metadata(false).cargo_warnings(false).try_compile("remora_probe").is_ok()
}

fn compile(files: &[&str]) {
    cc::Build::new().files(files).std("gnu11").extra_warnings(true).warnings_into_errors(false).compile("remora_verbs");
}
