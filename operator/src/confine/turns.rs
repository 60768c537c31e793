//! Whose canaries run next. All namespaces share the canaries that may run at once: none has more than its part,
//! however many pools it has and however long its canaries wait for a node, and who has waited longest is next.

use std::collections::BTreeMap;

/// Canaries that run at once, so that many namespaces are no burst.
pub(super) const AT_ONCE: usize = 10;
/// Of these, canaries of one namespace.
const EACH: usize = 3;

/// What one namespace has and wants.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) namespace: String,
    /// Canaries that run, or wait for a node.
    pub(super) running: usize,
    /// Canaries that are due.
    pub(super) due: usize,
}

/// Whose turn it was.
#[derive(Debug, Default)]
pub(super) struct Turns {
    count: u64,
    /// When a namespace had its last turn.
    last: BTreeMap<String, u64>,
}

impl Turns {
    /// Whose turns it is, in this order, by their places in `wishes`. A turn is had also by who makes nothing of it.
    pub(super) fn next(&mut self, wishes: &[Wish]) -> Vec<usize> {
        let known = |name: &String| wishes.iter().any(|one| one.namespace == *name);
        self.last.retain(|name, _| known(name));
        let mut left = wishes.to_vec();
        let mut running: usize = left.iter().map(|one| one.running).sum();
        let mut turns = Vec::new();
        while running < AT_ONCE {
            let may = left.iter().enumerate();
            let may = may.filter(|(_, one)| one.due > 0 && one.running < EACH);
            let waited = |(_, one): &(usize, &Wish)| self.last.get(&one.namespace).copied();
            let Some((place, _)) = may.min_by_key(waited) else {
                break;
            };
            self.count += 1;
            self.last.insert(left[place].namespace.clone(), self.count);
            left[place].due -= 1;
            left[place].running += 1;
            running += 1;
            turns.push(place);
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::{AT_ONCE, EACH, Turns, Wish};

    fn wish(namespace: &str, running: usize, due: usize) -> Wish {
        Wish {
            namespace: namespace.to_owned(),
            running,
            due,
        }
    }

    #[test]
    fn one_namespace_whose_canaries_find_no_node_leaves_room_for_others() {
        let mut turns = Turns::default();
        let wishes = [wish("a", 0, 32), wish("b", 0, 1), wish("c", 0, 2)];
        assert_eq!(turns.next(&wishes), [0, 1, 2, 0, 2, 0]);
        // Those of `a` are pending still.
        let wishes = [wish("a", EACH, 29), wish("b", 0, 1), wish("c", 0, 0)];
        assert_eq!(turns.next(&wishes), [1]);
    }

    #[test]
    fn no_more_run_at_once_than_may() {
        let wishes: Vec<Wish> = (0..30).map(|one| wish(&format!("n{one}"), 0, 5)).collect();
        assert_eq!(Turns::default().next(&wishes).len(), AT_ONCE);
        let mut busy = wishes;
        for one in &mut busy[..4] {
            one.running = EACH;
        }
        assert!(Turns::default().next(&busy).is_empty());
    }

    #[test]
    fn everybody_has_a_turn_however_many_never_end_well() {
        // Twenty namespaces whose canaries pend until they are given up, before one by name that is sound.
        let mut turns = Turns::default();
        let mut running = [0_usize; 21];
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds <= 3, "the sound one waits for ever");
            let wishes: Vec<Wish> = (0..21)
                .map(|one| wish(&format!("n{one:02}"), running[one], 32 - running[one]))
                .collect();
            let next = turns.next(&wishes);
            if next.contains(&20) {
                break;
            }
            // All of them are given up, and due again at once.
            running = [0; 21];
        }
        // Who makes nothing of a turn, since nothing could be made, does not keep it.
        let mut turns = Turns::default();
        let wishes: Vec<Wish> = (0..21)
            .map(|one| wish(&format!("n{one:02}"), 0, 32))
            .collect();
        let mut had = std::collections::BTreeSet::new();
        for _ in 0..3 {
            had.extend(turns.next(&wishes));
        }
        assert_eq!(had.len(), 21);
    }
}
