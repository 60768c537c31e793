//! Which cache block belongs to whom: allocation, reservation, reuse of prefixes.
//!
//! A full block is known by a hash over its tokens, all tokens before it, the adapter that computed it,
//! and the partition of the request (tenant and privacy label). Partitions therefore never share a block: the hash is SHA-256,
//! and without the partition nobody can ask for its blocks. Blocks are counted by reference; those
//! that nobody uses stay findable until their memory is needed, the least recently used first.
//!
//! Admission reserves all blocks that a request may ever need, so that a running request is never
//! stopped for want of memory.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

use crate::kernel::TOKENS;

/// Name of a full block: its tokens, everything before them, and the partition.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Key {
    /// The start of every chain of a partition, computed with an adapter or without.
    pub(crate) fn root(partition: &Partition, adapter: Option<usize>) -> Self {
        let mut hash = Sha256::new();
        hash.update(adapter.map_or(0, |place| place as u64 + 1).to_le_bytes());
        for part in [&partition.tenant, &partition.label] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        Self(hash.finalize().into())
    }

    /// The block of `tokens` after this one.
    #[must_use]
    pub(crate) fn next(&self, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        for token in tokens {
            hash.update(token.to_le_bytes());
        }
        Self(hash.finalize().into())
    }

    /// Names of all full blocks of `tokens` that start at `root`.
    pub(crate) fn chain(root: Self, tokens: &[u32]) -> Vec<Self> {
        let mut key = root;
        let (blocks, _) = tokens.as_chunks::<TOKENS>();
        let mut chain = Vec::with_capacity(blocks.len());
        for block in blocks {
            key = key.next(block);
            chain.push(key);
        }
        chain
    }
}

/// Whose prefixes may be reused: requests of the same tenant and privacy label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Partition {
    tenant: String,
    label: String,
}

impl Partition {
    /// The partition of a tenant and a privacy label.
    pub fn new(tenant: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            tenant: tenant.into(),
            label: label.into(),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Block {
    users: u32,
    key: Option<Key>,
    /// Since when nobody uses it; meaningful while it is idle.
    since: u64,
}

/// The blocks of one engine.
pub(crate) struct Cache {
    blocks: Vec<Block>,
    free: Vec<u32>,
    known: HashMap<Key, u32>,
    /// Known blocks without a user, the oldest first.
    idle: BTreeMap<u64, u32>,
    reserved: usize,
    clock: u64,
}

impl Cache {
    /// A cache of `blocks` blocks.
    pub(crate) fn new(blocks: u32) -> Self {
        Self {
            blocks: vec![Block::default(); blocks as usize],
            free: (0..blocks).rev().collect(),
            known: HashMap::new(),
            idle: BTreeMap::new(),
            reserved: 0,
            clock: 0,
        }
    }

    /// All blocks.
    pub(crate) const fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that a request uses or has reserved.
    pub(crate) fn used(&self) -> usize {
        self.total() - self.available()
    }

    /// Blocks that can be reserved.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.idle.len() - self.reserved
    }

    /// Takes the longest known prefix of `chain` and reserves blocks up to `total` beyond it, `extra`
    /// more for others of its group. `None`, and nothing taken, where there is no room.
    pub(crate) fn admit(&mut self, chain: &[Key], total: usize, extra: usize) -> Option<Vec<u32>> {
        let hits: Vec<u32> = chain
            .iter()
            .map_while(|key| self.known.get(key).copied())
            .collect();
        let waking = hits
            .iter()
            .filter(|&&block| self.blocks[block as usize].users == 0)
            .count();
        let wanted = total.saturating_sub(hits.len()) + extra;
        if waking + wanted > self.available() {
            return None;
        }
        for &block in &hits {
            self.share(block);
        }
        self.reserved += wanted;
        Some(hits)
    }

    /// One more user of a block that is in use or idle.
    pub(crate) fn share(&mut self, block: u32) {
        let state = &mut self.blocks[block as usize];
        if state.users == 0 {
            self.idle.remove(&state.since);
        }
        state.users += 1;
    }

    /// Turns one reservation into a block. `None` only if nothing was reserved.
    pub(crate) fn take(&mut self) -> Option<u32> {
        self.reserved = self.reserved.checked_sub(1)?;
        let block = match self.free.pop() {
            Some(block) => block,
            None => self.evict()?,
        };
        self.blocks[block as usize] = Block {
            users: 1,
            key: None,
            since: 0,
        };
        Some(block)
    }

    fn evict(&mut self) -> Option<u32> {
        let (_, block) = self.idle.pop_first()?;
        if let Some(key) = self.blocks[block as usize].key.take() {
            self.known.remove(&key);
        }
        Some(block)
    }

    /// Gives back reservations that will not be used.
    pub(crate) const fn unreserve(&mut self, count: usize) {
        self.reserved = self.reserved.saturating_sub(count);
    }

    /// Makes a full block findable. The first of two equal blocks stays the known one.
    pub(crate) fn publish(&mut self, block: u32, key: Key) {
        let state = &mut self.blocks[block as usize];
        if state.key.is_none() && !self.known.contains_key(&key) {
            state.key = Some(key);
            self.known.insert(key, block);
        }
    }

    /// One user less.
    pub(crate) fn release(&mut self, block: u32) {
        let state = &mut self.blocks[block as usize];
        state.users = state.users.saturating_sub(1);
        if state.users > 0 {
            return;
        }
        if state.key.is_some() {
            self.clock += 1;
            state.since = self.clock;
            self.idle.insert(self.clock, block);
        } else {
            self.free.push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(blocks: u32) -> Vec<u32> {
        (0..blocks * 32).collect()
    }

    fn fill(cache: &mut Cache, chain: &[Key]) -> Vec<u32> {
        let mut table = cache.admit(chain, chain.len(), 0).expect("there is room");
        while table.len() < chain.len() {
            let block = cache.take().expect("it was reserved");
            cache.publish(block, chain[table.len()]);
            table.push(block);
        }
        table
    }

    #[test]
    fn a_prefix_is_found_again_by_its_own_partition_only() {
        let (mine, other) = (
            Partition::new("a", "internal"),
            Partition::new("a", "public"),
        );
        let mut cache = Cache::new(8);
        let table = fill(&mut cache, &Key::chain(Key::root(&mine, None), &tokens(3)));
        for &block in &table {
            cache.release(block);
        }
        assert_eq!(cache.used(), 0);
        assert_eq!(
            cache.admit(&Key::chain(Key::root(&other, None), &tokens(3)), 3, 0),
            Some(vec![])
        );
        cache.unreserve(3);
        assert_eq!(
            cache.admit(&Key::chain(Key::root(&mine, None), &tokens(4)), 4, 0),
            Some(table)
        );
    }

    #[test]
    fn names_of_tenant_and_label_cannot_be_shifted_into_each_other() {
        let (one, two) = (Partition::new("ab", "c"), Partition::new("a", "bc"));
        assert!(Key::root(&one, None) != Key::root(&two, None));
    }

    #[test]
    fn what_an_adapter_computed_is_no_prefix_of_the_model_or_of_another_adapter() {
        let mine = Partition::new("a", "internal");
        let roots = [None, Some(0), Some(1)].map(|adapter| Key::root(&mine, adapter));
        assert!(roots[0] != roots[1] && roots[1] != roots[2] && roots[0] != roots[2]);
    }

    #[test]
    fn memory_is_taken_from_the_least_recently_used_prefix() {
        let mut cache = Cache::new(4);
        let (old, new) = (Partition::new("old", ""), Partition::new("new", ""));
        for partition in [&old, &new] {
            let table = fill(
                &mut cache,
                &Key::chain(Key::root(partition, None), &tokens(2)),
            );
            for &block in &table {
                cache.release(block);
            }
        }
        assert_eq!(cache.admit(&[], 2, 0), Some(vec![]));
        assert!(cache.take().is_some() && cache.take().is_some());
        assert_eq!(
            cache
                .admit(&Key::chain(Key::root(&new, None), &tokens(2)), 2, 0)
                .map(|hits| hits.len()),
            Some(2)
        );
        assert_eq!(
            cache.admit(&Key::chain(Key::root(&old, None), &tokens(2)), 0, 0),
            Some(vec![])
        );
    }

    #[test]
    fn what_was_reserved_is_there_and_what_was_refused_takes_nothing() {
        let mut cache = Cache::new(3);
        assert!(cache.admit(&[], 2, 0).is_some());
        assert_eq!((cache.available(), cache.admit(&[], 2, 0)), (1, None));
        assert_eq!(cache.available(), 1);
        assert!(cache.take().is_some() && cache.take().is_some());
        assert_eq!((cache.take(), cache.used()), (None, 2));
    }
}
