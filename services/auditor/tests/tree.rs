//! The tree against the vectors of Certificate Transparency, and every proof up to a bound.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use hotcell_auditor::tree::{
    Frontier, Node, TreeError, TreeHash, check_consistency, check_inclusion, consistency_spans,
    empty_root, inclusion_spans, leaf_hash, node_hash, root_of, span_hashes,
};
use proptest::prelude::*;

/// The eight leaves of certificate-transparency's merkletree tests, in hex.
const LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];
/// Roots of the trees of 1 to 8 of these leaves.
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];
const A: &str = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7";
const B: &str = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e";
const C: &str = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4";
const D: &str = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b";
const E: &str = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0";
const F: &str = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a";

fn hash(text: &str) -> TreeHash {
    TreeHash::new(hex::decode(text).unwrap().try_into().unwrap())
}

fn ct_leaves() -> Vec<TreeHash> {
    LEAVES.iter().map(|leaf| leaf_hash(&hex::decode(leaf).unwrap())).collect()
}

fn leaves(count: u64) -> Vec<TreeHash> {
    (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect()
}

fn source(leaves: &[TreeHash]) -> impl Fn(Node) -> Option<TreeHash> + '_ {
    |node| {
        let start = usize::try_from(node.index << node.level).ok()?;
        leaves.get(start..start + (1 << node.level)).map(root_of)
    }
}

fn inclusion(leaves: &[TreeHash], index: u64) -> Vec<TreeHash> {
    span_hashes(&inclusion_spans(index, leaves.len() as u64).unwrap(), source(leaves)).unwrap()
}

fn consistency(leaves: &[TreeHash], old: u64) -> Vec<TreeHash> {
    span_hashes(&consistency_spans(old, leaves.len() as u64).unwrap(), source(leaves)).unwrap()
}

#[test]
fn roots_are_those_of_certificate_transparency() {
    let leaves = ct_leaves();
    let mut frontier = Frontier::default();
    assert_eq!(frontier.root(), empty_root());
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(empty_root(), hash(empty));
    for (size, root) in (1..).zip(ROOTS) {
        frontier.push(leaves[size - 1]);
        assert_eq!(frontier.root(), hash(root), "size {size}");
        assert_eq!(root_of(&leaves[..size]), hash(root));
    }
}

#[test]
fn proofs_are_those_of_certificate_transparency() {
    let leaves = ct_leaves();
    let all = |texts: &[&str]| texts.iter().map(|t| hash(t)).collect::<Vec<_>>();
    assert_eq!(inclusion(&leaves[..1], 0), []);
    assert_eq!(inclusion(&leaves, 0), all(&[A, B, C]));
    assert_eq!(inclusion(&leaves, 5), all(&[D, E, ROOTS[3]]));
    assert_eq!(inclusion(&leaves[..3], 2), all(&[ROOTS[1]]));
    assert_eq!(inclusion(&leaves[..5], 1), all(&[ROOTS[0], B, D]));
    assert_eq!(consistency(&leaves, 1), all(&[A, B, C]));
    assert_eq!(consistency(&leaves, 6), all(&[F, E, ROOTS[3]]));
    assert_eq!(consistency(&leaves[..5], 2), all(&[B, D]));
    assert_eq!(consistency(&leaves, 8), []);
}

#[test]
fn every_inclusion_proof_up_to_300_leaves_checks_and_no_neighbour_does() {
    for size in (1..=40).chain([63, 64, 65, 127, 128, 129, 255, 256, 257, 300]) {
        let leaves = leaves(size);
        let root = root_of(&leaves);
        for index in 0..size {
            let leaf = &leaves[index as usize];
            let proof = inclusion(&leaves, index);
            check_inclusion(index, size, leaf, &proof, &root).unwrap();
            let other = (index + 1) % size;
            if other != index {
                assert!(check_inclusion(other, size, leaf, &proof, &root).is_err());
            }
            let longer = [proof.as_slice(), &[root]].concat();
            assert_eq!(check_inclusion(index, size, leaf, &longer, &root), Err(TreeError::Length));
            if let Some((_, shorter)) = proof.split_last() {
                assert!(check_inclusion(index, size, leaf, shorter, &root).is_err());
            }
        }
        let outside = check_inclusion(size, size, &leaves[0], &[], &root);
        assert!(matches!(outside, Err(TreeError::Outside { .. })));
    }
}

#[test]
fn every_consistency_proof_up_to_130_leaves_checks() {
    let all = leaves(130);
    let roots: Vec<_> = (0..=130).map(|n| root_of(&all[..n])).collect();
    for new in 0..=130usize {
        for old in 0..=new {
            let proof = consistency(&all[..new], old as u64);
            let (old_root, new_root) = (&roots[old], &roots[new]);
            let check = |old_root, new_root, proof: &[TreeHash]| {
                check_consistency((old as u64, old_root), (new as u64, new_root), proof)
            };
            check(old_root, new_root, &proof).unwrap();
            let forged = node_hash(old_root, new_root);
            assert!(check(&forged, new_root, &proof).is_err(), "{old} {new}");
            if old > 0 {
                assert!(check(old_root, &forged, &proof).is_err(), "{old} {new}");
            }
            let longer = [proof.as_slice(), &[forged]].concat();
            assert!(check(old_root, new_root, &longer).is_err(), "{old} {new}");
        }
    }
    let backwards = check_consistency((2, &roots[2]), (1, &roots[1]), &[]);
    assert!(matches!(backwards, Err(TreeError::Outside { .. })));
}

proptest! {
    #[test]
    fn a_flipped_bit_anywhere_in_a_proof_is_refused(
        size in 2u64..2000,
        at in any::<u64>(),
        bit in 0usize..256,
        pick in any::<prop::sample::Index>(),
    ) {
        let leaves = leaves(size);
        let root = root_of(&leaves);
        let index = at % size;
        let flip = |hash: &TreeHash| {
            let mut bytes = *hash.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            TreeHash::new(bytes)
        };
        let proof = inclusion(&leaves, index);
        let leaf = &leaves[index as usize];
        prop_assert!(check_inclusion(index, size, leaf, &proof, &root).is_ok());
        prop_assert!(check_inclusion(index, size, &flip(leaf), &proof, &root).is_err());
        prop_assert!(check_inclusion(index, size, leaf, &proof, &flip(&root)).is_err());
        let mut forged = proof.clone();
        let place = pick.index(proof.len());
        forged[place] = flip(&proof[place]);
        prop_assert!(check_inclusion(index, size, leaf, &forged, &root).is_err());

        let old = 1 + at % (size - 1);
        let old_root = root_of(&leaves[..old as usize]);
        let proof = consistency(&leaves, old);
        prop_assert!(check_consistency((old, &old_root), (size, &root), &proof).is_ok());
        let mut forged = proof.clone();
        let place = pick.index(proof.len());
        forged[place] = flip(&proof[place]);
        prop_assert!(check_consistency((old, &old_root), (size, &root), &forged).is_err());
        prop_assert!(check_consistency((old, &flip(&old_root)), (size, &root), &proof).is_err());
    }
}
