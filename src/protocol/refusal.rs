//! Why a request is refused: one name for each reason, and its line in the text protocol. (What has
//! more to say than a line that never changes is told by [`super::Reply`].)

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No such command, or none that does anything here.
    UnknownCommand,
    /// A line of a known command that does not fit its form.
    BadFormat,
    /// delete with more behind the key than a time or noreply.
    BadDelete,
    /// The value is not followed by a line end.
    BadDataChunk,
    /// incr, decr: the amount is no number.
    BadDelta,
    /// gat, gats, touch: the expiry is no number.
    BadExptime,
    /// incr, decr, ma: the value is no number.
    NonNumeric,
    /// The value can never fit.
    TooLarge,
    /// There is no room now.
    OutOfMemory,
    /// A meta command with the same flag twice.
    DuplicateFlag,
    /// A meta command with a flag that there is not.
    InvalidFlag,
    /// ma, whatever is wrong with its flags.
    InvalidOrDuplicateFlag,
    /// A meta command with more flags than there are.
    TooManyFlags,
    /// A meta flag whose argument is not what it must be.
    BadToken,
    /// A key that is no base64 though it says so.
    BadEncodedKey,
    /// J of ma is no number.
    BadInitial,
    /// D of ma is no number.
    BadMetaDelta,
    /// ms knows no such mode.
    BadSetMode,
    /// ma knows no such mode.
    BadArithmeticMode,
    /// O of a meta command.
    OpaqueTooLong,
    /// watch, with -W.
    WatchOff,
    /// watch while enough others do.
    TooManyWatchers,
    /// watch with words that it does not know.
    WatchUnknown,
    /// flush_all: the delay is no number.
    BadFlushDelay,
    /// flush_all, with -F.
    FlushOff,
    /// shutdown, without -A.
    ShutdownOff,
    /// shutdown knows no such mode.
    ShutdownUnknown,
    /// hello with words that it does not know, or over UDP.
    BadHello,
    /// lru_crawler crawl.
    CrawlerOff,
    /// A slab class that memcached has not.
    BadClass,
    /// A dump of no class.
    NothingToCrawl,
    /// A dump while enough of them are under way.
    CrawlerBusy,
    /// A dump that was not gone on with for so long that it had to give way.
    CrawlerLocked,
    /// lru_crawler metadump, with -X.
    MetadumpOff,
    /// lru_crawler mgdump, with -X.
    MgdumpOff,
    /// lru_crawler enable.
    CrawlerDoesNotStart,
    /// lru_crawler sleep.
    CrawlerSleep,
    /// slabs reassign.
    ReassignOff,
    /// slabs automove window.
    AutomoveWindow,
    /// lru tune.
    LruShares,
    /// lru tune.
    LruAges,
    /// stats detail, with -X.
    DetailOff,
    /// stats cachedump, with -X.
    CachedumpOff,
    /// stats cachedump without a class and a number.
    BadCommandLine,
    /// stats cachedump of a slab class that memcached has not.
    BadSlabId,
    /// stats detail with other words than it knows.
    DetailUsage,
    /// cache_memlimit below what a server needs.
    MemoryTooSmall,
    /// cache_memlimit with a number that can only be meant as bytes.
    MemoryInBytes,
    /// cache_memlimit beyond what can be had.
    CannotAdjustMemory,
    /// Whatever a client asks for that is to say first who it is (`-Y`, `-S`).
    Unauthenticated,
    /// An order from elsewhere than the control socket.
    OrdersByControlSocketOnly,
    /// An order from another host.
    OrdersFromThisHostOnly,
    /// A request over UDP in several datagrams.
    DatagramsOfOneRequest,
    /// What a datagram asks for is more than is sent, or done, for one.
    TooMuchForUdp,
    /// What a datagram asks for is answered later.
    UdpDoesNotWait,
    /// A write to a replica that does not know its primary.
    FollowsNobody,
    /// A write whose answer was still held when this server became a replica. Whether the new
    /// primary has it is not known here.
    Demoted,
    /// A read in strong mode at a server that is not the primary, or not for all of the time of the
    /// read.
    ReadElsewhere,
    /// A read in strong mode without a lease.
    NoLeaseToRead,
    /// A write that no replica acknowledges, without a lease, where the policy refuses that.
    NoLeaseToWrite,
}

const ORDERS_BY_CONTROL_SOCKET_ONLY: &[u8] =
    b"CLIENT_ERROR replication orders are taken from the control socket only: \
    use remora ctl on the server's host, as its user or root; or start the server with --orders-from-loopback\r\n";
const ORDERS_FROM_THIS_HOST_ONLY: &[u8] =
    b"CLIENT_ERROR replication orders are taken from this host only: use remora ctl there\r\n";
const READ_ELSEWHERE: &[u8] =
    b"SERVER_ERROR not confirmed: this server is not the primary of what was asked for, or has not been \
    all the while; ask again\r\n";
const NO_LEASE_TO_READ: &[u8] =
    b"SERVER_ERROR no lease: no locator has confirmed of late that this server is the primary, so what it \
    has may be old; ask again, and see that a locator runs\r\n";
const NO_LEASE_TO_WRITE: &[u8] =
    b"SERVER_ERROR no lease: no locator has confirmed of late that this server is the primary, and the \
    policy refuses writes that no replica acknowledges; nothing was done: ask again, see that a locator \
    runs, or ask for an acknowledgement\r\n";

impl Refusal {
    /// Its line in the text protocol without what only that protocol needs.
    pub fn words(self) -> &'static [u8] {
        let line = self.line().trim_ascii_end();
        let kinds = [&b"CLIENT_ERROR "[..], b"SERVER_ERROR "];
        kinds.iter().find_map(|kind| line.strip_prefix(*kind)).unwrap_or(line)
    }

    /// As the text protocol tells it, line end included.
    pub fn line(self) -> &'static [u8] {
        match self {
            Refusal::UnknownCommand | Refusal::WatchUnknown => b"ERROR\r\n",
            Refusal::BadFormat => b"CLIENT_ERROR bad command line format\r\n",
            Refusal::BadDelete => b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n",
            Refusal::BadDataChunk => b"CLIENT_ERROR bad data chunk\r\n",
            Refusal::BadDelta => b"CLIENT_ERROR invalid numeric delta argument\r\n",
            Refusal::BadExptime | Refusal::BadFlushDelay => b"CLIENT_ERROR invalid exptime argument\r\n",
            Refusal::NonNumeric => b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
            Refusal::TooLarge => b"SERVER_ERROR object too large for cache\r\n",
            Refusal::OutOfMemory => b"SERVER_ERROR out of memory storing object\r\n",
            Refusal::DuplicateFlag => b"CLIENT_ERROR duplicate flag\r\n",
            Refusal::InvalidFlag => b"CLIENT_ERROR invalid flag\r\n",
            Refusal::InvalidOrDuplicateFlag => b"CLIENT_ERROR invalid or duplicate flag\r\n",
            Refusal::TooManyFlags => b"CLIENT_ERROR options flags are too long\r\n",
            Refusal::BadToken => b"CLIENT_ERROR bad token in command line format\r\n",
            Refusal::BadEncodedKey => b"CLIENT_ERROR error decoding key\r\n",
            Refusal::BadInitial => b"CLIENT_ERROR invalid numeric initial value\r\n",
            Refusal::BadMetaDelta => b"CLIENT_ERROR invalid numeric delta value\r\n",
            Refusal::BadSetMode => b"CLIENT_ERROR invalid mode for ms M token\r\n",
            Refusal::BadArithmeticMode => b"CLIENT_ERROR invalid mode for ma M token\r\n",
            Refusal::OpaqueTooLong => b"CLIENT_ERROR opaque token too long\r\n",
            Refusal::TooManyWatchers => b"WATCHER_TOO_MANY log watcher limit reached\r\n",
            Refusal::WatchOff => b"CLIENT_ERROR watch commands not allowed\r\n",
            Refusal::FlushOff => b"CLIENT_ERROR flush_all not allowed\r\n",
            Refusal::ShutdownOff => b"SERVER_ERROR: shutdown not enabled\r\n",
            Refusal::ShutdownUnknown => b"CLIENT_ERROR invalid shutdown mode\r\n",
            Refusal::BadHello => {
                b"CLIENT_ERROR hello: say notices, moved, read-from=primary|replica or lag-ms=MILLISECONDS, and not over UDP\r\n"
            }
            Refusal::CrawlerOff => b"CLIENT_ERROR lru crawler disabled\r\n",
            Refusal::BadClass => b"BADCLASS invalid class id\r\n",
            Refusal::NothingToCrawl => b"NOTSTARTED no items to crawl\r\n",
            Refusal::CrawlerBusy => b"BUSY currently processing crawler request\r\n",
            Refusal::CrawlerLocked => b"ERROR locked try again later\r\n",
            Refusal::MetadumpOff => b"ERROR metadump not allowed\r\n",
            Refusal::MgdumpOff => b"ERROR key dump not allowed\r\n",
            Refusal::CrawlerDoesNotStart => b"ERROR failed to start lru crawler thread\r\n",
            Refusal::CrawlerSleep => b"CLIENT_ERROR sleep must be one second or less\r\n",
            Refusal::ReassignOff => b"CLIENT_ERROR slab reassignment disabled\r\n",
            Refusal::AutomoveWindow => b"CLIENT_ERROR automove window too low or too high\r\n",
            Refusal::LruShares => b"ERROR hot and warm pcts must not exceed 80\r\n",
            Refusal::LruAges => b"ERROR hot/warm age factors must be greater than 0\r\n",
            Refusal::DetailOff => b"CLIENT_ERROR stats detail not allowed\r\n",
            Refusal::CachedumpOff => b"CLIENT_ERROR stats cachedump not allowed\r\n",
            Refusal::BadCommandLine => b"CLIENT_ERROR bad command line\r\n",
            Refusal::BadSlabId => b"CLIENT_ERROR Illegal slab id\r\n",
            Refusal::DetailUsage => b"CLIENT_ERROR usage: stats detail on|off|dump\r\n",
            Refusal::MemoryTooSmall => b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n",
            Refusal::MemoryInBytes => b"MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n",
            Refusal::CannotAdjustMemory => b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n",
            Refusal::Unauthenticated => b"CLIENT_ERROR unauthenticated\r\n",
            Refusal::OrdersByControlSocketOnly => ORDERS_BY_CONTROL_SOCKET_ONLY,
            Refusal::OrdersFromThisHostOnly => ORDERS_FROM_THIS_HOST_ONLY,
            Refusal::DatagramsOfOneRequest => b"SERVER_ERROR multi-packet request not supported\r\n",
            Refusal::TooMuchForUdp => b"SERVER_ERROR too much for UDP: ask for less at a time, or over TCP\r\n",
            Refusal::UdpDoesNotWait => b"SERVER_ERROR an answer over UDP does not wait for replicas: ask over TCP\r\n",
            Refusal::FollowsNobody => {
                b"SERVER_ERROR read-only replica that follows nobody: write to the primary, or make this \
                one the primary (remora ctl promote)\r\n"
            }
            Refusal::Demoted => {
                b"SERVER_ERROR not acknowledged: this server became a replica before enough others had \
                it; it may be lost\r\n"
            }
            Refusal::ReadElsewhere => READ_ELSEWHERE,
            Refusal::NoLeaseToRead => NO_LEASE_TO_READ,
            Refusal::NoLeaseToWrite => NO_LEASE_TO_WRITE,
        }
    }
}
