//! The table of directives, and [`Config`], which is made from it.
//!
//! An entry of the first table declares a field of [`Config`]; an entry of the second is only kept as text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::kind::*;
use super::values::*;
use crate::log::Level;
use crate::notify::Classes;
use crate::replication::ReplicationId;

/// One directive, whatever the type of its value.
pub(super) struct Directive {
    /// The first is the name; others are its aliases.
    pub(super) names: &'static [&'static str],
    pub(super) change: Change,
    /// Its value is shown to nobody who did not ask for it by `CONFIG GET`: not in errors, not in the log.
    pub(super) sensitive: bool,
    pub(super) several_words: bool,
    store: Store,
}

/// When a directive may be changed by `CONFIG SET`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// At any time.
    Live,
    /// Never: it is read at the start.
    AtStart,
    /// If `enable-protected-configs` allows it, since it lets a client write files where it likes.
    Protected,
}
use Change::{AtStart, Live, Protected};

enum Store {
    Field { update: fn(&mut Config, &[Vec<u8>]) -> Result<(), String>, print: fn(&Config) -> Vec<u8> },
    Kept { check: Check, default: &'static str },
}

impl Directive {
    /// The directive of this name or alias, in any case.
    pub(super) fn named(name: &[u8]) -> Option<&'static Directive> {
        Directive::all().find(|directive| directive.names.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(name)))
    }

    pub(super) fn all() -> impl Iterator<Item = &'static Directive> {
        FIELDS.iter().chain(KEPT)
    }

    pub(super) fn name(&self) -> &'static str {
        self.names[0]
    }

    /// Changes the configuration as the words after the directive's name say.
    pub(super) fn update(&self, config: &mut Config, words: &[Vec<u8>]) -> Result<(), String> {
        let split: Vec<Vec<u8>>;
        let words = match words {
            [one] if self.several_words && one.contains(&b' ') => {
                split = one.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect();
                split.as_slice()
            }
            words => words,
        };
        // Without any, `save` says that there are no save points, and these two say which words they know.
        let is_told = ["save", "shutdown-on-sigint", "shutdown-on-sigterm"].contains(&self.name());
        let too_few = words.is_empty() && !is_told;
        if too_few || words.len() > 1 && !self.several_words {
            return Err("wrong number of arguments".into());
        }
        match &self.store {
            Store::Field { update, .. } => update(config, words),
            Store::Kept { check, .. } => {
                config.kept.insert(self.name(), check.normalize(words)?);
                Ok(())
            }
        }
    }

    /// The present value as `CONFIG GET` shows it.
    pub(super) fn print(&self, config: &Config) -> Vec<u8> {
        match &self.store {
            Store::Field { print, .. } => print(config),
            Store::Kept { default, .. } => {
                config.kept.get(self.name()).cloned().unwrap_or_else(|| default.as_bytes().to_vec())
            }
        }
    }
}

macro_rules! directives {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $default:expr, [$($name:literal),+], $kind:expr, $change:expr;)+) => {
        /// What the server is configured to do: a field per directive that has an effect, named after it.
        ///
        /// Relative paths are relative to [`dir`](Config::dir).
        #[derive(Debug, Clone)]
        pub struct Config {
            $($(#[$doc])* pub $field: $type,)+
            /// Values of directives without a field, where they were given.
            kept: BTreeMap<&'static str, Vec<u8>>,
            /// The lines that make users, each `user NAME rule…`.
            pub users: Vec<Vec<u8>>,
            pub(super) file: Option<PathBuf>,
        }

        impl Default for Config {
            fn default() -> Config {
                Config { $($field: $default,)+ kept: BTreeMap::new(), users: Vec::new(), file: None }
            }
        }

        static FIELDS: &[Directive] = &[$(Directive {
            names: &[$($name),+],
            change: $change,
            sensitive: sensitive(&$kind, |config| &config.$field),
            several_words: several_words(&$kind, |config| &config.$field),
            store: Store::Field {
                update: |config, words| $kind.update(&mut config.$field, words),
                print: |config| $kind.print(&config.$field),
            },
        },)+];
    };
}

/// [`Kind::SEVERAL_WORDS`] of a field's kind; the accessor only tells the compiler the field's type.
const fn several_words<T, K: Kind<T>>(_: &K, _: fn(&Config) -> &T) -> bool {
    K::SEVERAL_WORDS
}

/// [`Kind::SENSITIVE`], likewise.
const fn sensitive<T, K: Kind<T>>(_: &K, _: fn(&Config) -> &T) -> bool {
    K::SENSITIVE
}

const MAX_I32: i64 = i32::MAX as i64;
const MAX_MEMORY: u64 = i64::MAX as u64;

directives! {
    // The network.
    /// The TCP port listened on; 0 for none.
    port: u16 = 6379, ["port"], Integer(0, 65535), Live;
    /// The addresses listened on; none for no TCP at all. Unlike Redis, only the loopback ones unless told otherwise.
    bind: Vec<BindAddress> = loopback(), ["bind"], BindAddresses, Live;
    /// The address that the link to the master comes from; any without one.
    bind_source_addr: Option<String> = None, ["bind-source-addr"], Text, Live;
    /// The length of the queue of connections that are not accepted yet.
    tcp_backlog: u32 = 511, ["tcp-backlog"], Integer(0, MAX_I32), AtStart;
    /// A Unix socket to listen on.
    unixsocket: Option<PathBuf> = None, ["unixsocket"], OptionalPath, AtStart;
    /// The Unix socket's permission bits; 0 leaves them as the umask made them.
    unixsocketperm: u32 = 0, ["unixsocketperm"], Octal(0o777), AtStart;
    /// Refuse clients from other machines while there is no password.
    protected_mode: bool = true, ["protected-mode"], YesNo, Live;
    /// Close a client's connection when it was idle for so long; zero: never.
    timeout: Duration = Duration::ZERO, ["timeout"], Seconds(0, MAX_I32), Live;
    /// Probe silent connections after so long; zero: never.
    tcp_keepalive: Duration = Duration::from_secs(300), ["tcp-keepalive"], Seconds(0, MAX_I32), Live;
    /// How many clients may be connected at once, replicas included.
    maxclients: u32 = 10_000, ["maxclients"], Integer(1, u32::MAX as i64), Live;
    /// How much unparsed input one client may pile up, in bytes.
    client_query_buffer_limit: u64 = 1 << 30, ["client-query-buffer-limit"], Memory(1 << 20, MAX_MEMORY), Live;
    /// How much unsent output clients may pile up.
    client_output_buffer_limit: OutputLimits = output_limits(), ["client-output-buffer-limit"], OutputLimitClasses, Live;
    /// The longest argument of a request, in bytes.
    proto_max_bulk_len: u64 = 512 << 20, ["proto-max-bulk-len"], Memory(1 << 20, MAX_MEMORY), Live;

    // The process.
    /// How many databases there are to `SELECT`.
    databases: u32 = 16, ["databases"], Integer(1, MAX_I32), AtStart;
    /// The data directory; absolute once loaded.
    dir: PathBuf = PathBuf::from("."), ["dir"], Directory, Protected;
    /// The log file; standard output without one.
    logfile: Option<PathBuf> = None, ["logfile"], OptionalPath, AtStart;
    /// The least important lines that are logged.
    loglevel: Level = Level::Notice, ["loglevel"], Choice(LEVELS), Live;
    /// A file that holds the process's id while it runs.
    pidfile: Option<PathBuf> = None, ["pidfile"], OptionalPath, AtStart;
    /// Periodic work per second.
    hz: u32 = 10, ["hz"], Integer(0, MAX_I32), Live;
    /// How long a shutdown waits for replicas that lag.
    shutdown_timeout: Duration = Duration::from_secs(10), ["shutdown-timeout"], Seconds(0, MAX_I32), Live;
    /// What SIGINT does.
    shutdown_on_sigint: ShutdownOptions = ShutdownOptions::default(), ["shutdown-on-sigint"], ShutdownFlags, Live;
    /// What SIGTERM does.
    shutdown_on_sigterm: ShutdownOptions = ShutdownOptions::default(), ["shutdown-on-sigterm"], ShutdownFlags, Live;

    /// Tell the kernel how willingly it shall end this process when memory runs out.
    oom_score_adj: OomScoreAdj = OomScoreAdj::No, ["oom-score-adj"], Choice(OOM_SCORES), Live;
    /// That score: of a master, of a replica, and of a process that saves, which there is none of.
    oom_score_adj_values: [i32; 3] = [0, 200, 800], ["oom-score-adj-values"], OomScores, Live;
    /// Let the kernel give this process no huge pages.
    disable_thp: bool = true, ["disable-thp"], YesNo, AtStart;

    // Who may do what.
    /// The password that clients must give.
    requirepass: Option<Secret> = None, ["requirepass"], Password, Live;
    /// The password given to the master.
    masterauth: Option<Secret> = None, ["masterauth"], Password, Live;
    /// The user name given to the master with the password.
    masteruser: Option<String> = None, ["masteruser"], Text, Live;
    /// The file that holds the users.
    aclfile: Option<PathBuf> = None, ["aclfile"], OptionalPath, AtStart;
    /// New users may use all channels.
    acl_pubsub_default: bool = false, ["acl-pubsub-default"], Choice(CHANNELS), Live;
    /// So many refusals are kept.
    acllog_max_len: usize = 128, ["acllog-max-len"], Integer(0, i64::MAX), Live;
    /// Who may change protected directives, such as `dir`.
    enable_protected_configs: Allowed = Allowed::No, ["enable-protected-configs"], Choice(ALLOWED), AtStart;
    /// Who may use `DEBUG`.
    enable_debug_command: Allowed = Allowed::No, ["enable-debug-command"], Choice(ALLOWED), AtStart;

    /// Data and clients' buffers may take so many bytes; 0: no limit.
    maxmemory: u64 = 0, ["maxmemory"], Memory(0, MAX_MEMORY), Live;
    /// Clients may take so many of them together.
    maxmemory_clients: ClientMemory = ClientMemory::Bytes(0), ["maxmemory-clients"], BytesOrPercent, Live;
    /// What goes when they would take more.
    maxmemory_policy: MemoryPolicy = MemoryPolicy::NoEviction, ["maxmemory-policy"], Choice(MEMORY_POLICIES), Live;
    /// So many keys are drawn to find one that goes.
    maxmemory_samples: u32 = 5, ["maxmemory-samples"], Integer(1, MAX_I32), Live;
    /// How slowly the counter of a key's uses grows.
    lfu_log_factor: u32 = 10, ["lfu-log-factor"], Integer(0, MAX_I32), Live;
    /// Minutes after which it loses one; 0: never.
    lfu_decay_time: u32 = 1, ["lfu-decay-time"], Integer(0, MAX_I32), Live;
    /// Tell replicas to free what is evicted in the background; here that is a matter of its size alone.
    lazyfree_lazy_eviction: bool = false, ["lazyfree-lazy-eviction"], YesNo, Live;
    /// Let that limit be the upstream's affair on a replica.
    replica_ignore_maxmemory: bool = true, ["replica-ignore-maxmemory", "slave-ignore-maxmemory"], YesNo, Live;

    /// A HyperLogLog of up to so many bytes keeps runs of registers instead of each.
    hll_sparse_max_bytes: u64 = 3000, ["hll-sparse-max-bytes"], Memory(0, MAX_MEMORY), Live;

    /// What is published of what happens to keys.
    notify_keyspace_events: Classes = Classes::NONE, ["notify-keyspace-events"], EventClasses, Live;

    // Snapshots.
    /// When a snapshot is made by itself; never if empty.
    save: Vec<SavePoint> = save_points(), ["save"], SavePoints, Live;
    /// The snapshot's name in [`dir`](Config::dir).
    dbfilename: String = "dump.rdb".into(), ["dbfilename"], FileName, Protected;
    /// Refuse writes while the last snapshot failed.
    stop_writes_on_bgsave_error: bool = true, ["stop-writes-on-bgsave-error"], YesNo, Live;
    /// Compress strings in snapshots.
    rdbcompression: bool = true, ["rdbcompression"], YesNo, Live;
    /// The newest version of images that a replica reads which does not tell its own.
    rdb_version: u32 = 12, ["rdb-version"], Integer(9, 12), Live;
    /// Write and verify a snapshot's checksum.
    rdbchecksum: bool = true, ["rdbchecksum"], YesNo, AtStart;
    /// Pause after each key of a snapshot, in microseconds; below zero, one microsecond every so many keys. For tests.
    rdb_key_save_delay: i32 = 0, ["rdb-key-save-delay"], Integer(i32::MIN as i64, MAX_I32), Live;
    /// The same for each key of a load.
    key_load_delay: i32 = 0, ["key-load-delay"], Integer(i32::MIN as i64, MAX_I32), Live;

    // The append-only file.
    /// Keep every write in an append-only file, and load that at the start.
    appendonly: bool = false, ["appendonly"], YesNo, Live;
    /// The name that those of all its parts begin with, in [`appenddirname`](Config::appenddirname).
    appendfilename: String = "appendonly.aof".into(), ["appendfilename"], FileName, AtStart;
    /// Its directory, in [`dir`](Config::dir).
    appenddirname: String = "appendonlydir".into(), ["appenddirname"], FileName, AtStart;
    /// When what was written to it is forced onto the disk.
    appendfsync: Fsync = Fsync::EverySecond, ["appendfsync"], Choice(FSYNC), Live;
    /// Not while it is rewritten.
    no_appendfsync_on_rewrite: bool = false, ["no-appendfsync-on-rewrite"], YesNo, Live;
    /// Rewrite it when it has grown by so many percent since the last time; 0: never by itself.
    auto_aof_rewrite_percentage: u32 = 100, ["auto-aof-rewrite-percentage"], Integer(0, MAX_I32), Live;
    /// Nor before it has so many bytes.
    auto_aof_rewrite_min_size: u64 = 64 << 20, ["auto-aof-rewrite-min-size"], Memory(0, MAX_MEMORY), Live;
    /// Cut off a last request that is not whole, and start; otherwise refuse to start.
    aof_load_truncated: bool = true, ["aof-load-truncated"], YesNo, Live;
    /// Write its base as an image, and not as requests.
    aof_use_rdb_preamble: bool = true, ["aof-use-rdb-preamble"], YesNo, Live;
    /// Note the time in it, each second in which something is written.
    aof_timestamp_enabled: bool = false, ["aof-timestamp-enabled"], YesNo, Live;
    /// Keep parts that a rewrite has made superfluous. For tests.
    aof_disable_auto_gc: bool = false, ["aof-disable-auto-gc"], YesNo, Live;

    // Replication.
    /// The master to replicate; `None` on a master. `REPLICAOF` keeps it up to date, for `CONFIG REWRITE`.
    replicaof: Option<Upstream> = None, ["replicaof", "slaveof"], MasterAddress, Live;
    /// Answer from the old data while there is no link to the master.
    replica_serve_stale_data: bool = true, ["replica-serve-stale-data", "slave-serve-stale-data"], YesNo, Live;
    /// Refuse writes on a replica.
    replica_read_only: bool = true, ["replica-read-only", "slave-read-only"], YesNo, Live;
    /// Send full resynchronizations without a file of their own.
    repl_diskless_sync: bool = true, ["repl-diskless-sync"], YesNo, Live;
    /// Wait so long for more replicas before a diskless full resynchronization starts. Unlike Redis (5 s) not at all unless
    /// told: who comes while a snapshot is sent gets the next one, and making one costs no fork.
    repl_diskless_sync_delay: Duration = Duration::ZERO, ["repl-diskless-sync-delay"], Seconds(0, MAX_I32), Live;
    /// Wait no longer when so many replicas wait; 0: no such number.
    repl_diskless_sync_max_replicas: u32 = 0, ["repl-diskless-sync-max-replicas"], Integer(0, MAX_I32), Live;
    /// How a full resynchronization is loaded.
    repl_diskless_load: DisklessLoad = DisklessLoad::Disabled, ["repl-diskless-load"], Choice(DISKLESS_LOAD), Live;
    /// How often a master sends `PING` down an idle stream.
    repl_ping_replica_period: Duration = Duration::from_secs(10), ["repl-ping-replica-period", "repl-ping-slave-period"], Seconds(1, MAX_I32), Live;
    /// Give a link up when nothing came for so long.
    repl_timeout: Duration = Duration::from_secs(60), ["repl-timeout"], Seconds(1, MAX_I32), Live;
    /// How much of the stream is kept for partial resynchronizations, in bytes.
    repl_backlog_size: u64 = 1 << 20, ["repl-backlog-size"], Memory(1, MAX_MEMORY), Live;
    /// How long it is kept when there is no replica; zero: for ever.
    repl_backlog_ttl: Duration = Duration::from_secs(3600), ["repl-backlog-ttl"], Seconds(0, MAX_I32), Live;
    /// Lower ones are promoted first, 0 never.
    replica_priority: u32 = 100, ["replica-priority", "slave-priority"], Integer(0, MAX_I32), Live;
    /// The address told to the master instead of the one it sees.
    replica_announce_ip: Option<String> = None, ["replica-announce-ip", "slave-announce-ip"], Text, Live;
    /// The port told to the master instead of the one listened on; 0: that one.
    replica_announce_port: u16 = 0, ["replica-announce-port", "slave-announce-port"], Integer(0, 65535), Live;
    /// Let the kernel gather the stream to replicas in larger packets, at the price of up to 40 ms.
    repl_disable_tcp_nodelay: bool = false, ["repl-disable-tcp-nodelay"], YesNo, Live;
    /// Refuse a full resynchronization from an unexpected master that would leave less than half of the keys.
    replica_full_sync_guard: bool = false, ["replica-full-sync-guard"], YesNo, Live;
    /// A history that the master must have: one that cannot name it is sent no password.
    replica_expect_master_id: Option<ReplicationId> = None, ["replica-expect-master-id"], OptionalId, Live;
    /// Whether Sentinel shall know this replica.
    replica_announced: bool = true, ["replica-announced"], YesNo, Live;
    /// A master refuses writes with fewer good replicas than this; 0: never.
    min_replicas_to_write: u32 = 0, ["min-replicas-to-write", "min-slaves-to-write"], Integer(0, MAX_I32), Live;
    /// A replica is good if it acknowledged within so long; zero: all are.
    min_replicas_max_lag: Duration = Duration::from_secs(10), ["min-replicas-max-lag", "min-slaves-max-lag"], Seconds(0, MAX_I32), Live;
    // What is told.
    /// Commands that take longer are kept, in microseconds; below zero, none is.
    slowlog_log_slower_than: i64 = 10_000, ["slowlog-log-slower-than"], Integer(-1, i64::MAX), Live;
    /// So many of them are kept.
    slowlog_max_len: usize = 128, ["slowlog-max-len"], Integer(0, i64::MAX), Live;
    /// Delays of so many milliseconds are noted; 0: none are.
    latency_monitor_threshold: u64 = 0, ["latency-monitor-threshold"], Integer(0, i64::MAX), Live;
    /// Note how long each command takes.
    latency_tracking: bool = true, ["latency-tracking"], YesNo, Live;
    /// The percentiles of these times that `INFO` shows.
    latency_tracking_info_percentiles: Vec<f64> = vec![50.0, 99.0, 99.9], ["latency-tracking-info-percentiles"], Percentiles, Live;
    /// Remember so many keys that clients have read and want to hear of; 0: any number.
    tracking_table_max_keys: usize = 1_000_000, ["tracking-table-max-keys"], Integer(0, i64::MAX), Live;
    // The data.
    /// A block of a stream that has so many bytes takes no more; 0: any amount.
    stream_node_max_bytes: u64 = 4096, ["stream-node-max-bytes"], Memory(0, MAX_MEMORY), Live;
    /// The same for so many entries.
    stream_node_max_entries: usize = 100, ["stream-node-max-entries"], Integer(0, i64::MAX), Live;
    /// A hash with more fields is a table.
    hash_max_listpack_entries: usize = 512, ["hash-max-listpack-entries", "hash-max-ziplist-entries"], Integer(0, i64::MAX), Live;
    /// A hash with a longer field or value is a table; in bytes.
    hash_max_listpack_value: u64 = 64, ["hash-max-listpack-value", "hash-max-ziplist-value"], Memory(0, MAX_MEMORY), Live;
    /// A set of more integers is a table.
    set_max_intset_entries: usize = 512, ["set-max-intset-entries"], Integer(0, i64::MAX), Live;
    /// So many members are kept in a sorted set's small form, ...
    zset_max_listpack_entries: usize = 128, ["zset-max-listpack-entries", "zset-max-ziplist-entries"], Integer(0, i64::MAX), Live;
    /// ... each of so many bytes.
    zset_max_listpack_value: u64 = 64, ["zset-max-listpack-value", "zset-max-ziplist-value"], Memory(0, MAX_MEMORY), Live;
}

const fn kept(names: &'static [&'static str], check: Check, default: &'static str, change: Change) -> Directive {
    Directive { names, change, sensitive: false, several_words: false, store: Store::Kept { check, default } }
}

static KEPT: &[Directive] = &[
    kept(
        &["daemonize"],
        Check::Only(
            &Check::YesNo,
            "no",
            "repld stays in the foreground: let a service manager or replctl put it in the background",
        ),
        "no",
        AtStart,
    ),
    kept(&["supervised"], Check::OneOf(&["no", "auto"]), "no", AtStart),
    kept(
        &["syslog-enabled"],
        Check::Only(&Check::YesNo, "no", "repld logs to standard output or to 'logfile'"),
        "no",
        AtStart,
    ),
    kept(&["syslog-ident"], Check::Text, "redis", AtStart),
    kept(&["syslog-facility"], Check::Text, "local0", AtStart),
    kept(
        &["io-threads"],
        Check::Only(&Check::Integer(1, 128), "1", "repld serves all clients from one thread"),
        "1",
        AtStart,
    ),
    kept(&["io-threads-do-reads"], Check::YesNo, "no", AtStart),
    kept(&["cluster-enabled"], Check::Only(&Check::YesNo, "no", "repld is no cluster node"), "no", AtStart),
    kept(&["tls-port"], Check::Only(&Check::Integer(0, 65535), "0", "repld speaks no TLS"), "0", AtStart),
    kept(&["tls-replication"], Check::Only(&Check::YesNo, "no", "repld speaks no TLS"), "no", Live),
    kept(&["activedefrag"], Check::Only(&Check::YesNo, "no", "repld's allocator needs no defragmentation"), "no", Live),
    kept(&["watchdog-period"], Check::Integer(0, MAX_I32), "0", Live),
    kept(&["loading-process-events-interval-bytes"], Check::Memory, "2097152", Live),
    kept(&["always-show-logo"], Check::YesNo, "no", AtStart),
    kept(&["set-proc-title"], Check::YesNo, "yes", AtStart),
    kept(&["proc-title-template"], Check::Text, "{title} {listen-addr} {server-mode}", Live),
    kept(&["crash-log-enabled"], Check::YesNo, "yes", Live),
    kept(&["crash-memcheck-enabled"], Check::YesNo, "yes", Live),
    kept(&["use-exit-on-panic"], Check::YesNo, "no", Live),
    kept(&["dynamic-hz"], Check::YesNo, "yes", Live),
    kept(&["activerehashing"], Check::YesNo, "yes", Live),
    kept(&["active-expire-effort"], Check::Integer(1, 10), "1", Live),
    kept(&["jemalloc-bg-thread"], Check::YesNo, "yes", Live),
    kept(&["rdb-save-incremental-fsync"], Check::YesNo, "yes", Live),
    kept(&["aof-rewrite-incremental-fsync"], Check::YesNo, "yes", Live),
    kept(&["rdb-del-sync-files"], Check::YesNo, "no", Live),
    kept(&["sanitize-dump-payload"], Check::OneOf(&["no", "yes", "clients"]), "no", Live),
    kept(&["propagation-error-behavior"], Check::OneOf(&["ignore", "panic", "panic-on-replicas"]), "ignore", Live),
    kept(&["replica-ignore-disk-write-errors"], Check::YesNo, "no", Live),
    kept(&["replica-lazy-flush", "slave-lazy-flush"], Check::YesNo, "no", Live),
    kept(&["enable-module-command"], Check::OneOf(&["no", "yes", "local"]), "no", AtStart),
    kept(&["lua-time-limit", "busy-reply-threshold"], Check::Integer(0, i64::MAX), "5000", Live),
    kept(&["maxmemory-eviction-tenacity"], Check::Integer(0, 100), "10", Live),
    kept(&["lazyfree-lazy-user-flush"], Check::YesNo, "no", Live),
    kept(&["lazyfree-lazy-expire"], Check::YesNo, "no", Live),
    kept(&["lazyfree-lazy-server-del"], Check::YesNo, "no", Live),
    kept(&["lazyfree-lazy-user-del"], Check::YesNo, "no", Live),
    kept(&["active-defrag-ignore-bytes"], Check::Memory, "104857600", Live),
    kept(&["active-defrag-threshold-lower"], Check::Integer(0, 1000), "10", Live),
    kept(&["active-defrag-threshold-upper"], Check::Integer(0, 1000), "100", Live),
    kept(&["active-defrag-cycle-min"], Check::Integer(1, 99), "1", Live),
    kept(&["active-defrag-cycle-max"], Check::Integer(1, 99), "25", Live),
    kept(&["active-defrag-max-scan-fields"], Check::Integer(1, i64::MAX), "1000", Live),
    kept(&["list-max-listpack-size", "list-max-ziplist-size"], Check::Integer(i32::MIN as i64, MAX_I32), "-2", Live),
    kept(&["list-compress-depth"], Check::Integer(0, MAX_I32), "0", Live),
    kept(&["server_cpulist"], Check::Text, "", AtStart),
    kept(&["bio_cpulist"], Check::Text, "", AtStart),
    kept(&["bgsave_cpulist"], Check::Text, "", AtStart),
    kept(&["aof_rewrite_cpulist"], Check::Text, "", AtStart),
];

const LEVELS: &[(&str, Level)] =
    &[("debug", Level::Debug), ("verbose", Level::Verbose), ("notice", Level::Notice), ("warning", Level::Warning)];

const ALLOWED: &[(&str, Allowed)] = &[("no", Allowed::No), ("yes", Allowed::Yes), ("local", Allowed::Local)];

const FSYNC: &[(&str, Fsync)] = &[("everysec", Fsync::EverySecond), ("always", Fsync::Always), ("no", Fsync::Never)];
const CHANNELS: &[(&str, bool)] = &[("allchannels", true), ("resetchannels", false)];

/// `yes` is the old name of `relative`.
const OOM_SCORES: &[(&str, OomScoreAdj)] = &[
    ("no", OomScoreAdj::No),
    ("yes", OomScoreAdj::Relative),
    ("relative", OomScoreAdj::Relative),
    ("absolute", OomScoreAdj::Absolute),
];

const DISKLESS_LOAD: &[(&str, DisklessLoad)] =
    &[("disabled", DisklessLoad::Disabled), ("on-empty-db", DisklessLoad::OnEmptyDb), ("swapdb", DisklessLoad::SwapDb)];

const MEMORY_POLICIES: &[(&str, MemoryPolicy)] = &[
    ("volatile-lru", MemoryPolicy::Volatile(Order::Lru)),
    ("volatile-lfu", MemoryPolicy::Volatile(Order::Lfu)),
    ("volatile-random", MemoryPolicy::Volatile(Order::Random)),
    ("volatile-ttl", MemoryPolicy::Volatile(Order::Ttl)),
    ("allkeys-lru", MemoryPolicy::AllKeys(Order::Lru)),
    ("allkeys-lfu", MemoryPolicy::AllKeys(Order::Lfu)),
    ("allkeys-random", MemoryPolicy::AllKeys(Order::Random)),
    ("noeviction", MemoryPolicy::NoEviction),
];

fn loopback() -> Vec<BindAddress> {
    // A machine without IPv6 has no ::1.
    vec![BindAddress { host: "127.0.0.1".into(), optional: false }, BindAddress { host: "::1".into(), optional: true }]
}

fn save_points() -> Vec<SavePoint> {
    let points = [(3600, 1), (300, 100), (60, 10_000)];
    points.map(|(seconds, changes)| SavePoint { seconds, changes }).to_vec()
}

fn output_limits() -> OutputLimits {
    OutputLimits {
        normal: OutputLimit::default(),
        replica: OutputLimit { hard_bytes: 256 << 20, soft_bytes: 64 << 20, soft: Duration::from_secs(60) },
        pubsub: OutputLimit { hard_bytes: 32 << 20, soft_bytes: 8 << 20, soft: Duration::from_secs(60) },
    }
}

impl Config {
    /// Whether the value of the directive of this name is a secret.
    pub fn is_sensitive(name: &[u8]) -> bool {
        Directive::named(name).is_some_and(|directive| directive.sensitive)
    }

    /// The file it was read from, absolute; `None` if it came from the command line and standard input alone.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}
