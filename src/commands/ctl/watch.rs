//! `remora ctl cluster watch` prints each new version of the map as it comes.

use super::super::output::{OutputError, say};
use crate::cluster::map::Map;
use crate::cluster::observer::{Heard, watch};
use crate::replication::secret::Secret;
use crate::sys::logging;
use anyhow::Context;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Print `count` versions, or all that come. Gives up where no locator tells any for longer than
/// `patience`.
pub fn run(
    locators: &[String],
    secret: &Secret,
    is_json: bool,
    count: Option<u64>,
    patience: Duration,
) -> anyhow::Result<()> {
    let (mut left, mut told, mut heard_at) = (count, String::new(), Instant::now());
    let mut ended: anyhow::Result<()> = Ok(());
    watch(locators, secret, &mut |heard| {
        let lost = match heard {
            Heard::Map(map) => {
                left = left.map(|left| left.saturating_sub(1));
                ended = print(map, is_json).map_err(Into::into);
                None
            }
            Heard::Current => None,
            Heard::Lost(lost) => Some(lost.to_string()),
        };
        if let Some(lost) = lost {
            if heard_at.elapsed() > patience {
                ended = Err(anyhow::anyhow!(lost)).context("no locator tells the map");
            } else if lost != told {
                logging::line(&format!("remora: {lost}; trying again"));
                told = lost;
            }
        } else {
            (heard_at, told) = (Instant::now(), String::new());
        }
        if ended.is_err() || left == Some(0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    ended
}

fn print(map: &Map, is_json: bool) -> Result<(), OutputError> {
    if is_json { say!("{}", map.to_text()) } else { say!("{}", line(map)) }
}

fn line(map: &Map) -> String {
    let dead = map.servers.iter().filter(|server| server.incarnation.is_none()).count();
    let without = map.shards.iter().filter(|shard| map.living_primary(shard).is_none()).count();
    let changing = map.shards.iter().filter(|shard| shard.change.is_some()).count();
    format!(
        "map {}, locator generation {}: servers {}, dead {dead}; shards {}, without a primary {without}, changing it {changing}",
        map.version,
        map.generation,
        map.servers.len(),
        map.shards.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::map::Policy;

    #[test]
    fn a_map_is_a_line() {
        let map = Map::born("c".into(), 8, Policy::default());
        assert_eq!(
            line(&map),
            "map 1, locator generation 0: servers 0, dead 0; shards 8, without a primary 8, changing it 0"
        );
    }
}
