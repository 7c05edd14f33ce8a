//! A column of a segment: values in memory, or in a mapped file.

use std::ops::{Deref, Range};

use bytemuck::Pod;

use crate::storage::Map;

/// Values of one type, one or several per row. In a mapped file they are not verified: see `Segment::readable`.
pub(crate) enum Column<T> {
    /// In memory.
    Owned(Vec<T>),
    /// A range of a file's bytes, checked at construction for alignment and size.
    Mapped(Map, Range<usize>),
}

impl<T: Pod> Column<T> {
    /// The values in a section of a file, if there are exactly `count` of them.
    pub(crate) fn mapped(map: &Map, section: Range<usize>, count: usize) -> Option<Column<T>> {
        let values: &[T] = bytemuck::try_cast_slice(map.get(section.clone())?).ok()?;
        (values.len() == count).then(|| Column::Mapped(map.clone(), section))
    }

    /// The vector behind a column that was built in memory.
    pub(crate) fn owned(&mut self) -> &mut Vec<T> {
        match self {
            Column::Owned(values) => values,
            Column::Mapped(..) => unreachable!("only columns under construction are appended to"),
        }
    }
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Column::Owned(Vec::new())
    }
}

impl<T: Pod> Deref for Column<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match self {
            Column::Owned(values) => values,
            Column::Mapped(map, section) => bytemuck::cast_slice(&map[section.clone()]),
        }
    }
}
