//! Import and export.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests fail their test, too"
)]

use std::sync::Arc;

use vexfs_vector::io::{Entries, Format, export, import};
use vexfs_vector::{Database, Error, Measure, Options, Space, SpaceConfig};

fn space(dir: &std::path::Path) -> Arc<Space> {
    let options = Options {
        background: false,
        durable: false,
        ..Options::default()
    };
    Database::open(dir, options)
        .unwrap()
        .create_space("s", SpaceConfig::new(3, Measure::L2))
        .unwrap()
}

fn fill(space: &Space) -> Vec<(u64, Vec<f32>)> {
    let rows: Vec<(u64, Vec<f32>)> = (0..100).map(|i| (i * 3, vec![i as f32, 0.1, -1e-20])).collect();
    space
        .upsert(&rows.iter().map(|(id, v)| (*id, &v[..])).collect::<Vec<_>>())
        .unwrap();
    rows
}

#[test]
fn every_format_gives_back_the_vectors() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let from = space(dirs[0].path());
    let rows = fill(&from);
    let into = space(dirs[1].path());
    for format in [
        Format::Npy,
        Format::Fvecs,
        Format::RawF32 { dim: 3 },
        Format::JsonLines,
    ] {
        let (mut bytes, mut reports) = (Vec::new(), Vec::new());
        let written = export(&from.snapshot(), format, &mut bytes, &mut |p| {
            reports.push((p.vectors, p.total));
            true
        });
        assert_eq!(written.unwrap(), 100);
        assert_eq!(reports, [(100, Some(100))]);
        into.delete_ranges(std::slice::from_ref(&(0..u64::MAX))).unwrap();
        assert_eq!(
            import(&into, format, &mut &bytes[..], 1000, &mut |p| p.vectors == 100).unwrap(),
            100
        );
        for (position, (id, vector)) in (1000..).zip(&rows) {
            let mut found = Vec::new();
            let id = if format == Format::JsonLines {
                *id
            } else {
                position
            };
            assert!(into.get(id, &mut found).unwrap(), "{format:?} {id}");
            assert_eq!(&found, vector, "{format:?}");
        }
    }
}

#[test]
fn ivecs_are_lists_of_numbers() {
    let bytes: Vec<u8> = [2i32, 7, -9, 1, 5].iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut input = &bytes[..];
    let lists: Vec<_> = Entries::read(Format::Ivecs, &mut input)
        .unwrap()
        .map(|e| e.unwrap().vector)
        .collect();
    assert_eq!(lists, [vec![7.0, -9.0], vec![5.0]]);
}

#[test]
fn malformed_input_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let space = space(dir.path());
    let refused = |format: Format, bytes: &[u8], text: &str| {
        let error = import(&space, format, &mut &bytes[..], 0, &mut |_| true).unwrap_err();
        assert!(matches!(error, Error::BadInput { .. }));
        assert_eq!(error.to_string(), text);
        assert!(space.is_empty());
    };
    refused(
        Format::RawF32 { dim: 3 },
        &[0; 16],
        "raw f32, vector 2: the file ends in the middle of a vector",
    );
    refused(
        Format::Fvecs,
        &[255; 8],
        "fvecs, vector 1: -1 components are not in 1..=16384",
    );
    refused(
        Format::Fvecs,
        &[3, 0, 0, 0],
        "fvecs, vector 1: the file ends in the middle of a vector",
    );
    refused(
        Format::Npy,
        b"PK",
        "npy, vector 1: the file ends in the middle of a vector",
    );
    refused(
        Format::Npy,
        b"PK34567890",
        "npy, header: this is not an .npy file",
    );
    let nan = b"{\"vector\": [1, 2, 3]}\n{\"vector\": [1e39, 2, 3]}\n";
    refused(
        Format::JsonLines,
        nan,
        "JSON lines, vectors 1 to 2: component 0 is not a finite number",
    );
    refused(
        Format::JsonLines,
        b"{\"vector\": [1, 2]}",
        "JSON lines, vectors 1 to 1: a vector of 2 components where the space has 3",
    );
    let error = import(
        &space,
        Format::JsonLines,
        &mut &b"{\"vector\": 5}"[..],
        0,
        &mut |_| true,
    )
    .unwrap_err();
    assert!(
        error.to_string().starts_with("JSON lines, line 1: invalid type"),
        "{error}"
    );
}

#[test]
fn the_progress_callback_can_stop_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let space = space(dir.path());
    fill(&space);
    let stopped = export(&space.snapshot(), Format::Npy, &mut Vec::new(), &mut |_| false);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let stopped = import(
        &space,
        Format::RawF32 { dim: 3 },
        &mut &[0; 24][..],
        0,
        &mut |_| false,
    );
    assert!(matches!(stopped, Err(Error::Cancelled)));
}
