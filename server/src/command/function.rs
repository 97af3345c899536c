//! Functions and scripts: <https://redis.io/docs/latest/commands/?group=scripting>. Libraries are kept and handed on, for the
//! servers of a group that can run them; here neither a function nor a script is ever run.

use super::{Args, ErrorReply, Flow, Result, ServerContext};
use crate::functions::{Function, FunctionError, Functions, Library, Present};
use crate::glob::{self, Case};
use crate::instance::Instance;
use crate::resp::Reply;

impl From<FunctionError> for ErrorReply {
    fn from(error: FunctionError) -> Self {
        ErrorReply::owned(format!("ERR {error}"))
    }
}

/// Changes the libraries as the request says, and lets the replicas have it as it came.
fn change(
    context: &mut ServerContext,
    args: Args,
    change: impl FnOnce(&mut Functions) -> std::result::Result<(), FunctionError>,
) -> Result<()> {
    if !context.session.is_upstream() {
        context.instance.gate_write()?;
    }
    change(&mut context.instance.functions)?;
    context.instance.persistence.dirty += 1;
    let db = context.session.db();
    context.instance.propagate_request(db, &args.from(0).collect::<Vec<_>>());
    Ok(())
}

pub(super) fn load(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let (code, options) = (args.get(args.len() - 1), args.len() - 1);
    let mut present = Present::Refuse;
    for index in 2..options {
        if !args.is(index, "replace") {
            return Err(ErrorReply::quoting("ERR Unknown option given: ", args.get(index), ""));
        }
        present = Present::Replace;
    }
    let library = Library::parse(code)?;
    let name = library.name.clone();
    let is_upstream = context.session.is_upstream();
    change(context, args, |functions| {
        if is_upstream {
            functions.keep(library);
            return Ok(());
        }
        functions.load(library, present)
    })?;
    context.reply().bulk(name.as_bytes());
    Ok(Flow::Continue)
}

pub(super) fn delete(context: &mut ServerContext, args: Args) -> Result<Flow> {
    change(context, args, |functions| functions.delete(&String::from_utf8_lossy(args.get(2))))?;
    context.ok()
}

pub(super) fn flush(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if args.len() > 3 || args.len() == 3 && !args.is(2, "sync") && !args.is(2, "async") {
        return Err(ErrorReply::new("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"));
    }
    change(context, args, |functions| {
        *functions = Functions::default();
        Ok(())
    })?;
    context.ok()
}

pub(super) fn dump(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let payload = context.instance.functions.dump();
    context.reply().bulk(&payload);
    Ok(Flow::Continue)
}

/// `RESTORE payload [FLUSH|APPEND|REPLACE]`.
pub(super) fn restore(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let policy = args.maybe(3).unwrap_or(b"append").to_ascii_lowercase();
    let (flushes, present) = match policy.as_slice() {
        b"append" => (false, Present::Refuse),
        b"replace" => (false, Present::Replace),
        b"flush" => (true, Present::Refuse),
        _ => {
            return Err(ErrorReply::new(
                "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.",
            ));
        }
    };
    if args.len() > 4 {
        return Err(ErrorReply::subcommand_arguments(args));
    }
    change(context, args, |functions| {
        let mut restored = if flushes { Functions::default() } else { functions.clone() };
        restored.restore(args.get(2), present)?;
        *functions = restored;
        Ok(())
    })?;
    context.ok()
}

/// `LIST [LIBRARYNAME pattern] [WITHCODE]`.
pub(super) fn list(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let (mut pattern, mut with_code, mut index) = (None, false, 2);
    while index < args.len() {
        if args.is(index, "withcode") && !with_code {
            with_code = true;
        } else if args.is(index, "libraryname") && pattern.is_none() {
            index += 1;
            let missing = ErrorReply::new("ERR library name argument was not given");
            pattern = Some(args.maybe(index).ok_or(missing)?);
        } else {
            return Err(ErrorReply::quoting("ERR Unknown argument ", args.get(index), ""));
        }
        index += 1;
    }
    let is_wanted = |library: &&Library| {
        pattern.is_none_or(|pattern| glob::matches(pattern, library.name.as_bytes(), Case::Ignored))
    };
    let ServerContext { instance: Instance { functions, .. }, session, out } = context;
    let libraries: Vec<&Library> = functions.iter().filter(is_wanted).collect();
    let mut reply = Reply::new(out, session.protocol);
    reply.array(libraries.len());
    for library in libraries {
        reply.map(if with_code { 4 } else { 3 });
        reply.bulk(b"library_name");
        reply.bulk(library.name.as_bytes());
        reply.bulk(b"engine");
        reply.bulk(library.engine.to_ascii_uppercase().as_bytes());
        reply.bulk(b"functions");
        reply.array(library.functions.len());
        library.functions.iter().for_each(|function| describe(&mut reply, function));
        if with_code {
            reply.bulk(b"library_code");
            reply.bulk(&library.code);
        }
    }
    Ok(Flow::Continue)
}

fn describe(reply: &mut Reply, function: &Function) {
    reply.map(3);
    reply.bulk(b"name");
    reply.bulk(function.name.as_bytes());
    reply.bulk(b"description");
    reply.bulk_or_null(function.description.as_deref().map(str::as_bytes));
    reply.bulk(b"flags");
    reply.set(function.flags.len());
    function.flags.iter().for_each(|flag| reply.simple(flag));
}

pub(super) fn stats(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let ServerContext { instance: Instance { functions, .. }, session, out } = context;
    let mut reply = Reply::new(out, session.protocol);
    reply.map(2);
    reply.bulk(b"running_script");
    reply.null();
    reply.bulk(b"engines");
    reply.map(1);
    reply.bulk(b"LUA");
    reply.map(2);
    reply.bulk(b"libraries_count");
    reply.integer(functions.iter().count() as i64);
    reply.bulk(b"functions_count");
    reply.integer(functions.iter().map(|library| library.functions.len()).sum::<usize>() as i64);
    Ok(Flow::Continue)
}

/// Nothing runs, and Sentinel wants to hear it.
pub(super) fn kill(_context: &mut ServerContext, _args: Args) -> Result<Flow> {
    Err(ErrorReply::new("NOTBUSY No scripts in execution right now."))
}

pub(super) fn fcall(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let mut known = context.instance.functions.iter().flat_map(|library| &library.functions);
    if !known.any(|function| function.name.as_bytes() == args.get(1)) {
        return Err(ErrorReply::new("ERR Function not found"));
    }
    Err(ErrorReply::new(
        "ERR repld has no interpreter: it keeps libraries of functions for its replicas and cannot run them",
    ))
}

pub(super) fn eval(_context: &mut ServerContext, args: Args) -> Result<Flow> {
    let name = String::from_utf8_lossy(args.get(0)).to_ascii_lowercase();
    Err(ErrorReply::owned(format!("ERR repld has no interpreter: '{name}' cannot be run, nor any other script")))
}

/// Of scripts there are none.
pub(super) fn script_exists(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let mut reply = context.reply();
    reply.array(args.len() - 2);
    args.from(2).for_each(|_| reply.integer(0));
    Ok(Flow::Continue)
}

pub(super) fn script_flush(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if args.len() > 3 || args.len() == 3 && !args.is(2, "sync") && !args.is(2, "async") {
        return Err(ErrorReply::new("ERR SCRIPT FLUSH only support SYNC|ASYNC option"));
    }
    context.ok()
}

/// A master of before Redis 7.0 tells its replicas which scripts it may run; what they do it tells as well, or else it tells
/// to run them, which fails.
pub(super) fn script_load(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    if context.session.is_upstream() {
        return context.ok();
    }
    Err(ErrorReply::new("ERR repld has no interpreter: scripts cannot be loaded"))
}
