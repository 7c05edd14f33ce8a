//! The value of a vector attribute: raw f32 little endian, a JSON array, or NPY.

use crate::error::{Error, Result};

const NPY_MAGIC: &[u8] = b"\x93NUMPY";

/// Reads a vector in whichever of the three forms it is.
pub(super) fn read(value: &[u8]) -> Result<Vec<f32>> {
    let vector = if value.starts_with(NPY_MAGIC) {
        npy(value)?
    } else if let Some(vector) = json(value) {
        vector?
    } else {
        raw(value)?
    };
    if vector.is_empty() {
        return Err(Error::Invalid(
            "an empty vector, expected at least one component".into(),
        ));
    }
    match vector.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(Error::Invalid(format!("vector component {at} is not finite"))),
        None => Ok(vector),
    }
}

fn raw(value: &[u8]) -> Result<Vec<f32>> {
    let (parts, rest) = value.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Error::Invalid(format!(
            "{} bytes, expected f32 little endian, a JSON array or NPY",
            value.len()
        )));
    }
    Ok(parts.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// A JSON array; `None` where the value is none, as raw numbers may begin with the byte of a bracket too.
fn json(value: &[u8]) -> Option<Result<Vec<f32>>> {
    let text = value.trim_ascii();
    if text.first() != Some(&b'[') || text.last() != Some(&b']') || std::str::from_utf8(text).is_err() {
        return None;
    }
    Some(serde_json::from_slice(text).map_err(|e| Error::Invalid(format!("JSON vector: {e}"))))
}

/// NPY 1.0 to 3.0: one dimension, or one row; `<f4`, `<f8` or `<f2`.
fn npy(value: &[u8]) -> Result<Vec<f32>> {
    let bad = |what: &str| Error::Invalid(format!("NPY vector: {what}"));
    let wide = *value.get(6).ok_or_else(|| bad("cut short"))? >= 2;
    let (start, length) = match (wide, value.get(8..12)) {
        (false, Some(b)) => (10, usize::from(u16::from_le_bytes([b[0], b[1]]))),
        (true, Some(b)) => (12, u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize),
        _ => return Err(bad("cut short")),
    };
    let header = value.get(start..start + length).ok_or_else(|| bad("cut short"))?;
    let header = String::from_utf8_lossy(header);
    let data = &value[start + length..];
    let field = |name: &str| {
        header
            .split_once(&format!("'{name}':"))
            .map(|(_, rest)| rest.trim_start())
    };
    let kind = field("descr")
        .and_then(|rest| rest.split('\'').nth(1))
        .unwrap_or_default();
    let shape = field("shape")
        .and_then(|rest| rest.split(['(', ')']).nth(1))
        .unwrap_or_default();
    let sizes: Vec<usize> = shape.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    if sizes.is_empty() || sizes.iter().rev().skip(1).any(|&n| n != 1) {
        return Err(bad(&format!("shape ({shape}), expected one vector")));
    }
    let vector: Vec<f32> = match kind {
        "<f4" => data
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        "<f8" => data
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b) as f32)
            .collect(),
        _ => return Err(bad(&format!("type {kind:?}, expected <f4 or <f8"))),
    };
    let wanted = sizes[sizes.len() - 1];
    if vector.len() == wanted {
        Ok(vector)
    } else {
        Err(bad(&format!("{} values for shape ({shape})", vector.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy_of(header: &str, data: &[u8]) -> Vec<u8> {
        let mut value = b"\x93NUMPY\x01\x00".to_vec();
        value.extend((header.len() as u16).to_le_bytes());
        value.extend(header.as_bytes());
        value.extend(data);
        value
    }

    #[test]
    fn three_forms_of_one_vector_are_the_same() {
        let raw: Vec<u8> = [1.0f32, -2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
        let double: Vec<u8> = [1.0f64, -2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        let row = "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2), }";
        for value in [
            raw.clone(),
            b" [1, -2.5]\n".to_vec(),
            npy_of(header, &raw),
            npy_of(row, &double),
        ] {
            assert_eq!(read(&value).unwrap(), [1.0, -2.5]);
        }
    }

    #[test]
    fn malformed_values_are_refused() {
        let header = "{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }";
        let matrix = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }";
        let values: [&[u8]; 9] = [
            b"",
            b"abc",
            b"[1, \"a\"]",
            b"[]",
            b"[1e99]",
            &f32::INFINITY.to_le_bytes(),
            b"\x93NUMPY\x01",
            &npy_of(header, &[0; 4]),
            &npy_of(matrix, &[0; 16]),
        ];
        for value in values {
            assert!(matches!(read(value), Err(Error::Invalid(_))), "{value:?}");
        }
    }
}
