//! Envoys of many groups, and a change that reaches one of them: to the others it costs nothing.

use tierflow::bootstrap::XdsVariant;
use tierflow::snapshot::resource::ResourceType;

use crate::envoy::Envoy;
use crate::fleet::Fleet;
use crate::process::Process;
use crate::store::{Store, group_name};
use crate::well::{self, Changes};

pub(crate) const GROUPS: usize = 100;
const STREAMS_OF_GROUP: usize = 100;
/// The CPU of a process is counted in steps of 10 ms; a change takes a fraction of that.
const CHANGES: usize = 400;

/// The changes of one group's route.
pub(crate) struct OneOfMany {
    pub(crate) streams: usize,
    pub(crate) changes: Changes,
    /// The responses to Envoys of other groups meanwhile.
    pub(crate) others: u64,
}

/// While nobody but the group is connected, and while all groups are.
pub(crate) async fn measure(store: &Store, server: &Process) -> [OneOfMany; 2] {
    let mut fleets = vec![connect(server, 0).await];
    let alone = change_first(store, server, &fleets).await;
    for group in 1..GROUPS {
        fleets.push(connect(server, group).await);
    }
    let among_others = change_first(store, server, &fleets).await;
    [alone, among_others]
}

async fn connect(server: &Process, group: usize) -> Fleet {
    let numbers = group * STREAMS_OF_GROUP..(group + 1) * STREAMS_OF_GROUP;
    let envoy = |number| Envoy::of_gateway(number, XdsVariant::Delta, &group_name(group));
    let fleet = Fleet::connect(server.address, numbers.map(envoy).collect(), STREAMS_OF_GROUP);
    fleet.all_are_current().await;
    fleet
}

async fn change_first(store: &Store, server: &Process, fleets: &[Fleet]) -> OneOfMany {
    let (first, others) = fleets.split_first().unwrap();
    let responses_of_others = || {
        let types = |fleet: &Fleet| ResourceType::ALL.map(|one| fleet.board.responses(one)).iter().sum::<u64>();
        others.iter().map(types).sum::<u64>()
    };
    let before = responses_of_others();
    let change = async || store.change_route_of(0).await;
    let changes = well::changes(first, server, ResourceType::Route, CHANGES, change).await;
    let streams = fleets.iter().map(|fleet| fleet.board.envoys).sum();
    OneOfMany { streams, changes, others: responses_of_others() - before }
}
