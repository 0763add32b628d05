//! The four proofs.

use std::collections::BTreeSet;

use hotcell_jail::breach::{ATTACKS, Attack, Verdict};
use hotcell_jail::layers::Layer;

use crate::range::Place;

/// A host without the thing that is attacked: then there is nothing to show.
fn is_absent(attack: &Attack, verdict: &Verdict) -> bool {
    let calls = ["ENOSYS", "EAFNOSUPPORT", "ENODEV", "EOPNOTSUPP", "EPROTONOSUPPORT"];
    let no_call = calls.iter().any(|name| verdict.by.starts_with(name));
    let no_file = ["sysrq", "release_agent"].contains(&attack.name);
    !verdict.succeeded && (no_call || no_file && verdict.by.starts_with("ENOENT"))
}

#[test]
fn names_are_unique_and_rows_name_no_layer_twice() {
    let names: BTreeSet<&str> = ATTACKS.iter().map(|attack| attack.name).collect();
    assert_eq!(names.len(), ATTACKS.len());
    for Attack { name, stopped_by, .. } in ATTACKS {
        let layers: BTreeSet<&Layer> = stopped_by.iter().collect();
        assert_eq!(layers.len(), stopped_by.len(), "{name}");
    }
}

/// BRK-01..05, BRK-08, BRK-26..38, NEW-01, NEW-06: nothing that we know of gets out of a cell.
#[tokio::test]
async fn all_layers_stop_every_attack() {
    let place = Place::new();
    let all = place.run(ATTACKS.iter().map(|attack| (attack, vec![]))).await;
    let worked: Vec<_> = all.iter().filter(|(.., verdict)| verdict.succeeded).collect();
    assert!(worked.is_empty(), "{worked:?}");
    assert_eq!(all.len(), ATTACKS.len());
}

/// No attack is a dud: with the layers of its row off, it works.
#[tokio::test]
async fn every_attack_works_without_the_layers_of_its_row() {
    let place = Place::new();
    let all = place.showable().map(|attack| (attack, attack.stopped_by.to_vec()));
    let all = place.run(all).await;
    let (absent, failed): (Vec<_>, Vec<_>) = all
        .into_iter()
        .filter(|(.., verdict)| !verdict.succeeded)
        .map(|(attack, _, verdict)| (attack, verdict))
        .partition(|(attack, verdict)| is_absent(attack, verdict));
    let absent: Vec<&str> = absent.iter().map(|(attack, _)| attack.name).collect();
    eprintln!("this kernel has nothing to attack: {absent:?}");
    assert!(failed.is_empty(), "{failed:#?}");
    for attack in ATTACKS.iter().filter(|attack| attack.is_shown_outside()) {
        assert!(place.range.outside(attack).unwrap(), "{} without a cell", attack.name);
    }
}

/// Each layer of a row holds alone: with the others of the row off, the attack is stopped.
#[tokio::test]
async fn every_layer_of_a_row_stops_the_attack_alone() {
    let place = Place::new();
    let rows = place.showable().flat_map(|attack| {
        attack.stopped_by.iter().map(move |alone| {
            let off = attack.stopped_by.iter().filter(|layer| *layer != alone);
            (attack, off.copied().collect())
        })
    });
    let all = place.run(rows).await;
    let worked = all.into_iter().filter(|(.., verdict)| verdict.succeeded);
    let worked: Vec<_> = worked.map(|(attack, off, _)| (attack.name, off)).collect();
    assert!(worked.is_empty(), "{worked:#?}");
}

/// The number of threads is limited for every user but root, so without its own user a cell has no such limit.
const NOT_BOUND_AS_ROOT: [(&str, Layer); 1] = [("threads", Layer::User)];

/// With any one layer off, those attacks work that only this layer stops, and no other.
#[tokio::test]
async fn one_layer_off_lets_through_what_the_table_says() {
    let place = Place::new();
    let layers =
        Layer::ALL.into_iter().filter(|layer| place.is_root || !layer.needs_root_to_be_off());
    let each = layers.flat_map(|layer| ATTACKS.iter().map(move |attack| (attack, vec![layer])));
    let (mut worked, mut expected) = (BTreeSet::new(), BTreeSet::new());
    for (attack, off, verdict) in place.run(each).await {
        if verdict.succeeded {
            worked.insert((attack.name, off[0]));
        }
        let single = attack.stopped_by == off || NOT_BOUND_AS_ROOT.contains(&(attack.name, off[0]));
        if single && !is_absent(attack, &verdict) {
            expected.insert((attack.name, off[0]));
        }
    }
    assert_eq!(worked, expected);
}
