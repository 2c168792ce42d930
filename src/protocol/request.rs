//! Requests, whichever protocol they came by, as structures: what a parser gives and the engine
//! executes. Those that name keys borrow them from the input.

use super::binary::Head;
use super::reply::Reply;
use super::text::bytes_to_blank;
use super::text::dump::DumpForm;
use super::text::hello::Preferences;
use super::text::meta::MetaRequest;
use super::text::watch::Streams;
use crate::base::limits::KEY_BYTES_MAX;
use crate::base::time::ClockChange;

/// A request, whichever protocol it came by.
#[derive(Debug)]
pub enum Request<'a> {
    /// get, gets, gat, gats.
    Get(Get<'a>),
    /// get, gat, touch of the binary protocol.
    GetOne(GetOne<'a>),
    /// set, add, replace, append, prepend, cas.
    Store(Store<'a>),
    /// incr, decr.
    Arithmetic(Arithmetic<'a>),
    /// touch.
    Touch(Touch<'a>),
    /// delete.
    Delete(Delete<'a>),
    /// flush_all.
    FlushAll {
        /// Seconds to wait, or an absolute time as for expiry; 0 is now.
        delay: Exptime,
        /// How it is to be answered.
        reply: Reply,
    },
    /// cache_memlimit.
    CacheMemlimit {
        /// The new limit in MiB.
        mebibytes: u64,
        /// How it is to be answered.
        reply: Reply,
    },
    /// verbosity.
    Verbosity {
        /// 0 warnings and errors, 1 information, 2 and more debugging.
        level: u32,
        /// How it is to be answered.
        reply: Reply,
    },
    /// wait, Remora's own: answered once enough replicas have all that is written now, or the
    /// time is over.
    Wait {
        /// How many.
        replicas: u8,
        /// For how long at most.
        milliseconds: u32,
    },
    /// stats.
    Stats {
        /// What about, blanks around it trimmed: "" for plain stats.
        subject: &'a [u8],
        /// How it is to be answered.
        reply: Reply,
    },
    /// lru_crawler metadump, lru_crawler mgdump.
    Dump(Dump),
    /// watch: be told of these events from now on.
    Watch(Streams),
    /// debugtime, of builds with the feature of that name: change the clock.
    DebugTime {
        /// How.
        change: ClockChange,
        /// How it is to be answered.
        reply: Reply,
    },
    /// replication, with the rest of its line, blanks trimmed: an order to change this server's
    /// role.
    Replication(&'a [u8]),
    /// hello: what the client asks for, for the rest of its connection.
    Hello(Preferences),
    /// config get cluster, config get map: what is known of the cluster.
    Discover {
        /// What is asked.
        what: Discovery,
        /// How it is to be answered.
        reply: Reply,
    },
    /// shutdown: end the server.
    Shutdown {
        /// How.
        mode: Shutdown,
        /// How the client is told that it is refused; else there is no answer.
        reply: Reply,
    },
    /// version.
    Version(Reply),
    /// refresh_certs.
    RefreshCertificates(Reply),
    /// quit.
    Quit(Reply),
    /// mg, ms, md, ma, me.
    Meta(MetaRequest<'a>),
    /// mn.
    Noop(Reply),
}

/// What a client wants to know of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// Where its servers are, for clients made for ElastiCache.
    Cluster,
    /// Its map, as JSON.
    Map,
}

/// What a client wants to see of all items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dump {
    /// In which form.
    pub form: DumpForm,
    /// Of which slab classes.
    pub classes: DumpedClasses,
}

/// Slab classes by what is in them: here all items are in the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpedClasses {
    /// Those that have the items.
    All,
    /// Others.
    Empty,
    /// A list without one.
    None,
    /// There is no such class.
    Invalid,
}

impl<'r> Request<'r> {
    /// Its key; None where it has none, or may have several.
    #[inline]
    pub fn key(&self) -> Option<&'r [u8]> {
        match self {
            Request::GetOne(request) => Some(request.key),
            Request::Store(request) => Some(request.key),
            Request::Arithmetic(request) => Some(request.key),
            Request::Touch(request) => Some(request.key),
            Request::Delete(request) => Some(request.key),
            Request::Meta(request) => Some(request.key),
            Request::Get(_)
            | Request::FlushAll { .. }
            | Request::CacheMemlimit { .. }
            | Request::Verbosity { .. }
            | Request::Stats { .. }
            | Request::Dump(_)
            | Request::Watch(_)
            | Request::DebugTime { .. }
            | Request::Replication(_)
            | Request::Hello(_)
            | Request::Discover { .. }
            | Request::Shutdown { .. }
            | Request::Wait { .. }
            | Request::Version(_)
            | Request::RefreshCertificates(_)
            | Request::Quit(_)
            | Request::Noop(_) => None,
        }
    }

    /// Its key at `at` (of a get; 0 for any other), the offset behind that, and whether the request
    /// has no other key.
    pub fn key_at(&self, at: u32) -> Option<(&'r [u8], u32, bool)> {
        let Request::Get(get) = self else { return self.key().map(|key| (key, 0, true)) };
        let NextKey::Key(key, next) = get.keys.next(at) else { return None };
        let is_only = at == 0 && !get.continues && get.ends && get.keys.next(next) == NextKey::End;
        Some((key, next, is_only))
    }

    /// How its client wants to be answered, whatever becomes of it. (Of a refused meta command it
    /// is told even with q.)
    pub fn reply(&self) -> Reply {
        match self {
            Request::GetOne(request) => Reply::Binary(request.head),
            Request::Store(request) => request.reply,
            Request::Arithmetic(request) => request.reply,
            Request::Touch(request) => request.reply,
            Request::Delete(request) => request.reply,
            Request::FlushAll { reply, .. }
            | Request::CacheMemlimit { reply, .. }
            | Request::Verbosity { reply, .. }
            | Request::Stats { reply, .. }
            | Request::DebugTime { reply, .. }
            | Request::Shutdown { reply, .. }
            | Request::Version(reply)
            | Request::Discover { reply, .. }
            | Request::RefreshCertificates(reply)
            | Request::Quit(reply)
            | Request::Noop(reply) => *reply,
            Request::Get(_)
            | Request::Meta(_)
            | Request::Dump(_)
            | Request::Watch(_)
            | Request::Hello(_)
            | Request::Wait { .. }
            | Request::Replication(_) => Reply::Text,
        }
    }
}

/// How a client wants the server to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// At once.
    Plain,
    /// In order.
    Graceful,
    /// A word that means nothing here.
    Unknown,
}

/// An expiry as the client wrote it: 0 never, below 0 at once, up to 30 days relative, beyond that
/// Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exptime(pub i64);

/// get, gets, gat, gats: one or more keys, or a part of a line of them.
#[derive(Debug)]
pub struct Get<'a> {
    /// The keys, checked one by one as they are walked: a long multi-get is not parsed twice.
    pub keys: Keys<'a>,
    /// What is to be done with each.
    pub form: GetForm,
    /// The line has begun before these keys: those before them have been executed.
    pub continues: bool,
    /// The line ends behind these keys.
    pub ends: bool,
}

/// What a get does with each of its keys: all that must be remembered of its line between two parts
/// of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetForm {
    /// gets, gats: answer with the CAS value.
    pub with_cas: bool,
    /// gat, gats: the new expiry.
    pub touch: Option<Exptime>,
}

/// get, gat, touch of the binary protocol: one key, and an answer that needs no end.
#[derive(Debug)]
pub struct GetOne<'a> {
    /// 1 to 250 bytes.
    pub key: &'a [u8],
    /// gat, touch: the new expiry.
    pub touch: Option<Exptime>,
    /// What is to be told of the item, and how.
    pub head: Head,
}

/// How to combine the new value with what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreVerb {
    /// Whatever is there.
    Set,
    /// Only if nothing is there.
    Add,
    /// Only if something is there.
    Replace,
    /// Behind what is there.
    Append,
    /// Before what is there.
    Prepend,
    /// Only if the item's CAS is this one.
    Cas(u64),
}

/// set, add, replace, append, prepend, cas.
#[derive(Debug)]
pub struct Store<'a> {
    /// Which.
    pub verb: StoreVerb,
    /// 1 to 250 bytes.
    pub key: &'a [u8],
    /// The client's own flags.
    pub client_flags: u32,
    /// When it expires.
    pub exptime: Exptime,
    /// The value.
    pub value: &'a [u8],
    /// append, prepend: only onto an item of this CAS; 0 for any.
    pub onto_cas: u64,
    /// How it is to be answered.
    pub reply: Reply,
}

/// incr, decr.
#[derive(Debug)]
pub struct Arithmetic<'a> {
    /// True for incr.
    pub increment: bool,
    /// 1 to 250 bytes.
    pub key: &'a [u8],
    /// How much.
    pub delta: u64,
    /// Only if the item's CAS is this; 0 for any.
    pub compare_cas: u64,
    /// What to create on a miss: the number, and when it expires.
    pub create: Option<(u64, Exptime)>,
    /// How it is to be answered.
    pub reply: Reply,
}

/// touch.
#[derive(Debug)]
pub struct Touch<'a> {
    /// 1 to 250 bytes.
    pub key: &'a [u8],
    /// The new expiry.
    pub exptime: Exptime,
    /// How it is to be answered.
    pub reply: Reply,
}

/// delete.
#[derive(Debug)]
pub struct Delete<'a> {
    /// 1 to 250 bytes.
    pub key: &'a [u8],
    /// Only if the item's CAS is this.
    pub compare_cas: Option<u64>,
    /// How it is to be answered.
    pub reply: Reply,
}

/// The key part of a get line. A cursor into it is a plain offset, so that a get whose answer does
/// not fit into the output can be left and resumed.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    pub(super) line: &'a [u8],
}

/// What walking to the next key of a get line found.
#[derive(Debug, PartialEq, Eq)]
pub enum NextKey<'a> {
    /// A key, and the offset to go on from.
    Key(&'a [u8], u32),
    /// No more keys.
    End,
    /// A key longer than allowed: the whole command is refused.
    Bad,
}

impl<'a> Keys<'a> {
    /// The key at or after `offset` (0 for the first).
    pub fn next(&self, offset: u32) -> NextKey<'a> {
        let rest = self.line.get(offset as usize..).unwrap_or_default();
        let start = match rest {
            [] => return NextKey::End,
            // One blank, as nearly always.
            [b' ', first, ..] if *first != b' ' => 1,
            _ => match rest.iter().position(|byte| *byte != b' ') {
                Some(start) => start,
                None => return NextKey::End,
            },
        };
        let from_start = &rest[start..];
        let key_bytes = bytes_to_blank(from_start);
        if key_bytes > KEY_BYTES_MAX {
            return NextKey::Bad;
        }
        NextKey::Key(&from_start[..key_bytes], offset + (start + key_bytes) as u32)
    }

    /// Whether one of them is longer than allowed.
    pub fn has_bad(&self) -> bool {
        let mut offset = 0;
        loop {
            match self.next(offset) {
                NextKey::Key(_, next) => offset = next,
                NextKey::End => return false,
                NextKey::Bad => return true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(line: &[u8]) -> Vec<NextKey<'_>> {
        let (keys, mut offset, mut found) = (Keys { line }, 0, Vec::new());
        loop {
            found.push(keys.next(offset));
            match found.last() {
                Some(NextKey::Key(_, next)) => offset = *next,
                _ => return found,
            }
        }
    }

    #[test]
    fn keys_are_parted_by_any_number_of_blanks() {
        assert_eq!(walk(b"  a  b\tc "), [NextKey::Key(b"a", 3), NextKey::Key(b"b\tc", 8), NextKey::End]);
        assert_eq!(walk(b"   "), [NextKey::End]);
        assert_eq!(Keys { line: b"a" }.next(u32::MAX), NextKey::End);
    }

    #[test]
    fn a_get_of_one_key_has_no_other() {
        let form = GetForm { with_cas: false, touch: None };
        let get = |line, ends, continues| Request::Get(Get { keys: Keys { line }, form, continues, ends });
        assert_eq!(get(b" a ", true, false).key_at(0), Some((&b"a"[..], 2, true)));
        assert_eq!(get(b" a", false, false).key_at(0), Some((&b"a"[..], 2, false)));
        assert_eq!(get(b"a", true, true).key_at(0), Some((&b"a"[..], 1, false)));
        let two = get(b" a b", true, false);
        assert_eq!(
            [0, 2, 4].map(|at| two.key_at(at)),
            [Some((&b"a"[..], 2, false)), Some((&b"b"[..], 4, false)), None]
        );
        let touch = Request::Touch(Touch { key: b"a", exptime: Exptime(0), reply: Reply::Text });
        assert_eq!(touch.key_at(0), Some((&b"a"[..], 0, true)));
        assert_eq!(Request::Noop(Reply::Text).key_at(0), None);
    }

    #[test]
    fn a_key_of_251_bytes_is_bad_where_it_stands() {
        let longest = [b'k'; KEY_BYTES_MAX];
        let line = [b"a ", &longest[..], b" ", &[b'k'; KEY_BYTES_MAX + 1][..]].concat();
        let longest_end = 2 + KEY_BYTES_MAX as u32;
        assert_eq!(walk(&line), [NextKey::Key(b"a", 1), NextKey::Key(&longest, longest_end), NextKey::Bad]);
    }
}
