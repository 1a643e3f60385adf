use super::model::{CHAIN, NOTHING_LOST, ONCE};
use super::{Broken, Protocol, Trouble};
use stateright::{Checker, HasDiscoveries, Model};

fn holds(trouble: Trouble) {
    let broken = Broken::Nothing;
    let protocol = Protocol { trouble, broken };
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    assert!(states > 10_000, "the model must branch: {states} states");
    println!("{trouble:?}: {states} states, {} deep", checker.max_depth());
}

#[test]
fn no_interleaving_of_writers_operator_and_a_cut_log_loses_or_doubles() {
    holds(Trouble::Cut);
}

#[test]
fn no_interleaving_of_writers_and_an_operator_who_skips_loses_or_doubles() {
    holds(Trouble::Skip);
}

/// The checker must find out that `broken` is broken, by one of `properties`.
fn is_found(trouble: Trouble, broken: Broken, properties: &[&'static str]) {
    let protocol = Protocol { trouble, broken };
    let any = HasDiscoveries::AnyOf(properties.iter().copied().collect());
    let search = protocol.checker().finish_when(any).threads(2);
    let checker = search.spawn_bfs().join();
    let found = checker.discoveries();
    let name = properties.iter().find(|name| found.contains_key(*name));
    let name = name.unwrap_or_else(|| panic!("{broken:?} breaks none of {properties:?}"));
    let steps = found[name].clone().into_actions().len();
    let states = checker.unique_state_count();
    println!("{broken:?}: \"{name}\" is broken in {steps} steps, after {states} states");
}

#[test]
fn a_log_that_is_trusted_is_found() {
    is_found(Trouble::Cut, Broken::LogIsTrusted, &[NOTHING_LOST]);
}

#[test]
fn an_epoch_from_the_beginning_is_found() {
    is_found(Trouble::Cut, Broken::FromTheBeginning, &[ONCE]);
}

#[test]
fn a_winner_of_another_log_that_is_trusted_is_found() {
    is_found(Trouble::Cut, Broken::WinnerIsTrusted, &[NOTHING_LOST]);
}

#[test]
fn a_seal_that_stands_elsewhere_is_found() {
    is_found(Trouble::Skip, Broken::SealElsewhere, &[ONCE, CHAIN]);
}

#[test]
fn an_origin_that_is_chosen_twice_is_found() {
    is_found(Trouble::Skip, Broken::OriginPutTwice, &[ONCE]);
}
