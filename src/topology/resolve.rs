//! From nodes as they are written to a tree: `count` multiplied out, defaults applied, and exactly one master.

use std::collections::HashMap;

use toml::Spanned;

use super::diagnostic::{Diagnostic, nearest, quoted};
use super::raw::{RawNode, RawTopology, Settings, wrong_name};
use super::{Address, Engine, ManagedNode, NODES_MAX, Node, NodeServer};

/// `replica-priority` of a node that sets none, as in redis.conf.
const DEFAULT_PRIORITY: u32 = 100;

/// A node and the `[[node]]` that it comes from.
struct Placed<'a> {
    node: Node,
    raw: &'a RawNode,
    /// The node's own `replica-of`, or the one of `[defaults]`.
    upstream: Option<&'a Spanned<String>>,
}

/// Makes the nodes of a file, in its order.
///
/// # Errors
/// Everything that keeps them from being one tree with unique names and ports.
pub(super) fn resolve(raw: &RawTopology) -> Result<Vec<Node>, Vec<Diagnostic>> {
    check_size(&raw.nodes)?;
    let mut errors = Vec::new();
    let placed: Vec<Placed> = raw.nodes.iter().flat_map(|node| place(node, &raw.defaults, &mut errors)).collect();
    check_ports(&placed, &mut errors);
    check_endpoints(&placed, &mut errors);
    if let Some(index) = index_names(&placed, &mut errors)
        && check_upstreams(&placed, &index, &mut errors)
    {
        check_circles(&placed, &index, &mut errors);
        check_roots(&placed, &mut errors);
        check_optional(&placed, &index, &mut errors);
        check_reach(&placed, &index, &mut errors);
    }
    if errors.is_empty() { Ok(placed.into_iter().map(|placed| placed.node).collect()) } else { Err(errors) }
}

/// Before anything is allocated for them: whether there are nodes, and not too many.
fn check_size(nodes: &[RawNode]) -> Result<(), Vec<Diagnostic>> {
    let mut total = 0;
    for node in nodes {
        total += node.count.as_ref().map_or(1, |count| *count.get_ref());
        if total > NODES_MAX {
            let message = format!("with {} there are more than {NODES_MAX} nodes", quoted(node.name.get_ref()));
            return Err(vec![Diagnostic::at(node.name.span(), message)]);
        }
    }
    if total == 0 {
        let error = Diagnostic::of_file("a topology needs at least one node");
        return Err(vec![
            error.hint("write `[[node]]` and below it `name = \"n1\"`; `replctl init` writes an example"),
        ]);
    }
    Ok(())
}

/// The nodes that one `[[node]]` stands for: itself, or with `count = 3` and port 7000 `name-1` on 7000 to `name-3`
/// on 7002.
fn place<'a>(raw: &'a RawNode, defaults: &'a Settings, errors: &mut Vec<Diagnostic>) -> Vec<Placed<'a>> {
    let base = raw.name.get_ref();
    let first_port = raw.port.as_ref().map(|port| *port.get_ref());
    let Some(count) = raw.count.as_ref().map(|count| *count.get_ref()) else {
        return vec![place_one(raw, defaults, base.clone(), first_port)];
    };
    if let Some(wrong) = wrong_name(&format!("{base}-{count}")) {
        let message = format!("the last of these {count} nodes cannot have a name: {wrong}");
        errors.push(Diagnostic::at(raw.name.span(), message));
    }
    let ports: Vec<Option<u16>> = match &raw.port {
        None => vec![None; count],
        Some(first) => (*first.get_ref()..=u16::MAX).take(count).map(Some).collect(),
    };
    if let Some(port) = &raw.port
        && ports.len() < count
    {
        let message = format!("the ports of these {count} nodes would go beyond 65535");
        errors.push(Diagnostic::at(port.span(), message).hint(format!("start at {} or below", 65536 - count)));
    }
    let names = (1..=count).map(|number| format!("{base}-{number}"));
    names.zip(ports).map(|(name, port)| place_one(raw, defaults, name, port)).collect()
}

fn place_one<'a>(raw: &'a RawNode, defaults: &'a Settings, name: String, port: Option<u16>) -> Placed<'a> {
    let own = &raw.settings;
    // The default upstream is not a replica of itself: so a default can make a star.
    let default_upstream = defaults.replica_of.as_ref().filter(|upstream| *upstream.get_ref() != name);
    let upstream = own.replica_of.as_ref().or(default_upstream);
    let mut config = defaults.config.clone();
    config.extend(own.config.clone());
    let managed = || ManagedNode {
        port,
        engine: own.engine.as_ref().or(defaults.engine.as_ref()).cloned().unwrap_or(Engine::REPLD),
        priority: own.priority.or(defaults.priority).unwrap_or(DEFAULT_PRIORITY),
        optional: own.optional.as_ref().or(defaults.optional.as_ref()).is_some_and(|optional| *optional.get_ref()),
        config,
    };
    let server = match &raw.unmanaged {
        Some(unmanaged) => NodeServer::Unmanaged(unmanaged.get_ref().clone()),
        None => NodeServer::Managed(managed()),
    };
    let replica_of = upstream.map(|upstream| upstream.get_ref().clone());
    Placed { node: Node { name, replica_of, server }, raw, upstream }
}

/// Notes an error unless one is noted at its place: counted nodes fall over the same line many times.
fn push_once(errors: &mut Vec<Diagnostic>, error: Diagnostic) {
    if !errors.iter().any(|noted| noted.is_at_place_of(&error)) {
        errors.push(error);
    }
}

/// Each name's place in the list; `None` if a name is there twice.
fn index_names<'a>(placed: &'a [Placed], errors: &mut Vec<Diagnostic>) -> Option<HashMap<&'a str, usize>> {
    let mut index = HashMap::with_capacity(placed.len());
    for (position, Placed { node, raw, .. }) in placed.iter().enumerate() {
        if let Some(first) = index.insert(node.name.as_str(), position) {
            let error = Diagnostic::at(raw.name.span(), format!("the name {} is taken", quoted(&node.name)));
            push_once(errors, error.related(placed[first].raw.name.span(), "first used here"));
        }
    }
    (index.len() == placed.len()).then_some(index)
}

fn check_ports(placed: &[Placed], errors: &mut Vec<Diagnostic>) {
    let mut taken = HashMap::new();
    for Placed { node, raw, .. } in placed {
        let (Some(port), Some(written)) = (node.managed().and_then(|managed| managed.port), &raw.port) else {
            continue;
        };
        if let Some((owner, first)) = taken.insert(port, (&node.name, written)) {
            let message = format!("port {port} of {} is taken by {}", quoted(&node.name), quoted(owner));
            push_once(errors, Diagnostic::at(written.span(), message).related(first.span(), "first used here"));
        }
    }
}

/// Two nodes cannot be one server: neither two unmanaged ones, nor an unmanaged one and a port that a managed one will have.
fn check_endpoints(placed: &[Placed], errors: &mut Vec<Diagnostic>) {
    let address = |one: &Placed| match &one.node.server {
        NodeServer::Managed(managed) => managed.port.map(Address::loopback),
        NodeServer::Unmanaged(unmanaged) => Some(unmanaged.endpoint.clone()),
    };
    let addresses: Vec<Option<Address>> = placed.iter().map(address).collect();
    let owner = |endpoint: &Address, but: usize| {
        let is_other = |(at, other): &(usize, &Option<Address>)| {
            *at != but && other.as_ref().is_some_and(|other| other.is_same(endpoint))
        };
        addresses.iter().enumerate().find(is_other).map(|(at, _)| &placed[at])
    };
    for (at, one) in placed.iter().enumerate() {
        let Some(unmanaged) = &one.raw.unmanaged else { continue };
        let Some(owner) = owner(&unmanaged.get_ref().endpoint, at) else { continue };
        let message =
            format!("the endpoint of {} is that of {}, too", quoted(&one.node.name), quoted(&owner.node.name));
        push_once(errors, Diagnostic::at(unmanaged.span(), message).related(owner.raw.name.span(), "this node"));
    }
}

/// Notes an unmanaged replica on another machine that is to follow a managed node: those listen on loopback only.
fn check_reach(placed: &[Placed], index: &HashMap<&str, usize>, errors: &mut Vec<Diagnostic>) {
    for Placed { node, upstream, .. } in placed {
        let (NodeServer::Unmanaged(unmanaged), Some(upstream)) = (&node.server, upstream) else { continue };
        let above = index.get(upstream.get_ref().as_str()).map(|upstream| &placed[*upstream].node);
        if !unmanaged.endpoint.is_loopback() && above.is_some_and(|above| above.managed().is_some()) {
            let (name, above) = (quoted(&node.name), quoted(upstream.get_ref()));
            let message = format!("{name} cannot reach {above}, which listens on loopback only, as every managed node");
            push_once(errors, Diagnostic::at(upstream.span(), message));
        }
    }
}

/// Whether every `replica-of` names a node.
fn check_upstreams(placed: &[Placed], index: &HashMap<&str, usize>, errors: &mut Vec<Diagnostic>) -> bool {
    let upstreams = || placed.iter().filter_map(|one| one.upstream);
    for upstream in upstreams().filter(|upstream| !index.contains_key(upstream.get_ref().as_str())) {
        push_once(errors, dangling(upstream, placed));
    }
    upstreams().all(|upstream| index.contains_key(upstream.get_ref().as_str()))
}

fn dangling(upstream: &Spanned<String>, placed: &[Placed]) -> Diagnostic {
    let wanted = upstream.get_ref();
    let error = Diagnostic::at(upstream.span(), format!("there is no node {}", quoted(wanted)));
    let base = placed.iter().find(|one| one.raw.name.get_ref() == wanted);
    if let Some(count) = base.and_then(|base| base.raw.count.as_ref()) {
        return error.hint(format!("`{wanted}` stands for `{wanted}-1` to `{wanted}-{}`: name one", count.get_ref()));
    }
    match nearest(wanted, placed.iter().map(|one| one.node.name.as_str())) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error,
    }
}

/// Notes each circle of `replica-of` once, with its path. Every node has at most one upstream, so following them from
/// each node not yet seen finds all circles in linear time.
fn check_circles(placed: &[Placed], index: &HashMap<&str, usize>, errors: &mut Vec<Diagnostic>) {
    let upstream_of = |at: usize| placed[at].upstream.and_then(|upstream| index.get(upstream.get_ref().as_str()));
    // The walk on which a node was first met; 0 is none.
    let mut met_on_walk = vec![0; placed.len()];
    for start in 0..placed.len() {
        let walk = start + 1;
        let mut next = Some(&start);
        while let Some(&at) = next {
            if met_on_walk[at] == walk {
                errors.push(circle(at, placed, upstream_of));
            }
            if met_on_walk[at] != 0 {
                break;
            }
            met_on_walk[at] = walk;
            next = upstream_of(at);
        }
    }
}

fn circle<'a>(member: usize, placed: &[Placed], upstream_of: impl Fn(usize) -> Option<&'a usize>) -> Diagnostic {
    const NAMES_SHOWN_MAX: usize = 10;
    let upstreams = std::iter::successors(Some(member), |at| upstream_of(*at).copied());
    let around = 1 + upstreams.clone().skip(1).take_while(|at| *at != member).count();
    let first = upstreams.clone().take(around).min().unwrap_or(member);
    let span = placed[first].upstream.map_or(placed[first].raw.name.span(), Spanned::span);
    let name = &placed[first].node.name;
    if around == 1 {
        let error = Diagnostic::at(span, format!("{} cannot be a replica of itself", quoted(name)));
        return error.hint("the master is the node without `replica-of`");
    }
    let path = std::iter::successors(Some(first), |at| upstream_of(*at).copied()).take(around.min(NAMES_SHOWN_MAX));
    let mut path: Vec<&str> = path.map(|at| placed[at].node.name.as_str()).collect();
    if around > NAMES_SHOWN_MAX {
        path.push("…");
    }
    path.push(name);
    let message = format!("`replica-of` goes in a circle: {}", path.join(" -> "));
    Diagnostic::at(span, message).hint("the master is the node without `replica-of`")
}

/// Notes every master but the first. A file without any has a circle, which was noted.
fn check_roots(placed: &[Placed], errors: &mut Vec<Diagnostic>) {
    let mut roots = placed.iter().filter(|one| one.upstream.is_none());
    let Some(first) = roots.next() else { return };
    let master = &first.node.name;
    for second in roots {
        let message =
            format!("{} has no `replica-of`, but the master is {}", quoted(&second.node.name), quoted(master));
        let error = Diagnostic::at(second.raw.name.span(), message);
        let error = if std::ptr::eq(first.raw, second.raw) {
            error.hint("give the master a `[[node]]` of its own, without `count`")
        } else {
            error.hint(format!("add `replica-of = \"{master}\"`")).related(first.raw.name.span(), "the master")
        };
        push_once(errors, error);
    }
}

/// Notes a node that may be left out but is the master, or carries a node that may not.
fn check_optional(placed: &[Placed], index: &HashMap<&str, usize>, errors: &mut Vec<Diagnostic>) {
    for Placed { node, raw, upstream } in placed {
        let Some(upstream) = upstream else {
            if node.is_optional() {
                let message = format!("{} is the master and cannot be optional", quoted(&node.name));
                push_once(errors, Diagnostic::at(raw.name.span(), message));
            }
            continue;
        };
        let carrier = index.get(upstream.get_ref().as_str()).map(|upstream| &placed[*upstream].node);
        if !node.is_optional() && carrier.is_some_and(Node::is_optional) {
            let message =
                format!("{} replicates from {}, which is optional", quoted(&node.name), quoted(upstream.get_ref()));
            push_once(errors, Diagnostic::at(upstream.span(), message).hint("make it optional too"));
        }
    }
}
