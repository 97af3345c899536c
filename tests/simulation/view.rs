//! What the tool would see of the model: the real [`GroupView`], made as `observe` makes it.

use std::sync::OnceLock;

use replctl::group::{Answer, GroupView, HEARD_SECONDS_MAX, KeptStream, KillNote, NodeView, ServerView};
use replctl::process::{Condition, ProcessIdentity, Promoting};
use replctl::topology::{Address, EngineFamily};
use replctl::wire::{
    AttachedReplica, FormerHistory, Link, NodeReport, Replication, ReplicationId, Role, Upstream as ReportedUpstream,
};

use crate::node::{self, Node, Place, Process, Upstream};
use crate::world::Record;

const BASE_PORT: u16 = 7000;
const GHOSTS_PORT: u16 = 6999;

pub fn name(place: Place) -> String {
    format!("n{}", place + 1)
}

/// The node of this name, which comes from a plan.
pub fn place(name: &str) -> Place {
    name[1..].parse::<usize>().expect("nodes are n1, n2 and so on") - 1
}

fn port(place: Place) -> u16 {
    BASE_PORT + place as u16
}

pub fn id(replid: u8) -> ReplicationId {
    static ALL: OnceLock<Vec<ReplicationId>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        (0..=255_u16)
            .map(|number| ReplicationId::parse(&format!("{:040x}", number + 1)).expect("forty digits"))
            .collect()
    });
    all[usize::from(replid)].clone()
}

/// Where everybody reaches a node.
pub fn address(place: Place) -> Address {
    Address { host: "127.0.0.1".to_owned(), port: port(place) }
}

fn pid(place: Place, start: u8) -> u32 {
    1000 * (place as u32 + 1) + u32::from(start)
}

/// `INFO replication`
pub fn replication(node: &Node) -> Replication {
    let role = match node.upstream {
        None => Role::Master,
        Some(upstream) => Role::Replica(ReportedUpstream {
            host: "127.0.0.1".to_owned(),
            port: match upstream {
                Upstream::Node(above) => port(above),
                Upstream::GhostOf(_) => GHOSTS_PORT,
            },
            link: match node.link {
                node::Link::Up { .. } => Link::Up,
                node::Link::Syncing => Link::Syncing { received_bytes: 0, total_bytes: None },
                node::Link::Down => Link::Down { seconds: node.was_up.then_some(0) },
            },
            silent_seconds: Some(0),
            holds_data: node.has_data,
        }),
    };
    Replication {
        role,
        replid: id(node.replid),
        former: node.former.map(|(replid, shared)| FormerHistory { replid: id(replid), shared_up_to: shared as u64 }),
        offset: node.offset() as u64,
        priority: u32::from(node.priority),
        is_handing_over: node.handing_over.is_some(),
        replicas: Vec::new(),
        backlog: Some(node.backlog_start as u64..node.offset() as u64),
    }
}

/// The group as the tool sees it: the processes as `processes` has them, the answers as `answering` gives them.
pub fn view(record: &Record, processes: &[Node], answering: &[Node]) -> GroupView {
    let master = record.master();
    let before_kill =
        record.before_kill.filter(|(place, start, _)| (*place, Some(*start)) == (master, record.started[master]));
    let mut view = GroupView {
        group: "model".to_owned(),
        recorded_replid: record.replid.map(id),
        is_disputed: record.promoting.is_some(),
        kill_note: before_kill.map(|(.., offset)| KillNote { offset: Some(offset as u64), seconds_ago: 0 }),
        nodes: (0..processes.len()).map(|place| node_view(record, place, &processes[place], answering)).collect(),
        heard_seconds_max: HEARD_SECONDS_MAX,
        sentinels: Vec::new(),
    };
    if let Some((candidate, upstreams, replid)) = &record.promoting {
        let above = |place: Place| upstreams[place].map(|above| (name(place), name(above)));
        let upstreams = (0..processes.len()).filter_map(above).collect();
        view.assume(&Promoting {
            node: name(*candidate),
            upstreams,
            replid: replid.map(|replid| id(replid).to_string()),
        });
    }
    view
}

fn node_view(record: &Record, place: Place, process: &Node, answering: &[Node]) -> NodeView {
    let launched = record.started[place];
    let is_known = launched == Some(process.start);
    let condition = match process.process {
        Process::Running if is_known => Condition::Running,
        Process::Stopped if is_known => Condition::Stopped,
        _ => Condition::Dead,
    };
    let meant_upstream = record.upstreams[place].map(name);
    let may_be_master = meant_upstream.is_none() || record.promoting.as_ref().is_some_and(|(node, ..)| *node == place);
    let kept_stream = if may_be_master { kept_stream(process, condition) } else { KeptStream::Nothing };
    let identity = |start: u8| ProcessIdentity {
        pid: pid(place, start),
        start_ticks: u64::from(start),
        boot_id: "boot".to_owned(),
    };
    NodeView {
        name: name(place),
        address: address(place),
        announced: address(place),
        meant_upstream,
        server: ServerView::Managed { process: launched.map(identity), condition },
        answer: if condition == Condition::Stopped { Answer::Silent } else { answer(place, answering, launched) },
        kept_stream,
    }
}

fn answer(place: Place, answering: &[Node], launched: Option<u8>) -> Answer {
    let node = &answering[place];
    let report = || Box::new(report(place, node, attached(place, answering)));
    match node.process {
        Process::Dead => Answer::NotListening,
        Process::Stopped => Answer::Silent,
        Process::Running if node.is_loading => Answer::Loading,
        Process::Running if launched != Some(node.start) => Answer::Stranger { report: report() },
        Process::Running => Answer::Report(report()),
    }
}

/// Who has a connection to a node for its stream.
fn attached(place: Place, answering: &[Node]) -> Vec<AttachedReplica> {
    let is_fed = |node: &&Node| {
        let has_link = matches!(node.link, node::Link::Up { has_ended: false, .. });
        node.is_alive() && node.upstream == Some(Upstream::Node(place)) && has_link
    };
    let fed = answering.iter().enumerate().filter(|(_, node)| is_fed(node));
    fed.map(|(place, _)| {
        let Address { host, port } = address(place);
        AttachedReplica { host, port, is_online: true, acknowledged_offset: 0 }
    })
    .collect()
}

fn report(place: Place, node: &Node, replicas: Vec<AttachedReplica>) -> NodeReport {
    NodeReport {
        family: if node.keeps_data { EngineFamily::Repld } else { EngineFamily::Redis },
        version: String::new(),
        run_id: String::new(),
        process_id: pid(place, node.start),
        is_loading: false,
        keys: 0,
        sync_full: 0,
        sync_partial_ok: 0,
        replication: Replication { replicas, ..replication(node) },
    }
}

fn kept_stream(node: &Node, condition: Condition) -> KeptStream {
    match condition {
        _ if !node.keeps_data => KeptStream::Nothing,
        Condition::Dead if node.is_alive() => KeptStream::StillWritten,
        Condition::Dead if !node.has_data => KeptStream::Unusable { why: "there is none".to_owned() },
        Condition::Dead => KeptStream::Dead {
            replid: id(node.replid).to_string(),
            former: node.former.map(|(replid, shared)| (id(replid).to_string(), shared as u64)),
            start: node.backlog_start as u64,
            end: node.offset() as u64,
        },
        _ => KeptStream::StillWritten,
    }
}
