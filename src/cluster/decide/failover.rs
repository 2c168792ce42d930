//! Who becomes the primary of a shard that has none, and when that is done.
//!
//! An acknowledged write is held by the primary and K of the N listed members. So N-K+1 of them, of
//! whatever choice, have one that holds it. An heir is one that is whole and of the latest term;
//! before its term begins it stops the listed members that are alive, and takes over what they
//! have. If fewer are alive than that, the shard waits: for them, for an operator, or as long as
//! the policy says.

use super::draft::restamp;
use super::{CHANGE_MS_MAX, Step};
use crate::cluster::map::{Change, Member, ServerId, Shard, Stage, Wanted, Way};
use crate::cluster::report::Role;
use std::cmp::Reverse;

/// What is to become of a shard without a primary.
enum Course {
    /// This one becomes it, once so many of the members have stopped for it.
    Heir(ServerId, Way, usize),
    /// Nobody has anything that could be waited for.
    Empty,
    /// Those that could become it have failed a moment ago.
    Later,
    /// Too few of its members are alive.
    Wait,
}

/// How a primary was found that the map does not know.
#[derive(Clone, Copy)]
pub enum Found {
    /// It has begun its term by itself.
    ByItself,
    /// A map that is lost made it the primary.
    InLostMap,
}

impl Step<'_> {
    /// Heirs that have become primaries are written down as such.
    pub fn complete(&mut self) {
        for shard in 0..self.draft.map.shards.len() {
            let place = &self.draft.map.shards[shard];
            if let Some(change) = place.change.filter(|change| change.gone == 0)
                && self.held(change.heir, shard) == Some((Role::Primary, change.term))
            {
                self.crown(shard, change);
            } else if self.memory.terms[shard] > place.term.max(place.reserved) {
                self.adopt(shard);
            }
        }
        let shards = &self.draft.map.shards;
        let changes = |shard: usize, term: u32| shards[shard].change.is_some_and(|change| change.term == term);
        self.memory.changing.retain(|(shard, term), _| changes(*shard, *term));
        self.clear_acks_before();
    }

    /// The change is done: the heir is the primary.
    fn crown(&mut self, shard: usize, change: Change) {
        let version = self.draft.version;
        let old = self.draft.map.shards[shard].primary.filter(|old| *old != change.heir);
        let old_lives = old.is_some_and(|old| self.is_alive(old));
        let place = &mut self.draft.map.shards[shard];
        if change.way == Way::Empty {
            place.members.clear();
        } else {
            place.members.retain(|member| member.server != change.heir);
            // The one of before is one of those that may have what was acknowledged.
            let stage = match () {
                () if place.ended => Stage::Gone(version),
                () if change.way == Way::HandOver && old_lives => Stage::Whole,
                () => Stage::Leaving(version),
            };
            place.members.extend(old.map(|server| Member { server, stage }));
        }
        let had_something = place.term > 0;
        if change.way == Way::Unclean || (change.way == Way::Empty && had_something) {
            place.unclean_term = change.term;
        }
        restamp(place, version);
        (place.primary, place.term, place.ended, place.change) = (Some(change.heir), change.term, false, None);
        self.draft.map.acks_before.iter_mut().for_each(|before| before.1 = version);
        self.memory.failed.retain(|(of, _), _| *of != shard);
        self.memory.waiting.remove(&shard);
        self.memory.forced.remove(shard);
        let words = format!("{} is the primary", self.draft.name(change.heir));
        self.draft.note(Some(shard), words);
    }

    /// A server is the primary in a term that no map has reserved: a primary whose hand-over failed
    /// went on in a term of its own.
    fn adopt(&mut self, shard: usize) {
        let latest = self.memory.terms[shard];
        let ids: Vec<ServerId> = self.draft.map.servers.iter().map(|server| server.id).collect();
        let is_it = |id: &&ServerId| self.held(**id, shard) == Some((Role::Primary, latest));
        let Some(primary) = ids.iter().find(is_it).copied() else { return };
        self.put_first(shard, primary, latest, Found::ByItself);
        // Whoever has anything may have been a member.
        for id in ids {
            let has_it = id != primary && self.held(id, shard).is_some();
            let place = &mut self.draft.map.shards[shard];
            if has_it && place.member(id).is_none() {
                place.join(id);
            }
        }
    }

    /// The map says that this server is the primary.
    pub fn put_first(&mut self, shard: usize, primary: ServerId, term: u32, found: Found) {
        let version = self.draft.version;
        let place = &mut self.draft.map.shards[shard];
        let old = place.primary.filter(|old| *old != primary);
        let stage = if place.ended { Stage::Gone(version) } else { Stage::Leaving(version) };
        place.members.retain(|member| member.server != primary);
        place.members.extend(old.map(|server| Member { server, stage }));
        restamp(place, version);
        (place.primary, place.term, place.reserved) = (Some(primary), term, term.max(place.reserved));
        (place.ended, place.change) = (false, None);
        self.memory.forced.remove(shard);
        let name = self.draft.name(primary);
        let words = match found {
            Found::ByItself => format!("{name} is the primary in a term that no map has given"),
            Found::InLostMap => format!("{name} has come to a later term than the map that was put back"),
        };
        self.draft.note(Some(shard), words);
    }

    /// A K that was raised holds once all primaries have said so.
    fn clear_acks_before(&mut self) {
        let Some((_, since)) = self.draft.map.acks_before else { return };
        let has_confirmed = |(shard, place): (usize, &Shard)| {
            let says_so = |primary| {
                let is_it = !place.ended && self.held(primary, shard) == Some((Role::Primary, place.term));
                is_it && self.session(primary).is_some_and(|one| one.has_confirmed(shard, since))
            };
            place.change.is_none() && place.primary.is_none_or(says_so)
        };
        if self.draft.map.shards.iter().enumerate().all(has_confirmed) {
            self.draft.map.acks_before = None;
        }
    }

    /// K, as acknowledged writes are to be reckoned with.
    fn acks(&self) -> usize {
        let map = &self.draft.map;
        usize::from(map.acks_before.map_or(map.policy.acks, |(before, _)| before.min(map.policy.acks)).max(1))
    }

    /// Shards without a primary get one.
    pub fn fail_over(&mut self) {
        for shard in 0..self.draft.map.shards.len() {
            let place = &self.draft.map.shards[shard];
            let mut nobody_began = place.reserved == place.term;
            let why = match (place.change, place.primary) {
                (Some(change), _) => {
                    nobody_began = self.has_not_begun(shard, change);
                    self.why_replaced(shard, change)
                }
                (None, None) => Some("nobody has it yet".into()),
                (None, Some(primary)) => self.why_lost(shard, primary),
            };
            let Some(why) = why else {
                self.memory.waiting.remove(&shard);
                continue;
            };
            match self.course(shard, nobody_began) {
                Course::Heir(heir, way, least) => self.begin(shard, (heir, way, least), &why),
                Course::Empty => {
                    if let Some(heir) = self.empty_heir(shard) {
                        self.begin(shard, (heir, Way::Empty, 0), &why);
                    }
                }
                Course::Wait => {
                    self.memory.waiting.entry(shard).or_insert(self.now);
                }
                Course::Later => {}
            }
        }
    }

    /// Neither this heir nor one before it has begun a term since the primary's, for certain.
    fn has_not_begun(&self, shard: usize, change: Change) -> bool {
        let place = &self.draft.map.shards[shard];
        let session = self.session(change.heir).filter(|_| change.gone == 0);
        let has_failed = session.is_some_and(|session| session.failure(shard, change.term).is_some());
        // After the end of the heir, the primary had not been stopped.
        let primary = place.primary.and_then(|primary| self.session(primary));
        let is_open = primary.is_some_and(|primary| {
            primary.map_version >= change.gone && primary.held(shard) == Some((Role::Primary, place.term))
        });
        match change.way {
            Way::GoesOn => true,
            Way::HandOver if change.gone > 0 && is_open => true,
            _ => has_failed && change.term == place.term + 1,
        }
    }

    /// Why an heir is not to be waited for, if so.
    fn why_replaced(&mut self, shard: usize, change: Change) -> Option<String> {
        let since = *self.memory.changing.entry((shard, change.term)).or_insert(self.now);
        let name = self.draft.name(change.heir);
        let Some(session) = self.session(change.heir).filter(|_| change.gone == 0) else {
            return Some(format!("{name}, which was to become the primary, is dead"));
        };
        let why = match session.failure(shard, change.term) {
            Some(words) => format!("{name} could not become the primary: {words}"),
            None if self.now >= since + CHANGE_MS_MAX => format!("{name} has not become the primary in time"),
            None => return None,
        };
        self.memory.note_failure(shard, change.heir, change.term, self.now);
        Some(why)
    }

    /// Why a primary is none any more, if so.
    fn why_lost(&self, shard: usize, primary: ServerId) -> Option<String> {
        let place = &self.draft.map.shards[shard];
        let name = self.draft.name(primary);
        if place.ended {
            return Some(format!("the process of {name}, the primary of before, has ended"));
        }
        match self.held(primary, shard) {
            Some((Role::Primary, term)) if term == place.term => None,
            _ if self.is_alive(primary) => Some(format!("{name} is alive, and has stopped being the primary")),
            _ if self.is_paused(primary) => None,
            _ => Some(format!("{name}, the primary of before, is dead")),
        }
    }

    fn is_paused(&self, server: ServerId) -> bool {
        self.draft.map.server(server).is_some_and(|server| server.wanted == Wanted::Paused)
    }

    fn course(&self, shard: usize, nobody_began: bool) -> Course {
        let place = &self.draft.map.shards[shard];
        let old = place.primary.filter(|old| !place.ended && self.is_alive(*old));
        let old_has_it = old.filter(|old| self.is_whole(*old, shard));
        let may_try = |server: &ServerId| self.memory.may_try(shard, *server, self.now);
        if let Some(old) = old_has_it.filter(|_| nobody_began) {
            return if may_try(&old) { Course::Heir(old, Way::GoesOn, 0) } else { Course::Later };
        }
        // The primary of before that has come back, or was to hand over, lacks at most what its
        // heir has had acknowledged, by members other than itself.
        let change = place.change.filter(|change| matches!(change.way, Way::HandOver | Way::Gather));
        let heir = change.map(|change| change.heir);
        let (alive, needed) = self.alive_and_needed(shard, heir);
        let has_the_rest = old_has_it.filter(|_| heir.is_some() && alive >= needed);
        // One that has come back may have more than it had acknowledged: whoever has come to the
        // heir's term goes before it.
        let only = has_the_rest.filter(|_| change.is_some_and(|change| change.way == Way::HandOver));
        let (alive, least) = if has_the_rest.is_some() {
            let too = place.members.iter().filter(|one| Some(one.server) == heir && self.has_place(one)).count();
            (alive + too, needed + too)
        } else {
            self.alive_and_needed(shard, None)
        };
        let is_enough = alive >= least;
        // What is reported may be older than the last write. So whoever is listed and alive is
        // asked, and fails where it is not whole.
        let may_be_whole = |one: &&Member| self.has_place(one) && !self.has_nothing(shard, one.server);
        let mut able: Vec<ServerId> = place.members.iter().filter(may_be_whole).map(|one| one.server).collect();
        able.extend(old_has_it);
        able.retain(|server| only.is_none_or(|only| only == *server));
        let wanted = place.target.first().copied();
        able.sort_by_key(|server| {
            let (role, term) = self.held(*server, shard).unwrap_or((Role::Joining, 0));
            (role == Role::Joining, Reverse(term), Some(*server) != wanted, role == Role::Whole)
        });
        let heir = able.iter().copied().find(may_try);
        let may_come_back = |one: &Member| !matches!(one.stage, Stage::Gone(_)) && !self.is_alive(one.server);
        let nobody_has_it = able.is_empty() && old.is_none() && !place.members.iter().any(may_come_back);
        match (heir, able.is_empty()) {
            (Some(heir), _) if is_enough => Course::Heir(heir, Way::Gather, least),
            (None, false) if is_enough => Course::Later,
            _ if nobody_has_it && (place.primary.is_none() || place.ended || place.members.is_empty()) => Course::Empty,
            _ if !self.may_be_unclean(shard) => Course::Wait,
            (Some(heir), _) => Course::Heir(heir, Way::Unclean, 0),
            (None, false) => Course::Later,
            (None, true) => Course::Empty,
        }
    }

    /// It was asked to become the primary since this term, could not, and says that it is not
    /// whole: nobody has counted it.
    fn has_nothing(&self, shard: usize, server: ServerId) -> bool {
        let place = &self.draft.map.shards[shard];
        let has_failed = self.memory.failed.get(&(shard, server)).is_some_and(|failed| failed.term > place.term);
        let joins = place.member(server).is_some_and(|member| member.stage == Stage::Joining);
        let has_come = self.held(server, shard).is_some_and(|(_, term)| !joins || term >= place.term);
        has_failed && !(self.is_whole(server, shard) && has_come)
    }

    /// The process that is the member is alive.
    fn has_place(&self, member: &Member) -> bool {
        !matches!(member.stage, Stage::Gone(_)) && self.is_alive(member.server)
    }

    /// How many of the listed members are alive, and how many of them there must be for each K to
    /// have one.
    fn alive_and_needed(&self, shard: usize, but: Option<ServerId>) -> (usize, usize) {
        let members = &self.draft.map.shards[shard].members;
        let listed = || members.iter().filter(|member| Some(member.server) != but);
        let alive = listed().filter(|member| self.has_place(member)).count();
        (alive, (listed().count() + 1).saturating_sub(self.acks()))
    }

    /// An operator or the policy has it go on without enough members.
    fn may_be_unclean(&self, shard: usize) -> bool {
        let waited = self.memory.waiting.get(&shard).map_or(0, |since| self.now - since);
        let most = self.draft.map.policy.unclean_after_ms;
        self.memory.forced.has(shard)
            || most.is_some_and(|most| self.memory.waiting.contains_key(&shard) && waited >= most)
    }

    /// Where a shard begins empty.
    fn empty_heir(&self, shard: usize) -> Option<ServerId> {
        let map = &self.draft.map;
        let may = |id: &ServerId| self.is_alive(*id) && self.memory.may_try(shard, *id, self.now);
        if let Some(first) = map.shards[shard].target.iter().copied().find(may) {
            return Some(first);
        }
        let led = |id: ServerId| map.shards.iter().filter(|shard| shard.primary == Some(id)).count() as u64;
        let takes = map.servers.iter().filter(|server| server.wanted == Wanted::Serving && may(&server.id));
        takes.min_by_key(|server| (led(server.id) << 20) / server.memory_mib.max(1)).map(|server| server.id)
    }

    /// A term is reserved for the heir.
    pub fn begin(&mut self, shard: usize, (heir, way, least): (ServerId, Way, usize), why: &str) {
        let place = &self.draft.map.shards[shard];
        let term = place.term.max(place.reserved).max(self.memory.terms[shard]) + 1;
        self.memory.changing.insert((shard, term), self.now);
        self.draft
            .begin_change(shard, Change { heir, term, way, least: u8::try_from(least).unwrap_or(u8::MAX), gone: 0 });
        let how = match way {
            Way::HandOver => "takes over",
            Way::GoesOn => "goes on as the primary",
            Way::Gather => "becomes the primary, with all that the other members have",
            Way::Unclean => "becomes the primary, though members are missing: acknowledged writes may be lost",
            Way::Empty => "begins empty",
        };
        let words = format!("{} {how}: {why}", self.draft.name(heir));
        self.draft.note(Some(shard), words);
    }
}
