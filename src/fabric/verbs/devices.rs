//! Which RDMA devices there are, and which one, with which address, is meant.

use super::VerbsOptions;
use super::errors::{failed, library, no_device};
use super::native::device::{self, Device};
use crate::fabric::{Cause, FabricError};
use crate::sys::numa;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

/// Entries of a port's table of GIDs that are looked at: RoCE has two to four for each address.
const GIDS_MAX: u32 = 256;

/// The transport of a device that cannot be used. On iWARP the landing of a READ must be open to
/// WRITEs of the peer, who could then change bytes once they are the replica's: after they were
/// checked.
pub const IWARP: &str = "iWARP";

/// A device, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As under /sys/class/infiniband.
    pub name: String,
    /// InfiniBand (RoCE, too) or [`IWARP`], which cannot be used.
    pub transport: &'static str,
    /// READs of a peer under way on one queue pair.
    pub responder_reads_max: u32,
    /// READs of its own under way on one queue pair.
    pub initiator_reads_max: u32,
    /// Largest region in bytes.
    pub mr_bytes_max: u64,
    /// Regions, all processes together.
    pub regions_max: u32,
    /// Queue pairs, all processes together.
    pub queue_pairs_max: u32,
    /// Its ports.
    pub ports: Vec<PortInfo>,
}

/// A port of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInfo {
    /// From 1.
    pub number: u8,
    /// It has a link.
    pub active: bool,
    /// Ethernet (RoCE) or InfiniBand.
    pub link: &'static str,
    /// Bytes of a packet.
    pub mtu_bytes: u32,
    /// The entries that are set.
    pub gids: Vec<Gid>,
}

/// An entry of a port's table of GIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gid {
    /// Its number.
    pub index: u8,
    /// The GID, in the form of an address.
    pub address: Ipv6Addr,
    /// As the kernel calls it: "RoCE v2", "IB/RoCE v1"; empty if it does not say.
    pub kind: String,
}

impl Gid {
    /// The network address that it stands for; none for those of a link alone, which all networks
    /// share.
    fn network_address(&self) -> Option<IpAddr> {
        match self.address.to_ipv4_mapped() {
            Some(address) => Some(address.into()),
            None if self.address.is_unicast_link_local() => None,
            None => Some(self.address.into()),
        }
    }
}

/// All devices of this host, opened through RDMA CM, as a channel would.
pub fn devices() -> Result<Vec<DeviceInfo>, FabricError> {
    open()?.iter().map(describe).collect()
}

fn open() -> Result<Vec<Device>, FabricError> {
    match device::devices(library()?) {
        Ok(devices) if !devices.is_empty() => Ok(devices),
        Ok(_) => Err(no_device(None)),
        Err(refusal) => Err(no_device(Some(refusal))),
    }
}

fn describe(device: &Device) -> Result<DeviceInfo, FabricError> {
    let attributes = device.attributes()?;
    let ports = (1..=attributes.ports).map(|number| describe_port(device, &attributes.name, number));
    Ok(DeviceInfo {
        transport: transport(attributes.transport),
        responder_reads_max: attributes.responder_reads_max,
        initiator_reads_max: attributes.initiator_reads_max,
        mr_bytes_max: attributes.mr_bytes_max,
        regions_max: attributes.regions_max,
        queue_pairs_max: attributes.queue_pairs_max,
        ports: ports.collect::<Result<_, _>>()?,
        name: attributes.name,
    })
}

/// From the number that verbs have for it (ibv_transport_type).
fn transport(number: u32) -> &'static str {
    if number == 1 { IWARP } else { "InfiniBand" }
}

fn describe_port(device: &Device, name: &str, number: u8) -> Result<PortInfo, FabricError> {
    let port = device.port(number)?;
    let mut gids = Vec::new();
    for index in 0..port.gids.min(GIDS_MAX) as usize {
        let index = index as u8;
        let Ok(gid) = device.gid(number, index) else { continue };
        if gid != [0; 16] {
            let path = format!("/sys/class/infiniband/{name}/ports/{number}/gid_attrs/types/{index}");
            let kind = std::fs::read_to_string(path).unwrap_or_default().trim().to_string();
            gids.push(Gid { index, address: gid.into(), kind });
        }
    }
    let link = if port.ethernet { "Ethernet" } else { "InfiniBand" };
    Ok(PortInfo { number, active: port.active, link, mtu_bytes: port.mtu_bytes, gids })
}

/// The NUMA node of a device, by its name.
pub(super) fn numa_node(name: &str) -> Option<u32> {
    numa::node_of(Path::new("/sys"), &Path::new("/sys/class/infiniband").join(name).join("device"))
}

/// Whether a device is still among those of this host.
pub(super) fn is_here(wanted: &Device) -> bool {
    let Ok(library) = library() else { return true };
    device::devices(library).map_or(true, |all| all.contains(wanted))
}

/// What options come to, before anything is connected.
pub(super) struct ChosenDevice {
    /// The device that was named, or the first that has a link.
    pub device: Device,
    /// Its name.
    pub name: String,
    /// The address to bind to, where the options say so and the device has one.
    pub address: Option<IpAddr>,
    /// An address of the device, if it has one.
    pub own: Option<IpAddr>,
}

/// The device that `options` mean, and its address, of the family of `like` unless that is none.
pub(super) fn choose(options: &VerbsOptions, like: Option<IpAddr>) -> Result<ChosenDevice, FabricError> {
    choose_again(options, like, None)
}

/// The same, of the name `before`, if there is one.
pub(super) fn choose_again(
    options: &VerbsOptions,
    like: Option<IpAddr>,
    before: Option<&str>,
) -> Result<ChosenDevice, FabricError> {
    let mut devices = open()?;
    let all = devices.iter().map(describe).collect::<Result<Vec<_>, _>>()?;
    let meant = VerbsOptions { device: before.map(String::from).or(options.device.clone()), ..options.clone() };
    let at = pick(&all, &meant)?;
    let (device, info) = (devices.swap_remove(at), &all[at]);
    let asked = options.device.is_some() || options.port.is_some() || options.gid_index.is_some();
    let port = info.ports.iter().find(|port| is_usable(port, options));
    let address_of = |gid_index| port.map(|port| address_of(&info.name, port, gid_index, like)).transpose();
    let own = address_of(None)?.flatten();
    let address = if asked { address_of(options.gid_index)?.flatten() } else { None };
    Ok(ChosenDevice { device, name: info.name.clone(), address, own })
}

fn is_usable(port: &PortInfo, options: &VerbsOptions) -> bool {
    port.active && options.port.is_none_or(|number| number == port.number)
}

/// Which of `all` it is: the one that was named, else the first that can be used.
fn pick(all: &[DeviceInfo], options: &VerbsOptions) -> Result<usize, FabricError> {
    let is_meant = |info: &DeviceInfo| options.device.as_ref().is_none_or(|name| *name == info.name);
    let has_link = |info: &DeviceInfo| is_meant(info) && info.ports.iter().any(|port| is_usable(port, options));
    if let Some(at) = all.iter().position(|info| has_link(info) && info.transport != IWARP) {
        return Ok(at);
    }
    if let Some(info) = all.iter().find(|info| has_link(info)) {
        return Err(is_iwarp(&info.name));
    }
    let wanted = options.device.as_deref().map_or("any device".to_string(), |name| format!("device {name}"));
    let port = options.port.map_or("a port".to_string(), |port| format!("port {port}"));
    let names = all.iter().map(|info| info.name.as_str()).collect::<Vec<_>>().join(", ");
    let why = format!("{wanted} with {port} that has a link is not here, of: {names}; see `rdma link`");
    Err(failed(Cause::Unsupported, why))
}

/// The address of a port: that of the GID asked for, else the first of RoCE v2 and of the family of
/// `like`.
fn address_of(
    device: &str,
    port: &PortInfo,
    gid_index: Option<u8>,
    like: Option<IpAddr>,
) -> Result<Option<IpAddr>, FabricError> {
    let like = |address: &IpAddr| like.is_none_or(|like| like.is_ipv4() == address.is_ipv4());
    let Some(index) = gid_index else {
        let roce = port.gids.iter().filter(|gid| gid.kind.is_empty() || gid.kind == "RoCE v2");
        return Ok(roce.filter_map(Gid::network_address).find(like));
    };
    let gid = port.gids.iter().find(|gid| gid.index == index);
    match gid.and_then(Gid::network_address).filter(like) {
        Some(address) => Ok(Some(address)),
        None => Err(failed(
            Cause::Unsupported,
            format!(
                "GID {index} of {device} port {} is no network address of the family wanted; `remora doctor` lists them",
                port.number
            ),
        )),
    }
}

/// Ok if this host has a device that `options` mean and that can be used.
pub fn is_possible(options: &VerbsOptions) -> Result<(), FabricError> {
    choose(options, None).map(drop)
}

fn is_iwarp(name: &str) -> FabricError {
    let why = "its READs need landings that the peer can WRITE to, so what was checked could change; use shm or tcp";
    failed(Cause::Unsupported, format!("device {name} is iWARP: {why}"))
}

/// Whether the way that RDMA CM found is one that can be used, and the one that `options` ask for.
pub(super) fn check(options: &VerbsOptions, device: &Device, port: u8) -> Result<(), FabricError> {
    let attributes = device.attributes()?;
    let name = attributes.name;
    if transport(attributes.transport) == IWARP {
        return Err(is_iwarp(&name));
    }
    let other_device = options.device.as_ref().is_some_and(|wanted| *wanted != name);
    if other_device || options.port.is_some_and(|wanted| wanted != port) {
        let why = format!("the address leads to {name} port {port}, not to the device and port asked for");
        return Err(failed(Cause::Unsupported, why));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn gid(index: u8, address: &str, kind: &str) -> Gid {
        Gid { index, address: address.parse().unwrap(), kind: kind.into() }
    }

    fn port() -> PortInfo {
        let gids = vec![
            gid(0, "fe80::5054:ff:fe12:3456", "RoCE v2"),
            gid(1, "::ffff:10.0.0.7", "IB/RoCE v1"),
            gid(2, "fd00::7", "RoCE v2"),
            gid(3, "::ffff:10.0.0.8", "RoCE v2"),
        ];
        PortInfo { number: 1, active: true, link: "Ethernet", mtu_bytes: 1024, gids }
    }

    #[test]
    fn an_address_of_the_family_wanted() {
        let of = |like: Option<&str>| address_of("x", &port(), None, like.map(|text| text.parse().unwrap())).unwrap();
        assert_eq!(of(Some("10.9.9.9")), Some("10.0.0.8".parse().unwrap()));
        assert_eq!(of(Some("fd00::1")), Some("fd00::7".parse().unwrap()));
        assert_eq!(of(None), Some("fd00::7".parse().unwrap()));
    }

    fn device(name: &str, transport: &'static str, active: bool) -> DeviceInfo {
        DeviceInfo {
            name: name.into(),
            transport,
            responder_reads_max: 16,
            initiator_reads_max: 16,
            mr_bytes_max: u64::MAX,
            regions_max: 1000,
            queue_pairs_max: 1000,
            ports: vec![PortInfo { active, ..port() }],
        }
    }

    #[test]
    fn the_device_that_was_named_or_the_first_that_can_be_used() {
        let all = [device("down", "InfiniBand", false), device("iw", IWARP, true), device("mlx", "InfiniBand", true)];
        let named = |name: &str| pick(&all, &VerbsOptions { device: Some(name.into()), ..VerbsOptions::default() });
        assert_eq!(pick(&all, &VerbsOptions::default()), Ok(2));
        assert_eq!(named("mlx"), Ok(2));
        let refused = |name, word: &str| {
            let error = named(name).unwrap_err();
            assert!(error.cause == Cause::Unsupported && error.what.contains(word), "{error}");
        };
        refused("iw", "iw is iWARP");
        refused("down", "has a link");
        refused("none", "of: down, iw, mlx");
        let only_iwarp = pick(&all[..2], &VerbsOptions::default()).unwrap_err();
        assert!(only_iwarp.what.contains("use shm or tcp"), "rather than the words for a missing link: {only_iwarp}");
    }

    #[test]
    fn a_gid_by_its_number_or_an_error() {
        let of = |index| address_of("x", &port(), Some(index), Some("10.9.9.9".parse().unwrap()));
        assert_eq!(of(1), Ok(Some("10.0.0.7".parse().unwrap())));
        for index in [0, 2, 9] {
            let error = of(index).unwrap_err();
            assert_eq!(error.cause, Cause::Unsupported);
            assert!(error.what.contains(&format!("GID {index}")), "{error}");
        }
    }
}
