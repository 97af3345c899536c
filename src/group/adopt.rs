//! `adopt`: a group that somebody else started is found, from its master down, and remembered.
//!
//! ```text
//! --master db1:6379   INFO: role:master   slave0:ip=10.0.0.8,port=6379   slave1:ip=10.0.0.9,port=6379
//!   n2 10.0.0.8:6379  INFO: role:slave    slave0:ip=10.0.0.9,port=6380
//!     n4 10.0.0.9:6380
//!   n3 10.0.0.9:6379
//! ```
//!
//! A replica is taken to be where its upstream says that it is: that is what it announces, or where it calls from. The
//! master is what the operator says, and to its replicas what they call it. A replica that cannot be reached from here is
//! remembered all the same, so that `status` names it.

use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;

use super::{Group, GroupError, living};
use crate::process::{Durability, GroupDir, GroupLock, RunNode, RunState, Server, UnmanagedServer};
use crate::topology::{Address, Login, NODES_MAX};
use crate::wire::{Endpoint, NodeClient, NodeReport, WireError};

/// How long a server may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A group that was found.
#[derive(Debug, Serialize)]
pub struct Adoption {
    /// The name it gets.
    pub group: String,
    /// The master's history.
    pub replid: String,
    /// All servers, the master first, every replica after its upstream.
    pub nodes: Vec<Found>,
    /// A server asks its replicas for a password and has none for a master of its own: it could follow nobody.
    pub without_masterauth: Vec<String>,
    #[serde(skip)]
    login: Login,
}

/// A server that was found.
#[derive(Debug, Serialize)]
pub struct Found {
    /// The name it gets: n1 is the master.
    pub node: String,
    /// Where it is reached from here.
    #[serde(flatten)]
    pub address: Address,
    /// Where the others reach it.
    #[serde(skip)]
    announced: Address,
    /// The node it follows; `None` for the master.
    pub upstream: Option<String>,
    /// Its identity, if it answers.
    pub run_id: Option<String>,
    /// Why it does not answer, if it does not.
    pub unreachable: Option<String>,
}

impl Adoption {
    /// The nodes that do not answer from here.
    pub fn unreachable(&self) -> Vec<String> {
        self.nodes.iter().filter(|found| found.unreachable.is_some()).map(|found| found.node.clone()).collect()
    }
}

/// Finds the group of a master.
///
/// # Errors
/// The server does not answer, or is a replica: its master is named.
pub async fn discover(group: &str, master: &Address, login: &Login) -> Result<Adoption, GroupError> {
    let wire = |source| GroupError::Wire { node: master.to_string(), source };
    let (client, report) = ask(master, login).await.map_err(wire)?;
    if let Some(upstream) = report.replication.upstream() {
        let above = upstream.address().seen_from(master);
        return Err(GroupError::Unsafe {
            reason: format!("{master} is a replica of {above}"),
            hint: format!("a group is adopted from its master: --master {above}"),
        });
    }
    let mut adoption = Adoption {
        group: group.to_owned(),
        replid: report.replication.replid.to_string(),
        nodes: vec![found(1, master.clone(), None, &Ok(report.clone()))],
        without_masterauth: Vec::new(),
        login: login.clone(),
    };
    let mut clients = vec![("n1".to_owned(), client)];
    // The servers whose replicas are to be asked next.
    let mut level = vec![(0, report)];
    while !level.is_empty() {
        level = adoption.find_replicas(level, &mut clients).await?;
    }
    for (node, client) in clients {
        if login.password.is_some() && has_no_masterauth(&client).await {
            adoption.without_masterauth.push(node);
        }
    }
    Ok(adoption)
}

impl Adoption {
    /// Asks all replicas of these servers at once; returns those that answer.
    async fn find_replicas(
        &mut self,
        level: Vec<(usize, NodeReport)>,
        clients: &mut Vec<(String, NodeClient)>,
    ) -> Result<Vec<(usize, NodeReport)>, GroupError> {
        let mut asking = JoinSet::new();
        for (above, report) in level {
            let teller = self.nodes[above].address.clone();
            // Backup tools follow without a port of their own: nobody could ask or promote them.
            let listed = report.replication.replicas.iter().map(|one| one.address()).filter(|one| one.port != 0);
            for address in listed.map(|address| address.seen_from(&teller)) {
                if self.nodes.iter().any(|known| known.address.is_same(&address)) {
                    continue;
                }
                if self.nodes.len() == NODES_MAX {
                    let reason = format!("there are more than {NODES_MAX} nodes");
                    return Err(GroupError::Unsafe { reason, hint: "that is more than a group can have".to_owned() });
                }
                let index = self.nodes.len();
                let upstream = Some(self.nodes[above].node.clone());
                self.nodes.push(found(index + 1, address.clone(), upstream, &Err(String::new())));
                let login = self.login.clone();
                asking.spawn(async move { (index, above, ask(&address, &login).await) });
            }
        }
        let mut answered = Vec::new();
        while let Some(asked) = asking.join_next().await {
            let (index, above, answer) = asked.expect("asking a server does not panic");
            let answer = answer
                .map_err(|error| error.to_string())
                .and_then(|(client, report)| self.is_its_replica(&report, index).map(|()| (client, report)));
            let report = answer.as_ref().map(|(_, report)| report.clone()).map_err(Clone::clone);
            let name = self.nodes[index].node.clone();
            self.nodes[index].answered(&report);
            let Ok((client, report)) = answer else { continue };
            if let Some(upstream) = report.replication.upstream() {
                let known_as = upstream.address().seen_from(&self.nodes[index].address);
                self.nodes[above].announced = known_as;
            }
            clients.push((name, client));
            answered.push((index, report));
        }
        answered.sort_by_key(|(index, _)| *index);
        Ok(answered)
    }

    /// Behind an address translation another server may answer at the address that a replica is known by.
    fn is_its_replica(&self, report: &NodeReport, index: usize) -> Result<(), String> {
        if report.replication.is_master() {
            return Err("another server answers there: a master".to_owned());
        }
        match self.nodes.iter().take(index).find(|known| known.run_id.as_ref() == Some(&report.run_id)) {
            Some(known) => Err(format!("{} answers there", known.node)),
            None => Ok(()),
        }
    }
}

impl Found {
    fn answered(&mut self, answer: &Result<NodeReport, String>) {
        self.run_id = answer.as_ref().ok().map(|report| report.run_id.clone());
        self.unreachable = answer.as_ref().err().cloned();
    }
}

fn found(number: usize, address: Address, upstream: Option<String>, answer: &Result<NodeReport, String>) -> Found {
    let announced = address.clone();
    let mut found = Found { node: format!("n{number}"), address, announced, upstream, run_id: None, unreachable: None };
    found.answered(answer);
    found
}

async fn ask(address: &Address, login: &Login) -> Result<(NodeClient, NodeReport), WireError> {
    let endpoint =
        Endpoint { address: address.clone(), announced: address.clone(), login: login.clone(), link_ports: Vec::new() };
    let client = NodeClient::connect(&endpoint, ANSWER_LIMIT).await?;
    let report = client.report().await?;
    Ok((client, report))
}

/// One that may not tell counts as one that has it.
async fn has_no_masterauth(client: &NodeClient) -> bool {
    client.directive("masterauth").await.is_ok_and(|value| value.is_some_and(|value| value.is_empty()))
}

/// Refuses a server that another group has: each would undo what is done in the other.
fn refuse_owned(adoption: &Adoption, others: &[Group]) -> Result<(), GroupError> {
    for other in others {
        let alive: Vec<String> = living(other)?.into_iter().map(|(node, _)| node).collect();
        let is_there = |node: &&RunNode| node.unmanaged().is_some() || alive.contains(&node.name);
        for owned in other.run.nodes.iter().filter(is_there) {
            let address = owned.announced();
            let is_it = |found: &&Found| found.address.is_same(&address) || found.announced.is_same(&address);
            if let Some(found) = adoption.nodes.iter().find(is_it) {
                let (group, node) = (&other.run.group, &owned.name);
                return Err(GroupError::Unsafe {
                    reason: format!("{} is {node} of the group {group} already", found.address),
                    hint: format!("work on that one: -g {group}"),
                });
            }
        }
    }
    Ok(())
}

/// Remembers a group that was found. `others` are the groups that there are.
///
/// # Errors
/// There is a group of this name, or one that has a server of this one, or the state directory cannot be written.
pub fn adopt(dir: GroupDir, _lock: &GroupLock, adoption: &Adoption, others: &[Group]) -> Result<Group, GroupError> {
    if dir.run_state()?.is_some() {
        let name = dir.name();
        return Err(GroupError::Unsafe {
            reason: format!("there is a group {name} already"),
            hint: format!("give this one another name; or replctl -g {name} down forgets that one, if it was adopted"),
        });
    }
    refuse_owned(adoption, others)?;
    let nodes = adoption.nodes.iter().map(|found| RunNode {
        name: found.node.clone(),
        wished_upstream: found.upstream.clone(),
        upstream: found.upstream.clone(),
        server: Server::Unmanaged(UnmanagedServer {
            address: found.address.clone(),
            announced: found.announced.clone(),
            login: adoption.login.clone(),
            run_id: found.run_id.clone(),
            unfenced: None,
        }),
    });
    let mut run = RunState::new(dir.name(), None, nodes.collect());
    run.replid = Some(adoption.replid.clone());
    dir.save_run_state(&run, Durability::Disk)?;
    Ok(Group { dir, run })
}
