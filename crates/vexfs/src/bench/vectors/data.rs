//! Vectors from files, from a generator, and from text on this machine.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use vexfs_core::semantic::embed::{Embedder, StaticModel};
use vexfs_core::semantic::passages::{self, Form};

/// Rows of f32, one after the other.
pub(in crate::bench) struct Matrix {
    pub(in crate::bench) dim: usize,
    pub(in crate::bench) values: Vec<f32>,
}

/// A data set to be written.
#[derive(Args)]
pub(super) struct Wanted {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Subcommand)]
enum Kind {
    /// Gaussian clusters of power-law size with 32 dimensions of their own, in a shared space of 24, and a little noise
    Clustered {
        /// Elements of a vector
        #[arg(long, default_value_t = 384)]
        dim: usize,
        #[command(flatten)]
        size: Size,
    },
    /// Passages of text files on this machine, embedded by the built-in model
    Text {
        /// Directories to walk
        #[arg(long, required = true, num_args = 1..)]
        from: Vec<PathBuf>,
        #[command(flatten)]
        size: Size,
    },
}

#[derive(Args)]
struct Size {
    /// Rows to index
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
    /// Held-out queries
    #[arg(long, default_value_t = 1000)]
    queries: usize,
    /// Seed of the generator, or of the shuffle
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Directory for base.npy and queries.npy
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Wanted {
    pub(super) fn write(&self) -> anyhow::Result<()> {
        let (all, size) = match &self.kind {
            Kind::Clustered { dim, size } => {
                ensure!(*dim > 0, "a vector has at least one dimension");
                (clustered(size.rows + size.queries, *dim, size.seed), size)
            }
            Kind::Text { from, size } => (from_text(from, size.rows + size.queries, size.seed)?, size),
        };
        ensure!(
            all.len() > size.queries,
            "only {} vectors for {} queries",
            all.len(),
            size.queries
        );
        let rows = (all.len() - size.queries).min(size.rows);
        let (base, queries) = all.split(rows);
        fs::create_dir_all(&size.out)?;
        base.write_npy(&size.out.join("base.npy"))?;
        queries.write_npy(&size.out.join("queries.npy"))?;
        println!(
            "{} rows and {} queries of {} dimensions",
            base.len(),
            queries.len(),
            base.dim
        );
        Ok(())
    }
}

impl Matrix {
    pub(super) fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    pub(super) fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim)
    }

    /// The first `rows` rows, and the rest.
    pub(super) fn split(mut self, rows: usize) -> (Matrix, Matrix) {
        let rest = self.values.split_off(rows * self.dim);
        (
            Matrix {
                dim: self.dim,
                values: self.values,
            },
            Matrix {
                dim: self.dim,
                values: rest,
            },
        )
    }

    pub(super) fn read(path: &Path) -> anyhow::Result<Matrix> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let matrix = match extension(path) {
            "npy" => {
                let (kind, dim, data) = npy(&bytes)?;
                ensure!(kind == "<f4", "{}: elements are {kind}, not f32", path.display());
                Matrix {
                    dim,
                    values: on_huge_pages(data.len() / 4, words(data).map(f32::from_bits)),
                }
            }
            "fvecs" => {
                let (dim, values) = vecs(&bytes)?;
                Matrix {
                    dim,
                    values: on_huge_pages(values.len(), values.iter().map(|&x| f32::from_bits(x))),
                }
            }
            other => bail!("{}: '.{other}' is neither .npy nor .fvecs", path.display()),
        };
        ensure!(
            matrix.dim > 0 && !matrix.values.is_empty(),
            "{}: no vectors",
            path.display()
        );
        ensure!(
            matrix.values.iter().all(|x| x.is_finite()),
            "{}: a value is not finite",
            path.display()
        );
        Ok(matrix)
    }

    fn write_npy(&self, path: &Path) -> anyhow::Result<()> {
        let mut head = format!(
            "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}",
            self.len(),
            self.dim
        );
        while !(head.len() + 11).is_multiple_of(64) {
            head.push(' ');
        }
        head.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((head.len() as u16).to_le_bytes());
        bytes.extend(head.as_bytes());
        self.values.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
    }
}

/// `count` values on huge pages where the system has them, as the graph keeps its own: rows far apart from each other
/// cost a walk through the page tables each, a third of a search on a virtual machine.
fn on_huge_pages(count: usize, values: impl Iterator<Item = f32>) -> Vec<f32> {
    const PAGE: usize = 2 << 20;
    let mut all: Vec<f32> = Vec::with_capacity(count);
    let room = all.spare_capacity_mut();
    let start = (room.as_ptr() as usize).next_multiple_of(PAGE);
    let end = (room.as_ptr() as usize + size_of_val(room)) / PAGE * PAGE;
    if start < end {
        // SAFETY: the range lies inside memory of our own that nothing was written to yet; the advice changes no value.
        // Without huge pages everything is slower, not wrong, so an error is of no interest.
        let _ =
            unsafe { rustix::mm::madvise(start as *mut _, end - start, rustix::mm::Advice::LinuxHugepage) };
    }
    all.extend(values);
    all
}

/// The nearest `k` rows of every query.
pub(super) fn read_truth(path: &Path, k: usize, queries: usize) -> anyhow::Result<Vec<Vec<u32>>> {
    let bytes = fs::read(path)?;
    let (width, ids): (usize, Vec<u32>) = match extension(path) {
        "ivecs" => vecs(&bytes)?,
        "npy" => {
            let (kind, width, data) = npy(&bytes)?;
            match kind {
                "<i4" | "<u4" => (width, words(data).collect()),
                "<i8" | "<u8" => (width, words(data).step_by(2).collect()),
                _ => bail!("elements are {kind}, not integers"),
            }
        }
        other => bail!("'.{other}' is neither .ivecs nor .npy"),
    };
    ensure!(width >= k, "{width} neighbours a query, {k} are needed");
    ensure!(
        ids.len() / width == queries,
        "{} lists for {queries} queries",
        ids.len() / width
    );
    Ok(ids.chunks_exact(width).map(|row| row[..k].to_vec()).collect())
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or("")
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes
        .chunks_exact(4)
        .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
}

/// Element kind, columns and data of a two-dimensional array in row order.
fn npy(bytes: &[u8]) -> anyhow::Result<(&str, usize, &[u8])> {
    ensure!(
        bytes.starts_with(b"\x93NUMPY") && bytes.len() > 12,
        "no .npy file"
    );
    let (at, length) = match bytes[6] {
        1 => (10, usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))),
        _ => (
            12,
            u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize,
        ),
    };
    let head = bytes.get(at..at + length).context("cut short")?;
    let head = std::str::from_utf8(head)?;
    let after = |key: &str, open: char, close: char| {
        let rest = head.split_once(key)?.1.split_once(open)?.1;
        Some(rest.split_once(close)?.0)
    };
    let kind = after("'descr':", '\'', '\'').context("no element kind")?;
    let shape = after("'shape':", '(', ')').context("no shape")?;
    ensure!(head.contains("False"), "columns first; rows first are needed");
    let sizes: Vec<usize> = shape
        .split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [rows, columns] = sizes[..] else {
        bail!("{} dimensions, two are needed", sizes.len())
    };
    let element = if kind.ends_with('8') { 8 } else { 4 };
    let size = rows
        .checked_mul(columns)
        .and_then(|n| n.checked_mul(element))
        .context("impossible shape")?;
    let data = &bytes[at + length..];
    Ok((kind, columns, data.get(..size).context("cut short")?))
}

/// Rows with their length in front, all of one length.
fn vecs(bytes: &[u8]) -> anyhow::Result<(usize, Vec<u32>)> {
    let dim = words(bytes).next().context("empty file")? as usize;
    ensure!(
        dim > 0 && bytes.len().is_multiple_of(4 * (dim + 1)),
        "rows of different length"
    );
    let all: Vec<u32> = words(bytes).collect();
    ensure!(
        all.iter().step_by(dim + 1).all(|&d| d as usize == dim),
        "rows of different length"
    );
    Ok((
        dim,
        all.chunks_exact(dim + 1)
            .flat_map(|row| row[1..].to_vec())
            .collect(),
    ))
}

/// The generator of `vectors-data clustered`; unit length.
pub(in crate::bench) fn clustered(n: usize, dim: usize, seed: u64) -> Matrix {
    const CLUSTERS: usize = 256;
    const LATENT: usize = 24;
    const LOCAL: usize = 32;
    let mut random = Random(seed);
    let scale = 1.0 / (dim as f32).sqrt();
    let shared: Vec<f32> = (0..LATENT * dim)
        .map(|_| random.normal() / (LATENT as f32).sqrt())
        .collect();
    let centres: Vec<Vec<f32>> = (0..CLUSTERS)
        .map(|_| {
            let place: Vec<f32> = (0..LATENT).map(|_| random.normal() * 0.6).collect();
            combined(&place, &shared, dim)
        })
        .collect();
    let bases: Vec<Vec<f32>> = (0..CLUSTERS)
        .map(|_| {
            (0..LOCAL * dim)
                .map(|i| random.normal() * scale * 1.2 / ((i / dim + 1) as f32).sqrt())
                .collect()
        })
        .collect();
    let weights: Vec<f32> = (1..=CLUSTERS).map(|i| (i as f32).powf(-0.7)).collect();
    let total: f32 = weights.iter().sum();
    let mut values = Vec::with_capacity(n * dim);
    for _ in 0..n {
        let mut draw = random.uniform() * total;
        let cluster = weights
            .iter()
            .position(|w| {
                draw -= w;
                draw < 0.0
            })
            .unwrap_or(CLUSTERS - 1);
        let place: Vec<f32> = (0..LOCAL).map(|_| random.normal()).collect();
        let mut row = combined(&place, &bases[cluster], dim);
        row.iter_mut()
            .zip(&centres[cluster])
            .for_each(|(x, c)| *x += c + random.normal() * 0.25 * scale);
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        values.extend(row.iter().map(|x| x / length));
    }
    Matrix { dim, values }
}

fn combined(weights: &[f32], rows: &[f32], dim: usize) -> Vec<f32> {
    let mut sum = vec![0.0; dim];
    for (w, row) in weights.iter().zip(rows.chunks_exact(dim)) {
        sum.iter_mut().zip(row).for_each(|(s, x)| *s += w * x);
    }
    sum
}

/// A generator that gives the same numbers everywhere (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Box and Muller.
    fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.uniform()).cos()
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}

/// Passages of the readable text files below `roots`, embedded, without duplicates, shuffled.
fn from_text(roots: &[PathBuf], wanted: usize, seed: u64) -> anyhow::Result<Matrix> {
    let model = StaticModel::built_in();
    let dim = model.dim();
    let (mut values, mut seen) = (Vec::new(), HashSet::new());
    let mut pending: Vec<PathBuf> = roots.to_vec();
    while let Some(path) = pending.pop() {
        if values.len() / dim >= wanted {
            break;
        }
        let Ok(kind) = fs::symlink_metadata(&path) else {
            continue;
        };
        if kind.is_dir() {
            let mut inside: Vec<PathBuf> = fs::read_dir(&path)
                .into_iter()
                .flatten()
                .filter_map(|e| Some(e.ok()?.path()))
                .collect();
            inside.sort_unstable();
            pending.extend(inside);
        } else if kind.is_file() && kind.len() < 4 << 20 {
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            let cut = passages::split(&text, Form::Prose, model.tokenizer());
            let fresh: Vec<&str> = cut
                .iter()
                .map(|p| &text[p.bytes.clone()])
                .filter(|t| seen.insert(fingerprint(t)))
                .collect();
            let mut rows = vec![0.0; fresh.len() * dim];
            model.embed(&fresh, &mut rows)?;
            for row in rows.chunks_exact(dim).filter(|r| r.iter().any(|&x| x != 0.0)) {
                values.extend_from_slice(row);
            }
        }
    }
    values.truncate(wanted * dim);
    ensure!(!values.is_empty(), "no text found");
    let mut order: Vec<usize> = (0..values.len() / dim).collect();
    Random(seed).shuffle(&mut order);
    let shuffled = order
        .iter()
        .flat_map(|&i| values[i * dim..(i + 1) * dim].iter().copied())
        .collect();
    Ok(Matrix {
        dim,
        values: shuffled,
    })
}

/// A number for a text; two texts with the same are taken for the same.
fn fingerprint(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let matrix = clustered(30, 20, 3);
        let path = dir.path().join("m.npy");
        matrix.write_npy(&path).expect("written");
        let back = Matrix::read(&path).expect("read");
        assert_eq!((back.dim, &back.values), (20, &matrix.values));
        let bytes: Vec<u8> = matrix
            .iter()
            .flat_map(|row| {
                [
                    20u32.to_le_bytes().to_vec(),
                    row.iter().flat_map(|x| x.to_le_bytes()).collect(),
                ]
                .concat()
            })
            .collect();
        let path = dir.path().join("m.fvecs");
        fs::write(&path, bytes).expect("written");
        assert_eq!(Matrix::read(&path).expect("read").values, matrix.values);
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, bytes) in [
            ("a.npy", &b"\x93NUMPY\x01\x00\xff\xff"[..]),
            ("b.fvecs", &[3, 0, 0, 0, 1]),
            ("c.txt", b"1"),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, bytes).expect("written");
            assert!(Matrix::read(&path).is_err(), "{name}");
        }
    }

    #[test]
    fn generated_data_is_clustered_and_of_unit_length() {
        let m = clustered(2000, 64, 1);
        assert!(
            m.iter()
                .all(|r| (r.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4)
        );
        let near = |i: usize| {
            (0..m.len())
                .filter(|&j| j != i)
                .map(|j| {
                    m.row(i)
                        .iter()
                        .zip(m.row(j))
                        .map(|(a, b)| (a - b) * (a - b))
                        .sum::<f32>()
                })
                .fold(f32::INFINITY, f32::min)
        };
        let mean = (0..50).map(near).sum::<f32>() / 50.0;
        assert!(
            mean < 1.0,
            "nearest neighbours at {mean}; uniform data would be near 2"
        );
    }
}
