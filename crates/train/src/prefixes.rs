//! Which rows of an update begin with the same tokens, so that these are computed once.

/// Rows that share their first `prefix` tokens; a row alone shares none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) prefix: usize,
    /// Numbers of rows, rising.
    pub(crate) rows: Vec<usize>,
}

impl Group {
    pub(crate) fn alone(row: usize) -> Self {
        Self {
            prefix: 0,
            rows: vec![row],
        }
    }
}

/// The groups that save most tokens, in the order of their first rows.
///
/// In the order of their tokens, rows that begin alike are neighbours: so the best groups are the best
/// way to cut that order, and a cut's worth is that of the cut before its last group and of that group.
pub(crate) fn groups(rows: &[&[u32]]) -> Vec<Group> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|row| rows[*row]);
    // For the first n of the order: tokens saved, and where the last group begins and what it shares.
    let mut best = vec![(0, 0, 0)];
    for end in 1..=order.len() {
        best.push(last_group(rows, &order[..end], &best));
    }
    let (mut groups, mut end) = (Vec::new(), order.len());
    while end > 0 {
        let (_, first, prefix) = best[end];
        let mut rows = order[first..end].to_vec();
        rows.sort_unstable();
        groups.push(Group { prefix, rows });
        end = first;
    }
    groups.sort_by_key(|group| group.rows[0]);
    groups
}

fn last_group(
    rows: &[&[u32]],
    order: &[usize],
    best: &[(usize, usize, usize)],
) -> (usize, usize, usize) {
    let last = order.len() - 1;
    let mut found = (best[last].0, last, 0);
    let mut shared = usize::MAX;
    for first in (0..last).rev() {
        let (one, next) = (rows[order[first]], rows[order[first + 1]]);
        shared = shared.min(common(one, next));
        if shared == 0 {
            break;
        }
        let saved = best[first].0 + (last - first) * shared;
        if saved > found.0 {
            found = (saved, first, shared);
        }
    }
    found
}

fn common(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rows: &[&[u32]]) -> Vec<(usize, Vec<usize>)> {
        let found = groups(rows).into_iter();
        found.map(|group| (group.prefix, group.rows)).collect()
    }

    #[test]
    fn strangers_stay_alone_and_in_order() {
        assert_eq!(
            found(&[&[9], &[], &[3, 3], &[]]),
            [(0, vec![0]), (0, vec![1]), (0, vec![2]), (0, vec![3])]
        );
        assert_eq!(found(&[]), []);
    }

    #[test]
    fn one_opening_serves_all_unless_pairs_save_more() {
        let opening: &[&[u32]] = &[&[1, 2, 5], &[1, 2, 6], &[1, 2, 7]];
        assert_eq!(found(opening), [(2, vec![0, 1, 2])]);
        // One shared opening of one token saves 3, two pairs of four tokens save 8.
        let pairs: &[&[u32]] = &[
            &[1, 2, 3, 4],
            &[1, 7, 7, 7, 8],
            &[1, 2, 3, 4, 5],
            &[1, 7, 7, 7, 9],
        ];
        assert_eq!(found(pairs), [(4, vec![0, 2]), (4, vec![1, 3])]);
    }

    #[test]
    fn no_other_cut_of_a_few_rows_saves_more() {
        let rows: Vec<Vec<u32>> = (0..6u32)
            .map(|row| (0..5).map(|at| row * 7 / (5 - at) % 3).collect())
            .collect();
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let saved = |group: &Group| (group.rows.len() - 1) * group.prefix;
        let ours: usize = groups(&rows).iter().map(saved).sum();
        let mut most = 0;
        // Every way to give six rows to six groups.
        for code in 0..6usize.pow(6) {
            let group = |row: usize| code / 6usize.pow(row as u32) % 6;
            let of = |number: usize| (0..6).filter(move |row| group(*row) == number);
            let each = (0..6).map(|number| {
                let members: Vec<_> = of(number).collect();
                let shared = members
                    .iter()
                    .map(|row| common(rows[members[0]], rows[*row]));
                shared.min().unwrap_or(0) * members.len().saturating_sub(1)
            });
            most = most.max(each.sum());
        }
        assert!(most > 0);
        assert_eq!(ours, most);
    }
}
