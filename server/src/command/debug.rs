//! DEBUG: for those who test the server.

use std::fs::File;

use super::{Args, ErrorReply, Flow, Result, ServerContext};
use crate::instance::Instance;
use crate::rdb;
use crate::snapshot::{self, LoadError, Loader};
use crate::value::digest;

pub(super) fn debug(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if !context.instance.config.enable_debug_command.to(context.session.client.origin()) {
        return Err(ErrorReply::new(
            "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from \
             a local connection, otherwise you need to set this option in the configuration file, and then restart the \
             server.",
        ));
    }
    match (args.get(1).to_ascii_lowercase().as_slice(), args.len()) {
        (b"sleep", 3) => sleep(context, args),
        (b"digest", 2) => {
            let digest = digest_of_all(context.instance);
            context.reply().simple(&format!("{digest:040x}"));
            Ok(Flow::Continue)
        }
        (b"digest-value", 2..) => digest_values(context, args),
        (b"object", 3) => object(context, args),
        (b"reload", 2..) => reload(context, args),
        _ => Err(ErrorReply::subcommand_arguments(args)),
    }
}

fn sleep(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let text = std::str::from_utf8(args.get(2)).ok();
    let seconds = text.and_then(|text| text.parse::<f64>().ok()).filter(|seconds| (0.0..1e9).contains(seconds));
    let seconds = seconds.ok_or(ErrorReply::NOT_A_FLOAT)?;
    // The whole server sleeps: that is what it is for.
    std::thread::sleep(std::time::Duration::from_secs_f64(seconds));
    context.ok()
}

/// The same for equal data: what is in which database under which key, and whether it is to expire. 0 for no data.
fn digest_of_all(instance: &Instance) -> u128 {
    let mut sum = 0_u128;
    for db in 0..instance.keyspace.databases() {
        instance.keyspace.for_each(db, |entry| {
            let (value, expires) = (entry.value().digest().to_le_bytes(), [u8::from(entry.deadline_ms().is_some())]);
            sum = sum.wrapping_add(digest(&[&db.to_le_bytes(), entry.key(), &value, &expires]));
        });
    }
    sum
}

/// A digest for each key, 0 for one that is absent.
fn digest_values(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let (keyspace, db, now_ms) = (&context.instance.keyspace, context.session.db(), context.instance.now_ms);
    let of = |name| keyspace.get(db, keyspace.key(name), now_ms).map_or(0, |entry| entry.value().digest());
    let digests: Vec<u128> = args.from(2).map(of).collect();
    let mut reply = context.reply();
    reply.array(digests.len());
    digests.iter().for_each(|digest| reply.simple(&format!("{digest:040x}")));
    Ok(Flow::Continue)
}

fn object(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let (keyspace, db) = (&context.instance.keyspace, context.session.db());
    let entry = keyspace.get(db, keyspace.key(args.get(2)), context.instance.now_ms).ok_or(ErrorReply::NO_SUCH_KEY)?;
    let value = entry.value();
    let text = format!(
        "Value at:{:p} refcount:1 encoding:{} serializedlength:{} lru:0 lru_seconds_idle:0",
        entry.key().as_ptr(),
        value.encoding(),
        rdb::serialized_len(value)
    );
    context.reply().simple(&text);
    Ok(Flow::Continue)
}

/// `DEBUG RELOAD [NOSAVE]`: writes the dump file and loads it, while everything else waits.
fn reload(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let saves = match args.len() {
        2 => true,
        3 if args.is(2, "nosave") => false,
        _ => return Err(ErrorReply::new("ERR DEBUG RELOAD only supports the NOSAVE option.")),
    };
    let failed =
        |error: &dyn std::fmt::Display| ErrorReply::owned(format!("ERR Error trying to load the RDB dump: {error}"));
    if context.instance.keyspace.walk_in_progress() {
        return Err(ErrorReply::SAVE_IN_PROGRESS);
    }
    if saves {
        snapshot::save(context.instance).map_err(|error| ErrorReply::owned(format!("ERR {error}")))?;
    }
    let loaded = load(context.instance).map_err(|error| failed(&error))?;
    context.instance.install(loaded.keyspace, loaded.keys_loaded, loaded.keys_expired);
    context.ok()
}

fn load(instance: &Instance) -> std::result::Result<snapshot::Loaded, LoadError> {
    let mut file = File::open(snapshot::dump_path(instance))?;
    let mut loader = Loader::new(instance);
    let mut buffer = Vec::new();
    while snapshot::read_slice(&mut file, &mut buffer)? && !loader.feed(&buffer)? {}
    loader.finish()
}
