//! Every fixed bound in one place, with its unit in its name and the reason beside it.
//! What an operator may set is in the configuration instead; the defaults are here.

/// Longest key in bytes, after base64 decoding (memcached's own limit, which clients check for
/// themselves).
pub const KEY_BYTES_MAX: usize = 250;

/// Default of `-I`: the largest value plus its key and header, in bytes.
pub const ITEM_BYTES_DEFAULT: usize = 1 << 20;

/// Least and most bytes that `-I` takes, as in memcached. A record must fit into a slab, which is
/// 1 GiB at most.
pub const ITEM_BYTES_MIN: usize = 1 << 10;
/// See [`ITEM_BYTES_MIN`].
pub const ITEM_BYTES_MAX: usize = 1 << 30;

/// Longest command line in bytes, its line end included, for all but multi-gets: memcached closes a
/// connection that has sent more than 2048 bytes without a line end.
pub const LINE_BYTES_MAX: usize = 2049;

/// A get, gets, gat or gats whose line has not ended after so many bytes is executed in parts, as
/// its keys arrive. So its line may be as long as it likes and takes no more memory than this. As
/// large as memcached's read buffer.
pub const GET_PART_BYTES: usize = 16 << 10;

/// Most tokens of a line that are looked at: as memcached's, for which a `noreply` behind them goes
/// unseen.
pub const TOKENS_MAX: u8 = 23;

/// Longest body of a packet of the binary protocol: memcached takes no longer one, whatever -I
/// says.
pub const PACKET_BODY_BYTES_MAX: usize = 1 << 30;

/// What cache_memlimit takes, in MiB, as in memcached.
pub const MEMLIMIT_MEBIBYTES_MIN: u32 = 8;
/// See [`MEMLIMIT_MEBIBYTES_MIN`].
pub const MEMLIMIT_MEBIBYTES_MAX: u32 = 1_000_000_000;

/// What `lru_crawler sleep` takes, as in memcached.
pub const CRAWLER_SLEEP_MICROSECONDS_MAX: u32 = 1_000_000;

/// Longest opaque token of a meta command in bytes (memcached's limit).
pub const OPAQUE_BYTES_MAX: usize = 32;

/// Most tokens on the line of a meta command, the command itself, its key and ms's length counted
/// as in memcached.
pub const META_FLAGS_MAX: usize = 20;

/// A worker's shared read buffer in bytes: one read of a pipelining client, and the largest request
/// that is parsed without a buffer of its connection's own.
pub const READ_BUFFER_BYTES: usize = 64 << 10;

/// Default of `-R`: requests of one connection before the others have their turn; some 50 us of
/// work. memcached's 20 costs a client that pipelines 32 two polls and two writes for each of its
/// batches: 1.3 times the CPU per request, measured.
pub const REQUESTS_PER_TURN_DEFAULT: u32 = 256;

/// Keys that gets of one connection look up before the others have their turn, if `-R` is no more:
/// as many as single gets would. A get with more keys goes on in the next turn.
pub const KEYS_PER_TURN_MAX: u32 = 256;

/// Requests of one connection that are parsed before the first of them is executed, so that their
/// cache misses overlap.
pub const BATCH_REQUESTS_MAX: usize = 16;

/// Connections that are read before the first of them is served, so that their cache misses
/// overlap. More would keep the first client waiting for longer than it gains.
pub const READS_AHEAD_MAX: usize = 8;

/// Keys of a multi-get that are looked up together: about as many cache misses as a core can have
/// under way.
pub const KEYS_AHEAD_MAX: usize = 16;

/// An unfinished request up to this length is moved to the front of the read buffer and parsed
/// there with what follows.
pub const MOVED_BYTES_MAX: usize = READ_BUFFER_BYTES / 4;

/// Most bytes read from one connection in one turn, so that a fast sender of large values does not
/// hold up the others.
pub const READ_BYTES_PER_TURN: usize = 256 << 10;

/// The same while unfinished requests hold more than half of what they may: little comes in, so
/// that much can be finished.
pub const READ_BYTES_WHEN_TIGHT: usize = 4 << 10;

/// Smallest buffer for an unfinished request, in bytes.
pub const INPUT_BUFFER_BYTES_MIN: usize = 512;

/// Least memory in bytes that unfinished requests of all connections may hold; a quarter of -m
/// where that is more. Beyond that, the connections that have made no progress for longest lose
/// theirs. So the bound is this much plus, for each worker, one request of the largest size.
pub const INPUT_BYTES_TOTAL_MIN: usize = 64 << 20;

/// The same for unsent answers. One connection holds at most a full output (256 KiB), one value,
/// and what other servers have answered that stands behind others. All together hold at most this
/// much plus, for each worker, a full output and one value.
pub const OUTPUT_BYTES_TOTAL_MIN: usize = 64 << 20;

/// Spare input buffers that a worker keeps, in number and in bytes together.
pub const INPUT_POOL_BUFFERS_MAX: usize = 64;
/// See [`INPUT_POOL_BUFFERS_MAX`].
pub const INPUT_POOL_BYTES_MAX: usize = 4 << 20;

/// Answers from this size on are lent from the log instead of copied. Measured in benches/; see
/// docs/DECISIONS.md.
pub const LOAN_BYTES_MIN: usize = 16 << 10;

/// Past this many pending bytes no further request of the connection is executed until the socket
/// takes some.
pub const OUTPUT_BYTES_HIGH: usize = 256 << 10;

/// Spare outputs that a worker keeps, and the largest that it keeps in bytes.
pub const OUTPUT_POOL_MAX: usize = 8;
/// See [`OUTPUT_POOL_MAX`].
pub const OUTPUT_POOL_BYTES_MAX: usize = 1 << 20;

/// Connections accepted by a worker in one turn.
pub const ACCEPTS_PER_TURN: usize = 64;

/// Datagrams of one socket that a worker serves in one turn.
pub const DATAGRAMS_PER_TURN: usize = 64;

/// Most turns of a connection that the requests of one datagram are worth: each may look up the
/// keys of one.
pub const DATAGRAM_ROUNDS_MAX: usize = 4;

/// Most requests of one datagram that find no room, and are answered one by one.
pub const DATAGRAM_PARKED_MAX: usize = 16;

/// Most bytes of a datagram that is sent, its header included: as memcached's, less than what fits
/// into an Ethernet frame.
pub const DATAGRAM_BYTES_MAX: usize = 1400;

/// Most bytes of an answer over UDP, its frames not counted. The sender of a datagram may be
/// forged, so this is what a few bytes can have sent to somebody else.
pub const UDP_ANSWER_BYTES_MAX: usize = 64 << 10;

/// How long accepting rests after the system had no descriptor or memory for a connection.
pub const ACCEPT_REST_MILLISECONDS: u64 = 100;

/// Connections of operators beyond `-c`: whoever is to help when all places are taken must get in.
pub const OPERATORS_MAX: u64 = 16;

/// Longest wait for the name of a control socket that is taken: a server that has just ended may
/// not have let go of it yet.
pub const CONTROL_NAME_MILLISECONDS_MAX: u64 = 1000;
/// Pause between two tries of that.
pub const CONTROL_NAME_PAUSE_MILLISECONDS: u64 = 10;

/// Longest look whether a server answers at a unix socket that is there already.
pub const UNIX_LOOK_MILLISECONDS_MAX: u64 = 1000;

/// Longest sleep of a worker: the clock, idle connections and the end of the process are looked at
/// this often.
pub const POLL_MILLISECONDS_MAX: u64 = 1000;

/// A request that found no room waits this long for reclaim, then it is answered with an error.
/// Room comes within a turn or two of every worker, but a virtual machine whose host is busy may
/// keep a worker in the middle of its turn for more than a second (seen), and late is better than
/// an error.
pub const PARK_MILLISECONDS_MAX: u64 = 5000;

/// Where requests are forwarded, a replica answers reads as long as it may be so far behind, in
/// milliseconds; its primary answers them otherwise. Longer than a failover takes, and short enough
/// that whoever was away, or was left out without being told, answers nothing from before.
pub const READ_LAG_MILLISECONDS_MAX: u32 = 10_000;

/// First and longest pause between two tries of a request that found no room. The first try comes
/// without one, in the next turn.
pub const PARK_PAUSE_MICROSECONDS_MIN: u64 = 20;
/// See [`PARK_PAUSE_MICROSECONDS_MIN`].
pub const PARK_PAUSE_MICROSECONDS_MAX: u64 = 1000;

/// A connection that holds unsent answers and takes none of them is closed after this, whatever -o
/// idle_timeout says: its memory is needed by others.
pub const WRITE_STALL_SECONDS_MAX: u32 = 60;

/// How long, and for how many bytes, a refused connection is read and ignored before it is closed:
/// closing earlier would make the kernel reset it, and the client would lose the answer that says
/// why.
pub const LINGER_SECONDS_MAX: u32 = 2;
/// See [`LINGER_SECONDS_MAX`].
pub const LINGER_BYTES_MAX: u64 = 16 << 20;

/// Clients that watch at a time, as in memcached: each entry is made a line of and offered to each
/// of them.
pub const WATCHERS_MAX: usize = 20;

/// Pause between two looks at what is to be told to watchers, while there is something: a ring of
/// the default size lasts for 150,000 entries a second.
pub const WATCH_PAUSE_MILLISECONDS_MIN: u64 = 1;

/// The same while there is nothing, for longer and longer. A ring that is half full ends it.
pub const WATCH_PAUSE_MILLISECONDS_MAX: u64 = 64;

/// Dumps under way at a time, of all connections: each takes some 40 bytes and a part of each turn.
pub const DUMPS_MAX: usize = 16;

/// A dump that nobody has gone on with for so long gives way to a new one: a connection that takes
/// nothing for as long is closed.
pub const DUMP_IDLE_SECONDS: u32 = WRITE_STALL_SECONDS_MAX;

/// How long a client may take for the handshake of TLS: three round trips around the world and a
/// slow host take less, and whoever takes longer holds a place that others need.
pub const HANDSHAKE_SECONDS_MAX: u32 = 10;

/// Connections in their handshake that a worker serves in one turn: each may take a signature of
/// the private key, some hundred microseconds, and the turn's other clients wait for them.
pub const HANDSHAKES_PER_TURN: usize = 8;

/// At the end, how long connections may take for what is still to be sent to them.
pub const STOP_MILLISECONDS_MAX: u64 = 2000;

/// Most replicas that an answer may wait for: a primary has no more of them.
pub const ACK_REPLICAS_MAX: u8 = 32;

/// Longest time in milliseconds that an answer may wait for replicas, so that no client hangs for
/// good.
pub const ACK_MILLISECONDS_MAX: u32 = 60_000;

/// Default of `--ack-timeout`: far beyond what a replica needs that is well, and short enough for a
/// client to do something else.
pub const ACK_MILLISECONDS_DEFAULT: u64 = 1000;

/// Answers of one connection that may wait for replicas at a time; nothing more of it is executed
/// until some are out. A client that pipelines a thousand requests is not slowed down, and what
/// they take is some 100 KiB.
pub const HELD_ANSWERS_MAX: usize = 1024;

/// Servers from which links are taken, each with as many as it has workers: so many for each worker
/// here, since servers of a kind have as many of these.
pub const FORWARD_LINKS_PER_WORKER: u64 = 4 * 64;

/// Forwarded requests of one link. At the owner, those that wait, for replicas or for room: nothing
/// more is read of it until some are answered. At the forwarder, those that are not answered: a
/// further one waits. As [`HELD_ANSWERS_MAX`].
pub const FORWARD_FRAMES_MAX: usize = 1024;

/// Bytes of one link's requests that may wait for room, and of its answers that may wait for
/// replicas, beyond which nothing more is begun. One request may come on top.
pub const FORWARD_BYTES_MAX: usize = 4 << 20;

/// First and longest sleep of a worker between two looks at what replicas have applied, while
/// answers wait for that: about how soon a replica on the same host can have it, and what costs a
/// core next to nothing.
pub const ACK_PAUSE_MICROSECONDS_MIN: u64 = 20;
/// See [`ACK_PAUSE_MICROSECONDS_MIN`].
pub const ACK_PAUSE_MICROSECONDS_MAX: u64 = 200;

/// Bytes of requests that a forwarder may have under way by one link, but that a single request may
/// be larger. They are kept until they are answered, to be sent once more where that does no harm.
pub const FORWARD_SENT_BYTES_MAX: usize = 8 << 20;

/// Servers to which one worker has links at a time.
pub const FORWARD_OWNERS_MAX: usize = 64;

/// Threads of the process that connect links at a time.
pub const FORWARD_CONNECTS_MAX: usize = 16;

/// Longest wait for the answer to a forwarded request: as long as a request waits for room.
pub const FORWARD_MILLISECONDS_MAX: u64 = PARK_MILLISECONDS_MAX;

/// Of that, how much is left for the way back: the owner is asked for an answer within the rest.
pub const FORWARD_MARGIN_MILLISECONDS: u64 = 250;

/// How long a request waits whose owner says that it is not the primary, for another one to be
/// known: a hand-over takes less.
pub const FORWARD_NOT_MINE_MILLISECONDS_MAX: u64 = 1000;

/// Pause between two looks at requests that wait for that, and at those that have waited too long.
pub const FORWARD_LOOK_MILLISECONDS: u64 = 5;

/// First and longest pause before a link that has failed is connected again.
pub const FORWARD_PAUSE_MILLISECONDS_MIN: u64 = 20;
/// See [`FORWARD_PAUSE_MILLISECONDS_MIN`].
pub const FORWARD_PAUSE_MILLISECONDS_MAX: u64 = 500;

/// At the end, how much of the time of [`STOP_MILLISECONDS_MAX`] is left to send what can be waited
/// for no longer.
pub const STOP_SENDING_MILLISECONDS: u64 = 500;

/// Files that the process needs beside its connections: listeners, epoll sets, slabs, logs.
pub const OTHER_FILES_MAX: u64 = 256;
/// The same for each worker: a listener for each address, an epoll set, what wakes it.
pub const OTHER_FILES_PER_WORKER: u64 = 8;

/// Most workers; a typing error in -t must not start a million threads.
pub const WORKERS_MAX: usize = 1024;

/// Longest answer in bytes that the load generator takes: a value far beyond its own, or all of
/// `stats`.
pub const LOAD_ANSWER_BYTES_MAX: usize = 4 << 20;

/// Longest wait of the load generator for any progress on a connection.
pub const LOAD_WAIT_SECONDS_MAX: u64 = 10;

/// Longest line in bytes that the load generator takes for an answer: no answer to what it asks is
/// half as long.
pub const LOAD_LINE_BYTES_MAX: usize = 1024;

/// Requests in bytes that one connection of `remora load` gathers before it waits for the socket to
/// take them.
pub const LOAD_OUTPUT_BYTES_MAX: usize = 256 << 10;

/// Connections of `remora load` served between two looks at its clock: a look costs as much as a
/// tenth of a request at most, and what it shows is late by the time that eight take.
pub const LOAD_SERVED_PER_CLOCK: usize = 8;

/// Longest sleep of a thread of `remora load`: the end of the run and silent servers are looked for
/// this often.
pub const LOAD_TICK_MILLISECONDS: u64 = 50;

/// Connections and threads of `remora load`; a typing error must not open a million.
pub const LOAD_CONNECTIONS_MAX: u32 = 60_000;
/// See [`LOAD_CONNECTIONS_MAX`].
pub const LOAD_THREADS_MAX: u32 = 256;

/// Commands that one connection of `remora load` may have under way, and keys of one multi-get.
pub const LOAD_DEPTH_MAX: u32 = 4096;

/// Lengths with weights that `remora load` mixes: they are looked through one by one for each
/// value.
pub const LOAD_LENGTHS_MAX: usize = 64;

/// Seconds that `remora load` keeps one by one for its report: a day. Later ones count in the sums
/// alone.
pub const LOAD_INTERVALS_MAX: usize = 86_400;

/// Points of a chart in the report of `remora load`: three pixels each on a wide page.
pub const LOAD_REPORT_INTERVALS_MAX: usize = 300;

/// Requests that a session of the load generator has under way.
pub const LOAD_PIPELINE_MAX: usize = 16;

const _: () = assert!(INPUT_BUFFER_BYTES_MIN <= READ_BUFFER_BYTES && READ_BUFFER_BYTES <= READ_BYTES_PER_TURN);
const _: () = assert!(READ_BYTES_PER_TURN < INPUT_BYTES_TOTAL_MIN);

/// Longest value in bytes that incr and decr look at: 20 digits, and room for blanks.
pub const NUMBER_TEXT_BYTES_MAX: usize = 64;

/// Most key prefixes that `stats detail` counts; what comes later is not counted. About 1.5 MiB at
/// worst.
pub const STATS_PREFIXES_MAX: usize = 4096;

const _: () = assert!(KEY_BYTES_MAX < LINE_BYTES_MAX && LINE_BYTES_MAX < GET_PART_BYTES);
const _: () = assert!(GET_PART_BYTES <= MOVED_BYTES_MAX, "an unfinished line is moved, not read behind");
const _: () = assert!(STOP_SENDING_MILLISECONDS < STOP_MILLISECONDS_MAX);
const _: () = assert!(FORWARD_MILLISECONDS_MAX <= u16::MAX as u64);
