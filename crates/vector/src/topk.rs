//! The k nearest rows seen so far: a bounded max-heap whose root is the distance to beat.

/// Keeps the `k` smallest `(distance, row)` pairs pushed into it; ties go to the smaller row.
///
/// Pushing a pair that is not among the k nearest costs one comparison, which is what a scan mostly does.
#[derive(Clone, Debug)]
pub struct TopK {
    k: usize,
    heap: Vec<(f32, u32)>,
}

impl TopK {
    /// An empty set that will keep `k` pairs.
    pub fn new(k: usize) -> TopK {
        TopK {
            k,
            heap: Vec::with_capacity(k.min(4096)),
        }
    }

    /// The distance a new pair must not exceed to get in: infinity until `k` pairs are held.
    #[inline]
    pub fn worst(&self) -> f32 {
        if self.heap.len() < self.k {
            f32::INFINITY
        } else {
            self.heap.first().map_or(f32::NEG_INFINITY, |p| p.0)
        }
    }

    /// Offers one pair.
    #[inline]
    pub fn push(&mut self, row: u32, distance: f32) {
        if self.heap.len() < self.k {
            self.heap.push((distance, row));
            self.sift_up(self.heap.len() - 1);
        } else if self.k > 0 && before((distance, row), self.heap[0]) {
            self.heap[0] = (distance, row);
            self.sift_down();
        }
    }

    /// How many pairs are held.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True before the first push.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The rows held, nearest first.
    pub fn into_sorted(mut self) -> Vec<(u32, f32)> {
        self.heap
            .sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        self.heap.into_iter().map(|(d, r)| (r, d)).collect()
    }

    fn sift_up(&mut self, mut i: usize) {
        while i > 0 {
            let parent = (i - 1) / 2;
            if !before(self.heap[parent], self.heap[i]) {
                return;
            }
            self.heap.swap(parent, i);
            i = parent;
        }
    }

    fn sift_down(&mut self) {
        let mut i = 0;
        loop {
            let (left, right) = (2 * i + 1, 2 * i + 2);
            let mut top = i;
            if left < self.heap.len() && before(self.heap[top], self.heap[left]) {
                top = left;
            }
            if right < self.heap.len() && before(self.heap[top], self.heap[right]) {
                top = right;
            }
            if top == i {
                return;
            }
            self.heap.swap(top, i);
            i = top;
        }
    }
}

#[inline]
fn before(a: (f32, u32), b: (f32, u32)) -> bool {
    a.0 < b.0 || (a.0 == b.0 && a.1 < b.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn holds_exactly_the_k_smallest(d in prop::collection::vec(0u8..40, 0..200), k in 0usize..20) {
            let mut top = TopK::new(k);
            for (row, &x) in d.iter().enumerate() {
                top.push(row as u32, x as f32);
            }
            let mut all: Vec<(u32, f32)> = d.iter().enumerate().map(|(r, &x)| (r as u32, x as f32)).collect();
            all.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
            all.truncate(k);
            prop_assert_eq!(top.into_sorted(), all);
        }
    }

    #[test]
    fn worst_is_infinite_until_full() {
        let mut top = TopK::new(2);
        top.push(1, 5.0);
        assert_eq!(top.worst(), f32::INFINITY);
        top.push(2, 3.0);
        assert_eq!(top.worst(), 5.0);
        assert_eq!(TopK::new(0).worst(), f32::NEG_INFINITY);
    }
}
