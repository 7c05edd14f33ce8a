//! A database of the vectors in a file, asked for the neighbours of one of them.
//!
//! `cargo run --release -p vexfs-vector --example neighbours -- DIR base.npy 17` keeps the database in DIR: the second
//! run does not import the file again.

use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use vexfs_vector::io::{Entries, Format, import};
use vexfs_vector::{Database, Effort, Filter, Measure, Options, SearchParams, SpaceConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, file, id] = arguments.as_slice() else {
        return Err("wanted: a directory, a file of vectors (.npy, .fvecs, .jsonl), and an id".into());
    };
    let (file, id) = (Path::new(file), id.parse::<u64>()?);
    let database = Database::open(Path::new(dir), Options::default())?;
    let space = match database.space("vectors") {
        Ok(space) => space,
        Err(vexfs_vector::Error::UnknownSpace(_)) => {
            let first = Entries::read(Format::of(file, 0), &mut open(file)?)?.next();
            let dim = first.ok_or("the file is empty")??.vector.len();
            let space = database.create_space("vectors", SpaceConfig::new(dim, Measure::Cosine))?;
            import(
                &space,
                Format::of(file, dim),
                &mut open(file)?,
                0,
                &mut |progress| {
                    eprintln!("{} vectors", progress.vectors);
                    true
                },
            )?;
            space
        }
        Err(other) => return Err(other.into()),
    };

    let mut query = Vec::new();
    if !space.get(id, &mut query)? {
        return Err(format!("there is no vector {id} among {}", space.len()).into());
    }
    println!("nearest to {id}:");
    for near in space.search(&query, &SearchParams::new(5))? {
        println!("{:>10}  {:.4}", near.id, near.distance);
    }
    // Ids are the caller's, so what belongs together can be numbered together, and searched alone.
    let half = 0..space.len() / 2;
    let params = SearchParams::new(5)
        .effort(Effort::Recall(0.99))
        .filter(Filter::Ranges(std::slice::from_ref(&half)));
    println!("nearest in the first half:");
    for near in space.search(&query, &params)? {
        println!("{:>10}  {:.4}", near.id, near.distance);
    }
    Ok(())
}

fn open(file: &Path) -> std::io::Result<BufReader<File>> {
    Ok(BufReader::new(File::open(file)?))
}
