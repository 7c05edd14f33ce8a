//! VexFS: a stackable filesystem in which every file can be found by meaning.
