//! Differences of texts by lines: hunks of a patch, and the merge of two changes of one text.
//!
//! Lines that both have are found by the greedy algorithm of E. W. Myers, "An O(ND) Difference Algorithm and Its
//! Variations" (1986), between what the texts have in common at both ends.

use std::io::Write;

/// Differences beyond which what lies between the common ends counts as wholly replaced: the algorithm keeps its way,
/// four bytes for each of the square of their number.
const DIFFERENCES_MAX: usize = 1_500;

/// Lines of context around a change.
const CONTEXT: usize = 3;

/// Lines with their ends; the last may have none.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

/// Pairs of lines that are the same in both, in order.
fn same(old: &[&[u8]], new: &[&[u8]]) -> Vec<(usize, usize)> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old[head..].iter().rev().zip(new[head..].iter().rev());
    let tail = rest.take_while(|(a, b)| a == b).count();
    let (old_end, new_end) = (old.len() - tail, new.len() - tail);
    let mut pairs: Vec<_> = (0..head).map(|at| (at, at)).collect();
    let between = same_between(&old[head..old_end], &new[head..new_end]);
    pairs.extend(between.into_iter().map(|(a, b)| (a + head, b + head)));
    pairs.extend((0..tail).map(|at| (old_end + at, new_end + at)));
    pairs
}

/// Of texts that differ at both ends.
fn same_between(old: &[&[u8]], new: &[&[u8]]) -> Vec<(usize, usize)> {
    let most = (old.len() + new.len()).min(DIFFERENCES_MAX);
    // How far one gets on each diagonal, by diagonal + most + 1; and what that was before each number of differences.
    let mut reached = vec![0u32; 2 * most + 3];
    let mut before: Vec<Vec<u32>> = Vec::new();
    let index = |diagonal: isize| (diagonal + most as isize + 1) as usize;
    for differences in 0..=most as isize {
        before.push(reached[index(-differences) - 1..=index(differences) + 1].to_vec());
        for diagonal in (-differences..=differences).step_by(2) {
            let (below, above) = (reached[index(diagonal) - 1], reached[index(diagonal) + 1]);
            let down = diagonal == -differences || (diagonal != differences && below < above);
            let mut x = if down { above } else { below + 1 } as usize;
            let mut y = (x as isize - diagonal) as usize;
            while x < old.len() && y < new.len() && old[x] == new[y] {
                (x, y) = (x + 1, y + 1);
            }
            reached[index(diagonal)] = x as u32;
            if x >= old.len() && y >= new.len() {
                return way_back(old.len(), new.len(), &before);
            }
        }
    }
    Vec::new()
}

/// The diagonal steps of the way that was found, from its end.
fn way_back(old: usize, new: usize, before: &[Vec<u32>]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let (mut x, mut y) = (old as isize, new as isize);
    for (differences, reached) in before.iter().enumerate().rev() {
        let differences = differences as isize;
        let at = |diagonal: isize| reached[(diagonal + differences + 1) as usize] as isize;
        let diagonal = x - y;
        let down =
            diagonal == -differences || (diagonal != differences && at(diagonal - 1) < at(diagonal + 1));
        let from = if down { diagonal + 1 } else { diagonal - 1 };
        let (from_x, from_y) = match differences {
            0 => (0, 0),
            _ => (at(from), at(from) - from),
        };
        while x > from_x && y > from_y {
            (x, y) = (x - 1, y - 1);
            pairs.push((x as usize, y as usize));
        }
        (x, y) = (from_x, from_y);
    }
    pairs.reverse();
    pairs
}

/// Lines of the old text that give way to lines of the new one.
#[derive(Clone, Copy)]
struct Change {
    old: (usize, usize),
    new: (usize, usize),
}

fn changes(pairs: &[(usize, usize)], ends: (usize, usize)) -> Vec<Change> {
    let (mut found, mut at) = (Vec::new(), (0, 0));
    for &pair in pairs.iter().chain([&ends]) {
        if pair != at {
            found.push(Change {
                old: (at.0, pair.0),
                new: (at.1, pair.1),
            });
        }
        at = (pair.0 + 1, pair.1 + 1);
    }
    found
}

/// The hunks of a unified diff; none for equal texts.
pub(super) fn hunks(old: &[u8], new: &[u8]) -> Vec<u8> {
    let (old, new) = (lines(old), lines(new));
    let changes = changes(&same(&old, &new), (old.len(), new.len()));
    let mut out = Vec::new();
    let mut rest = &changes[..];
    while let Some(first) = rest.first() {
        let near = |pair: &&[Change]| pair[1].old.0 - pair[0].old.1 <= 2 * CONTEXT;
        let count = 1 + rest.windows(2).take_while(near).count();
        let (together, further) = rest.split_at(count);
        rest = further;
        let last = together[count - 1];
        let lead = first.old.0.min(CONTEXT);
        let trail = (old.len() - last.old.1).min(CONTEXT);
        let from = (first.old.0 - lead, last.old.1 + trail);
        let to = (first.new.0 - lead, last.new.1 + trail);
        // A range without lines is named by the line before it.
        let start = |range: (usize, usize)| range.0 + usize::from(range.1 > range.0);
        let _ = writeln!(
            out,
            "@@ -{},{} +{},{} @@",
            start(from),
            from.1 - from.0,
            start(to),
            to.1 - to.0
        );
        let mut at = from.0;
        for change in together {
            old[at..change.old.0]
                .iter()
                .for_each(|line| push(&mut out, b' ', line));
            old[change.old.0..change.old.1]
                .iter()
                .for_each(|line| push(&mut out, b'-', line));
            new[change.new.0..change.new.1]
                .iter()
                .for_each(|line| push(&mut out, b'+', line));
            at = change.old.1;
        }
        old[at..from.1].iter().for_each(|line| push(&mut out, b' ', line));
    }
    out
}

fn push(out: &mut Vec<u8>, sign: u8, line: &[u8]) {
    out.push(sign);
    out.extend_from_slice(line);
    if line.last() != Some(&b'\n') {
        out.extend_from_slice(b"\n\\ No newline at end of file\n");
    }
}

/// Both changes of a text; none where they change the same lines differently.
pub(super) fn merge(base: &[u8], one: &[u8], other: &[u8]) -> Option<Vec<u8>> {
    let (base, one, other) = (lines(base), lines(one), lines(other));
    let in_one = same(&base, &one);
    let in_other: std::collections::HashMap<_, _> = same(&base, &other).into_iter().collect();
    let both = in_one
        .iter()
        .filter_map(|(at, first)| Some((*at, *first, *in_other.get(at)?)));
    let mut out = Vec::new();
    let mut at = (0, 0, 0);
    for (in_base, first, second) in both.chain([(base.len(), one.len(), other.len())]) {
        let parts = (&base[at.0..in_base], &one[at.1..first], &other[at.2..second]);
        let merged = match parts {
            (before, first, second) if before == first => second,
            (before, first, second) if before == second || first == second => first,
            _ => return None,
        };
        merged.iter().for_each(|line| out.extend_from_slice(line));
        if let Some(line) = base.get(in_base) {
            out.extend_from_slice(line);
        }
        at = (in_base + 1, first + 1, second + 1);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(lines: &[&str]) -> Vec<u8> {
        lines
            .iter()
            .flat_map(|line| format!("{line}\n").into_bytes())
            .collect()
    }

    #[test]
    fn hunks_are_those_of_diff() {
        let old = text(&[
            "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13",
        ]);
        let new = text(&["1", "two", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"]);
        assert_eq!(
            String::from_utf8(hunks(&old, &new)).unwrap(),
            "@@ -1,5 +1,5 @@\n 1\n-2\n+two\n 3\n 4\n 5\n@@ -10,4 +10,3 @@\n 10\n 11\n 12\n-13\n"
        );
        assert_eq!(hunks(b"", b"a\n"), b"@@ -0,0 +1,1 @@\n+a\n");
        assert_eq!(
            String::from_utf8(hunks(b"a", b"a\n")).unwrap(),
            "@@ -1,1 +1,1 @@\n-a\n\\ No newline at end of file\n+a\n"
        );
        assert_eq!(hunks(&old, &old), b"");
    }

    #[test]
    fn changes_of_other_lines_merge_and_those_of_the_same_do_not() {
        let base = text(&["a", "b", "c", "d", "e"]);
        let one = text(&["A", "b", "c", "d", "e"]);
        let other = text(&["a", "b", "c", "d", "e", "f"]);
        assert_eq!(
            merge(&base, &one, &other).unwrap(),
            text(&["A", "b", "c", "d", "e", "f"])
        );
        assert_eq!(merge(&base, &one, &one).unwrap(), one);
        assert_eq!(merge(&base, &base, &one).unwrap(), one);
        assert_eq!(merge(&base, &one, &text(&["X", "b", "c", "d", "e"])), None);
    }

    /// Applies hunks as patch(1) does.
    fn apply(old: &[u8], hunks: &[u8]) -> Vec<u8> {
        let old = lines(old);
        let (mut out, mut at) = (Vec::new(), 0);
        let mut hunks = lines(hunks).into_iter().peekable();
        while let Some(line) = hunks.next() {
            let bare = hunks.next_if(|next| next.starts_with(b"\\")).is_some();
            let content = &line[1..line.len() - usize::from(bare)];
            match line[0] {
                b'@' => {
                    let text = std::str::from_utf8(line).unwrap();
                    let range = text[4..].split(' ').next().unwrap();
                    let (start, count) = range.split_once(',').unwrap();
                    let (start, count): (usize, usize) = (start.parse().unwrap(), count.parse().unwrap());
                    let start = if count == 0 { start } else { start - 1 };
                    old[at..start].iter().for_each(|line| out.extend_from_slice(line));
                    at = start;
                }
                b'+' => out.extend_from_slice(content),
                sign => {
                    assert_eq!(old[at], content);
                    at += 1;
                    if sign == b' ' {
                        out.extend_from_slice(content);
                    }
                }
            }
        }
        old[at..].iter().for_each(|line| out.extend_from_slice(line));
        out
    }

    fn any_text() -> impl Strategy<Value = Vec<u8>> {
        let line = prop::sample::select(vec!["a\n", "b\n", "c\n", "\n"]);
        (prop::collection::vec(line, 0..30), any::<bool>()).prop_map(|(lines, bare)| {
            let mut text = lines.concat().into_bytes();
            if bare {
                text.extend_from_slice(b"end");
            }
            text
        })
    }

    proptest! {
        #[test]
        fn hunks_make_the_new_text_of_the_old(old in any_text(), new in any_text()) {
            prop_assert_eq!(apply(&old, &hunks(&old, &new)), new);
        }

        #[test]
        fn a_merge_with_no_change_is_the_other_change(base in any_text(), new in any_text()) {
            prop_assert_eq!(merge(&base, &base, &new), Some(new.clone()));
            prop_assert_eq!(merge(&base, &new, &base), Some(new));
        }
    }
}
