//! Which rows a search may return.

use roaring::RoaringBitmap;

/// A filter over rows. Deleted rows are the caller's to exclude.
#[derive(Clone, Copy)]
pub enum Allowed<'a> {
    /// Every row.
    All,
    /// The rows of a bitmap, which can also be walked when it is small.
    Bitmap(&'a RoaringBitmap),
    /// These rows, ascending: they are walked.
    Rows(&'a [u32]),
    /// The rows for which the function is true.
    Test(&'a (dyn Fn(u32) -> bool + Sync)),
}

impl Allowed<'_> {
    /// True if `row` may be returned.
    #[inline]
    pub fn contains(&self, row: u32) -> bool {
        match self {
            Allowed::All => true,
            Allowed::Bitmap(b) => b.contains(row),
            Allowed::Rows(rows) => rows.binary_search(&row).is_ok(),
            Allowed::Test(f) => f(row),
        }
    }

    /// True if nothing is filtered.
    #[inline]
    pub fn is_all(&self) -> bool {
        matches!(self, Allowed::All)
    }
}

impl<'a> From<Option<&'a (dyn Fn(u32) -> bool + Sync)>> for Allowed<'a> {
    fn from(test: Option<&'a (dyn Fn(u32) -> bool + Sync)>) -> Allowed<'a> {
        test.map_or(Allowed::All, Allowed::Test)
    }
}
