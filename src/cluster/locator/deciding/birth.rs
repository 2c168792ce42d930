//! A cluster begins at this locator: it is born; or it goes on whose store is lost, from the latest
//! map that a server or a file knows.

use super::{Deciding, Message, Peer, PeerId, failed};
use crate::cluster::decide::recovered;
use crate::cluster::locator::outbox::Outbox;
use crate::cluster::map::{Map, Policy};
use crate::sys::random::random;
use std::collections::BTreeSet;

impl Deciding {
    pub(super) fn be_born(&mut self, shards: usize, policy: Policy, outbox: Outbox) {
        let id = random::<16>().map(|id| format!("{:032x}", u128::from_be_bytes(id)));
        let (id, is_free) = match (id, &mut self.charge) {
            (Ok(id), Some(charge)) => (id, charge.writing.is_none() && charge.revision.is_none()),
            _ => return outbox.say(failed("the kernel gives no random bytes")),
        };
        if !is_free {
            return outbox.say(failed("a map is stored already, or being written: look at the status"));
        }
        if let Some(words) = self.is_of_others() {
            return outbox.say(failed(&words));
        }
        if !(shards.is_power_of_two() && shards <= crate::base::shards::SHARDS_MAX) {
            return outbox.say(failed(&format!("{shards} shards: their number is a power of two, at most 1024")));
        }
        if let Err(words) = policy.check() {
            return outbox.say(failed(&words));
        }
        let generation = self.charge.as_ref().map_or(0, |charge| charge.generation);
        let map = Map { generation, ..Map::born(id.clone(), shards, policy) };
        if let Some(charge) = &mut self.charge {
            charge.waiting.push((outbox, id));
        }
        self.write(map, Vec::new());
    }

    /// Why no cluster can be born of the servers that are there, where they belong to one.
    fn is_of_others(&self) -> Option<String> {
        let (names, clusters) = self.those_with_a_cluster();
        (!names.is_empty()).then(|| {
            let clusters: Vec<&str> = clusters.into_iter().collect();
            format!(
                "{} belong to the cluster {}, whose map is not in this store: if the store is lost, say `remora ctl cluster \
                 recover`; for a new cluster, start these servers anew first",
                names.join(", "),
                clusters.join(" and ")
            )
        })
    }

    /// The names of the servers that know a cluster, and which.
    fn those_with_a_cluster(&self) -> (Vec<&str>, BTreeSet<&str>) {
        let intros = || self.peers.values().map(|peer| &peer.introduction).filter(|intro| intro.cluster.is_some());
        let mut names: Vec<&str> = intros().map(|intro| &*intro.name).collect();
        names.sort_unstable();
        (names, intros().filter_map(|intro| intro.cluster.as_deref()).collect())
    }

    /// Where there is no map, whoever knows one is asked for it.
    pub(super) fn ask_for_maps(&mut self) {
        if self.charge.as_ref().is_some_and(|charge| charge.revision.is_none()) {
            let knows = |peer: &&mut Peer| peer.introduction.cluster.is_some() && !peer.is_asked;
            for peer in self.peers.values_mut().filter(knows) {
                peer.is_asked = true;
                peer.outbox.say(Message::TellMap);
            }
        }
    }

    /// A server tells the map that it knows.
    pub(super) fn told(&mut self, peer: PeerId, text: &str) {
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        match Map::of_text(text.as_bytes()) {
            Ok(map) => peer.told = Some(map),
            Err(error) => log::warn!("{} tells a map that cannot be read: {error}", peer.introduction.name),
        }
    }

    /// Go on from the latest map that is known.
    pub(super) fn recover(&mut self, file: Option<Map>, is_dry_run: bool, outbox: Outbox) {
        match self.latest(file) {
            Err(words) => outbox.say(failed(&words)),
            Ok((_, words)) if is_dry_run => outbox.say(Message::Answer { is_done: true, body: words }),
            Ok((map, words)) => {
                log::warn!("{words}");
                if let Some(charge) = &mut self.charge {
                    charge.waiting.push((outbox, words));
                }
                self.write(map, Vec::new());
            }
        }
    }

    /// What is to be stored, and what that means. Err: why nothing can be.
    fn latest(&self, file: Option<Map>) -> Result<(Map, String), String> {
        if !self.charge.as_ref().is_some_and(|charge| charge.writing.is_none() && charge.revision.is_none()) {
            return Err("a map is stored already, or being written: look at the status".into());
        }
        if let Some(Err(bad)) = file.as_ref().map(Map::check) {
            return Err(bad.to_string());
        }
        let (_, mut clusters) = self.those_with_a_cluster();
        clusters.extend(file.as_ref().map(|map| &*map.cluster));
        if clusters.len() > 1 {
            let clusters: Vec<&str> = clusters.into_iter().collect();
            return Err(format!(
                "there are several clusters, {}: end the servers that are not of the one that is to go on",
                clusters.join(" and ")
            ));
        }
        let silent = self.peers.values().filter(|peer| peer.introduction.cluster.is_some() && peer.told.is_none());
        let silent: Vec<&str> = silent.map(|peer| &*peer.introduction.name).collect();
        if !silent.is_empty() {
            return Err(format!("{} have not told the map that they know: ask again", silent.join(", ")));
        }
        let told = self.peers.values().filter_map(|peer| Some((peer.told.clone()?, peer.introduction.name.clone())));
        let known = told.chain(file.map(|map| (map, "the file".into())));
        let (map, from) = known.max_by_key(|(map, _)| map.version).ok_or(
            "no server that is there knows a map: start the servers, or give --from FILE. A new cluster begins by init",
        )?;
        let versions = self
            .peers
            .values()
            .map(|peer| peer.introduction.map_version.max(peer.told.as_ref().map_or(0, |map| map.version)));
        let highest = versions.max().unwrap_or(0);
        let (cluster, version) = (map.cluster.clone(), map.version);
        let missing: Vec<&str> =
            map.servers.iter().map(|server| &*server.name).filter(|name| !self.has(name)).collect();
        let missing = if missing.is_empty() { "none".into() } else { missing.join(", ") };
        let words = format!(
            "the cluster {cluster} goes on from map {version}, of {from}. Of its servers these are not there: {missing}. \
             Nothing moves before all that run have reported; look at the status, and say resume where it asks for that"
        );
        Ok((recovered(map, highest), words))
    }

    fn has(&self, name: &str) -> bool {
        self.peers.values().any(|peer| peer.introduction.name == name)
    }
}
