//! What a disk may hold after a power cut.
//!
//! A change is sure to be there only if the first sync of its file or folder after it worked. Of the others any
//! subset may be: each rename or removal whole or not at all, each block of a write by itself, a file's size
//! without its bytes. That is more than today's file systems lose, and all that their manuals promise.

use std::collections::BTreeMap;

use super::dice::Dice;
use super::sim::{Change, Node, NodeId, Sim, SimFs, apply};

/// How likely an unsynced change is to survive, in percent; one is drawn for each state.
const SURVIVAL: [usize; 5] = [0, 10, 50, 90, 100];

/// The sizes in which disks write.
const BLOCK_BYTES: [u64; 2] = [512, 4096];

impl SimFs {
    /// The disk as it may be found when power is lost after the first `moment` changes, chosen by `dice`.
    pub fn after_power_loss(&self, moment: usize, dice: &mut Dice) -> SimFs {
        let sim = self.sim();
        let journal = &sim.journal[..moment.min(sim.journal.len())];
        let sure = sure_changes(journal);
        let survival = SURVIVAL[dice.below(SURVIVAL.len())];
        let block_bytes = BLOCK_BYTES[dice.below(BLOCK_BYTES.len())];
        let mut nodes = blank_nodes(&sim);
        for (change, sure) in journal.iter().zip(sure) {
            match change {
                change if sure => apply(&mut nodes, change),
                Change::Write { node, at, bytes } => {
                    let torn = Torn {
                        survival,
                        block_bytes,
                        node: *node,
                    };
                    torn.write(&mut nodes, *at, bytes, dice);
                }
                change if dice.chance(survival) => apply(&mut nodes, change),
                _ => {}
            }
        }
        SimFs::of(nodes)
    }
}

fn blank_nodes(sim: &Sim) -> Vec<Node> {
    let mut nodes = sim.base.clone();
    for node in &sim.nodes[nodes.len()..] {
        nodes.push(match node {
            Node::File(_) => Node::File(Vec::new()),
            Node::Folder(_) => Node::Folder(BTreeMap::new()),
        });
    }
    nodes
}

/// For each change, whether the first sync after it of all that it touched worked.
fn sure_changes(journal: &[Change]) -> Vec<bool> {
    let mut next_sync: BTreeMap<NodeId, bool> = BTreeMap::new();
    let mut sure = vec![false; journal.len()];
    for (change, sure) in journal.iter().zip(&mut sure).rev() {
        let synced = |node: &NodeId| next_sync.get(node) == Some(&true);
        match change {
            Change::Sync { node, worked } => {
                next_sync.insert(*node, *worked);
            }
            Change::Write { node, .. } | Change::SetLen { node, .. } => *sure = synced(node),
            Change::Names(edits) => *sure = edits.iter().all(|edit| synced(&edit.folder)),
        }
    }
    sure
}

struct Torn {
    survival: usize,
    block_bytes: u64,
    node: NodeId,
}

impl Torn {
    fn write(&self, nodes: &mut [Node], at: u64, bytes: &[u8], dice: &mut Dice) {
        let mut from = 0;
        while from < bytes.len() {
            let position = at + from as u64;
            let left_in_block = self.block_bytes - position % self.block_bytes;
            let to = bytes.len().min(from + left_in_block as usize);
            if dice.chance(self.survival) {
                let bytes = bytes[from..to].to_vec();
                apply(
                    nodes,
                    &Change::Write {
                        node: self.node,
                        at: position,
                        bytes,
                    },
                );
            } else if dice.chance(self.survival) {
                self.grow(nodes, at + to as u64); // the size got there, the bytes did not
            }
            from = to;
        }
    }

    fn grow(&self, nodes: &mut [Node], len: u64) {
        if let Node::File(old) = &nodes[self.node] {
            let len = len.max(old.len() as u64);
            apply(
                nodes,
                &Change::SetLen {
                    node: self.node,
                    len,
                },
            );
        }
    }
}
