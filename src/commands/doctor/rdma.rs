//! RDMA for `remora doctor`: this build, the libraries, and each port of each device. The limit of
//! locked memory, which RDMA needs too, is judged in the parent module.

use super::{Finding, Grade, finding};
use crate::fabric::verbs::{self, DeviceInfo, PortInfo};

/// The RDMA libraries and devices of this host.
#[derive(Debug, Clone, Default)]
pub struct RdmaFacts {
    /// Whether this build can use RDMA.
    pub built: bool,
    /// Why the libraries cannot be loaded, if they cannot.
    pub libraries_missing: Option<String>,
    /// Names under /sys/class/infiniband.
    pub kernel_devices: Vec<String>,
    /// The devices as Remora opens them.
    pub devices: Vec<DeviceInfo>,
    /// Why the devices cannot be opened, if they cannot.
    pub unusable: Option<String>,
}

/// Look.
pub fn read_facts() -> RdmaFacts {
    let names = std::fs::read_dir("/sys/class/infiniband").into_iter().flatten().flatten();
    let mut kernel_devices: Vec<_> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    kernel_devices.sort();
    let found = verbs::devices();
    RdmaFacts {
        built: verbs::BUILT,
        libraries_missing: verbs::libraries().err(),
        kernel_devices,
        unusable: found.as_ref().err().map(|error| error.what.clone()),
        devices: found.unwrap_or_default(),
    }
}

/// Judge it.
pub fn judge(facts: &RdmaFacts) -> Vec<Finding> {
    let mut findings = vec![build(facts.built)];
    if facts.built {
        findings.push(libraries(facts.libraries_missing.as_deref()));
    }
    let ports = facts.devices.iter().flat_map(|device| device.ports.iter().map(move |found| port(device, found)));
    findings.extend(ports);
    // Without the libraries no device can be opened, and the line above says how to get them.
    if facts.devices.is_empty() && facts.libraries_missing.is_none() {
        findings.push(no_device(facts));
    }
    findings
}

fn build(built: bool) -> Finding {
    let subject = "RDMA in this build";
    if built {
        return finding(subject, Grade::Ok, "yes", None);
    }
    let remedy = Some("apt-get install libibverbs-dev librdmacm-dev, and build again");
    finding(subject, Grade::Missing, "no: its headers were not there", remedy)
}

fn libraries(missing: Option<&str>) -> Finding {
    let subject = "RDMA libraries";
    let remedy = Some("apt-get install libibverbs1 librdmacm1 ibverbs-providers");
    match missing {
        None => finding(subject, Grade::Ok, "libibverbs and librdmacm are there", None),
        Some(why) => finding(subject, Grade::Missing, why, remedy),
    }
}

fn no_device(facts: &RdmaFacts) -> Finding {
    let subject = "RDMA devices";
    if facts.kernel_devices.is_empty() {
        let remedy =
            "modprobe rdma_rxe && rdma link add rxe0 type rxe netdev eth0   # soft-RoCE, over any network card";
        return finding(subject, Grade::Missing, "none: replication goes by shared memory or TCP", Some(remedy));
    }
    let names = facts.kernel_devices.join(", ");
    let remedy = "modprobe -a ib_uverbs rdma_ucm   # and let the user open /dev/infiniband";
    let why = facts.unusable.as_deref().unwrap_or("not opened");
    finding(subject, Grade::Missing, format!("{names}: {why}"), Some(remedy))
}

fn port(device: &DeviceInfo, port: &PortInfo) -> Finding {
    let subject = "RDMA device";
    let place = format!("{} port {}", device.name, port.number);
    if device.transport == verbs::IWARP {
        let remedy = "RoCE or InfiniBand instead; replication goes by shared memory or TCP until then";
        return finding(subject, Grade::Missing, format!("{place}: iWARP, which cannot be used safely"), Some(remedy));
    }
    if !port.active {
        let remedy = "ip link set DEVICE up   # the network card below it, or its cable";
        return finding(subject, Grade::Better, format!("{place}: no link"), Some(remedy));
    }
    let reads = device.initiator_reads_max.min(device.responder_reads_max);
    let gids = port.gids.iter().map(|gid| match gid.address.to_ipv4_mapped() {
        Some(address) => format!("{} {address}", gid.index),
        None => format!("{} {}", gid.index, gid.address),
    });
    let gids = gids.collect::<Vec<_>>().join(", ");
    finding(subject, Grade::Ok, format!("{place}: {}, {reads} READs at a time, GIDs: {gids}", port.link), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::verbs::Gid;

    fn device(active: bool) -> DeviceInfo {
        let gid = |index, address: &str| Gid { index, address: address.parse().unwrap(), kind: "RoCE v2".into() };
        let gids = vec![gid(0, "fe80::1"), gid(1, "::ffff:10.0.0.7")];
        DeviceInfo {
            name: "rxe0".into(),
            transport: "InfiniBand",
            responder_reads_max: 128,
            initiator_reads_max: 64,
            mr_bytes_max: u64::MAX,
            regions_max: 1000,
            queue_pairs_max: 1000,
            ports: vec![PortInfo { number: 1, active, link: "Ethernet", mtu_bytes: 1024, gids }],
        }
    }

    fn grades(facts: &RdmaFacts) -> Vec<(Grade, bool)> {
        judge(facts).iter().map(|finding| (finding.grade, finding.remedy.is_some())).collect()
    }

    #[test]
    fn what_is_missing_comes_with_a_remedy() {
        let nothing = RdmaFacts::default();
        assert_eq!(grades(&nothing), [(Grade::Missing, true), (Grade::Missing, true)]);
        let no_libraries =
            RdmaFacts { built: true, libraries_missing: Some("not found".into()), ..RdmaFacts::default() };
        assert_eq!(grades(&no_libraries), [(Grade::Ok, false), (Grade::Missing, true)]);
        let unusable = RdmaFacts {
            built: true,
            kernel_devices: vec!["mlx5_0".into()],
            unusable: Some("no permission".into()),
            ..RdmaFacts::default()
        };
        assert!(judge(&unusable)[2].found.contains("mlx5_0: no permission"));
    }

    #[test]
    fn each_port_is_a_line() {
        let facts = |active| RdmaFacts { built: true, devices: vec![device(active)], ..RdmaFacts::default() };
        assert_eq!(grades(&facts(true)), [(Grade::Ok, false), (Grade::Ok, false), (Grade::Ok, false)]);
        let found = &judge(&facts(true))[2].found;
        assert_eq!(found, "rxe0 port 1: Ethernet, 64 READs at a time, GIDs: 0 fe80::1, 1 10.0.0.7");
        assert_eq!(grades(&facts(false))[2], (Grade::Better, true));
        let iwarp = DeviceInfo { transport: verbs::IWARP, ..device(true) };
        let facts = RdmaFacts { built: true, devices: vec![iwarp], ..RdmaFacts::default() };
        assert_eq!(grades(&facts)[2], (Grade::Missing, true));
    }
}
