//! The parts of `DEBUG` that look at how a value is kept. Redis's tests read a few of these lines; what they count is what
//! stands for it here.

use super::super::{Args, ErrorReply, Flow, Result, ServerContext, parse_integer};
use crate::command::key::database;
use crate::instance::Instance;
use crate::keyspace::EntryRef;
use crate::rdb;
use crate::value::ValueRef;

/// A replica has keys that have expired until its master says so.
fn peek<'a>(instance: &'a Instance, db: usize, name: &[u8]) -> Result<EntryRef<'a>> {
    let keyspace = &instance.keyspace;
    keyspace.peek(db, keyspace.key(name)).ok_or(ErrorReply::NO_SUCH_KEY)
}

pub(super) fn object(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let entry = peek(context.instance, context.session.db(), args.get(2))?;
    let (value, clock) = (entry.value(), context.instance.keyspace.clock());
    let mut text = format!(
        "Value at:{:p} refcount:1 encoding:{} serializedlength:{} lru:{} lru_seconds_idle:{}",
        entry.key().as_ptr(),
        entry.encoding(),
        rdb::serialized_len(value),
        entry.last_use_bits(),
        entry.idle_seconds(clock),
    );
    if let ValueRef::List(list) = value {
        text += &format!(
            " ql_nodes:{} ql_avg_node:{:.2} ql_listpack_max:-2 ql_compressed:0 ql_uncompressed_size:{}",
            list.nodes_len(),
            list.len() as f64 / list.nodes_len().max(1) as f64,
            list.heap_bytes(),
        );
    }
    context.reply().simple(&text);
    Ok(Flow::Continue)
}

/// `LISTPACK key`: Redis prints the structure on its standard output; there is none here, but what has it there is known.
pub(super) fn listpack(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let entry = peek(context.instance, context.session.db(), args.get(2))?;
    if entry.value().encoding() != "listpack" {
        return Err(ErrorReply::new("ERR Not a listpack encoded object."));
    }
    context.reply().simple("Listpack structure printed on stdout");
    Ok(Flow::Continue)
}

/// `QUICKLIST key [0 | 1]`: the same for lists.
pub(super) fn quicklist(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let entry = peek(context.instance, context.session.db(), args.get(2))?;
    if !matches!(entry.value(), ValueRef::List(_)) {
        return Err(ErrorReply::new("ERR Not a quicklist encoded object."));
    }
    context.reply().simple("Quicklist structure printed on stdout");
    Ok(Flow::Continue)
}

pub(super) fn sdslen(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let entry = peek(context.instance, context.session.db(), args.get(2))?;
    let ValueRef::Str(value) = entry.value() else { return Err(ErrorReply::new("ERR Not an sds encoded string.")) };
    let (key_len, len) = (entry.key().len(), value.len());
    let text = format!(
        "key_sds_len:{key_len}, key_sds_avail:0, key_zmalloc: {key_len}, val_sds_len:{len}, val_sds_avail:0, val_zmalloc: {len}"
    );
    context.reply().simple(&text);
    Ok(Flow::Continue)
}

/// As a hash table of Redis would say it, of one whose chains have one element each.
fn table_stats(len: usize) -> String {
    if len == 0 {
        return "Hash table 0 stats (main hash table):\nNo stats available for empty dictionaries\n".into();
    }
    let size = len.next_power_of_two().max(4);
    format!(
        "Hash table 0 stats (main hash table):\n table size: {size}\n number of elements: {len}\n different slots: {len}\n \
         max chain length: 1\n avg chain length (counted): 1.00\n avg chain length (computed): 1.00\n"
    )
}

pub(super) fn htstats(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let keyspace = &context.instance.keyspace;
    let out_of_range = ErrorReply::new("ERR Out of range database");
    let db = database(keyspace, parse_integer(args.get(2))?).map_err(|_| out_of_range)?;
    let (all, with_deadline) = (table_stats(keyspace.len(db)), table_stats(keyspace.with_deadline(db)));
    context.reply().verbatim(format!("[Dictionary HT]\n{all}[Expires HT]\n{with_deadline}").as_bytes());
    Ok(Flow::Continue)
}

pub(super) fn htstats_key(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let value = peek(context.instance, context.session.db(), args.get(2))?.value();
    let len = match value {
        ValueRef::Hash(hash) => hash.len(),
        ValueRef::Set(set) => set.len(),
        ValueRef::SortedSet(set) => set.len(),
        _ => 0,
    };
    if !["hashtable", "skiplist"].contains(&value.encoding()) {
        return Err(ErrorReply::new(
            "ERR The value stored at the specified key is not represented using an hash table",
        ));
    }
    context.reply().verbatim(table_stats(len).as_bytes());
    Ok(Flow::Continue)
}
