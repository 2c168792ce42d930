//! Which NUMA node a device is nearest to, and which cores a node has, as the kernel's files say.
//! `sys` is where they are: `/sys`.

use std::fs;
use std::path::Path;

/// Cores beyond this are not believed: no kernel has more.
const CORES_MAX: usize = 1 << 13;

/// The node of the device in this folder. None where the host has one node, or the kernel knows
/// none for the device (-1).
pub fn node_of(sys: &Path, device: &Path) -> Option<u32> {
    let text = fs::read_to_string(device.join("numa_node")).ok()?;
    let node = text.trim().parse().ok()?;
    (node_count(sys) > 1).then_some(node)
}

fn node_count(sys: &Path) -> usize {
    let Ok(entries) = fs::read_dir(sys.join("devices/system/node")) else { return 0 };
    let names = entries.flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_str().and_then(|name| name.strip_prefix("node")?.parse::<u32>().ok()).is_some()).count()
}

/// The cores of a node, in order; none if the kernel does not say, or the node has only memory.
pub fn cores_of(sys: &Path, node: u32) -> Vec<usize> {
    let list = fs::read_to_string(sys.join(format!("devices/system/node/node{node}/cpulist")));
    list.ok().and_then(|list| parse_cores(&list)).unwrap_or_default()
}

/// A list such as `0-3,8,10-11`. None if it is no such list.
fn parse_cores(list: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last >= CORES_MAX {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as the kernel's: nodes with their cores, and a device with its node.
    fn sys(nodes: &[&str], device_node: &str) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        for (node, cores) in nodes.iter().enumerate() {
            let folder = sys.path().join(format!("devices/system/node/node{node}"));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cpulist"), format!("{cores}\n")).unwrap();
        }
        // What else lies there.
        fs::create_dir_all(sys.path().join("devices/system/node/power")).unwrap();
        fs::write(sys.path().join("devices/system/node/online"), "0-1\n").unwrap();
        fs::create_dir_all(sys.path().join("device")).unwrap();
        fs::write(sys.path().join("device/numa_node"), format!("{device_node}\n")).unwrap();
        sys
    }

    fn node(nodes: &[&str], device_node: &str) -> Option<u32> {
        let sys = sys(nodes, device_node);
        node_of(sys.path(), &sys.path().join("device"))
    }

    #[test]
    fn a_device_has_a_node_where_there_are_several() {
        assert_eq!(node(&["0-3", "4-7"], "1"), Some(1));
        assert_eq!(node(&["0-3", "4-7"], "-1"), None, "the kernel does not know");
        assert_eq!(node(&["0-3", "4-7"], "one"), None);
        assert_eq!(node(&["0-7"], "0"), None, "one node: any core is as near");
        let sys = sys(&["0-3", "4-7"], "1");
        assert_eq!(node_of(sys.path(), &sys.path().join("no-such-device")), None);
        assert_eq!(node_of(&sys.path().join("nowhere"), &sys.path().join("device")), None, "a kernel without NUMA");
    }

    #[test]
    fn cores_of_a_node() {
        let sys = sys(&["0-2,8", "", "3,x"], "0");
        assert_eq!(cores_of(sys.path(), 0), [0, 1, 2, 8]);
        for node in 1..4 {
            assert!(cores_of(sys.path(), node).is_empty(), "memory alone, nonsense, no such node");
        }
        assert_eq!(parse_cores("3-1"), None);
        assert_eq!(parse_cores("0-99999999999"), None, "of so many nothing is made");
    }
}
