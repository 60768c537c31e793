//! What a quantized file keeps and what it may change, on a tiny model with random weights.

use std::fs;
use std::sync::atomic::AtomicBool;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value as Written;
use proptest::prelude::*;

use super::*;
use crate::testing::Tiny;
use crate::{Engine, EngineOptions};

fn make(model: &Path, format: Format, out: &Path) -> Result<Quantized, Error> {
    quantize(model, format, out, &AtomicBool::new(false), &mut |_, _| ())
}

fn head(path: &Path) -> Header {
    let mut file = File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    Header::read(&mut file, length).unwrap()
}

fn tiny(kind: GgmlDType) -> Tiny {
    Tiny {
        kind,
        ..Tiny::default()
    }
}

fn logits(path: &Path) -> Vec<Vec<f32>> {
    let options = EngineOptions {
        threads: Some(1),
        kv_bytes: 1 << 20,
        ..EngineOptions::default()
    };
    let tokens: Vec<u32> = (0..48).map(|i| 2 + (i * 37 + i * i) % 256).collect();
    Engine::load(path, options)
        .unwrap()
        .evaluate(&tokens, None)
        .unwrap()
}

/// Mean over positions of the sum of p ln(p/q).
fn divergence(parent: &[Vec<f32>], child: &[Vec<f32>]) -> f64 {
    let log_probs = |logits: &[f32]| -> Vec<f64> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let shifted = logits.iter().map(|&logit| f64::from(logit - largest));
        let total: f64 = shifted.clone().map(f64::exp).sum();
        shifted.map(|logit| logit - total.ln()).collect()
    };
    let one = |(parent, child): (&Vec<f32>, &Vec<f32>)| -> f64 {
        let pairs = log_probs(parent).into_iter().zip(log_probs(child));
        pairs.map(|(p, q)| p.exp() * (p - q)).sum()
    };
    let sum: f64 = parent.iter().zip(child).map(one).sum();
    sum / f64::from(u32::try_from(parent.len()).unwrap())
}

#[test]
fn every_format_is_served_and_the_finer_it_is_the_closer_to_its_parent() {
    let parent = tiny(GgmlDType::F32).write();
    let expected = logits(&parent.path);
    let mut found = Vec::new();
    for (format, bound) in BOUNDS {
        let out = parent.path.with_extension(format.name());
        let made = make(&parent.path, format, &out).unwrap();
        assert_eq!(made.warning, None, "the embedding stays as it was");
        let mean = divergence(&expected, &logits(&out));
        println!("{}: mean KL {mean:.2e}, {} bytes", format.name(), made.size);
        assert!((1e-12..bound).contains(&mean), "{}: {mean}", format.name());
        found.push((mean, made.size));
    }
    let finer = found
        .windows(2)
        .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 > pair[1].1);
    assert!(finer, "{found:?}");
}

/// Logits of random weights are nearly flat, so these are far below what a trained model shows (see
/// `tests/quantize.rs`): what was measured (1.8e-6, 2.6e-5, 1.9e-4) times three.
const BOUNDS: [(Format, f64); 3] = [
    (Format::Q8_0, 6e-6),
    (Format::Q5_0, 8e-5),
    (Format::Q4_0, 6e-4),
];

#[test]
fn metadata_and_shapes_are_kept_and_norms_stay_in_f32() {
    let mut tiny = tiny(GgmlDType::F16);
    tiny.extra = vec![
        ("general.file_type".into(), Written::U32(1)),
        (
            "mesh.test".into(),
            Written::Array(vec![Written::U8(7), Written::U8(9)]),
        ),
    ];
    let parent = tiny.write();
    let out = parent.path.with_extension("out");
    let made = make(&parent.path, Format::Q4_0, &out).unwrap();
    let (before, after) = (head(&parent.path), head(&out));
    let keys = |header: &Header| -> Vec<String> {
        let own =
            |key: &String| !key.starts_with("general.file") && !key.starts_with("general.quant");
        header
            .entries()
            .iter()
            .map(|entry| entry.key.clone())
            .filter(own)
            .collect()
    };
    assert_eq!(keys(&before), keys(&after));
    for key in keys(&before) {
        assert_eq!(before.value(&key), after.value(&key), "{key}");
    }
    assert_eq!(after.u64("general.file_type").unwrap(), 2);
    assert_eq!(after.u64("general.quantization_version").unwrap(), 2);
    for (old, new) in before.tensors().iter().zip(after.tensors()) {
        assert_eq!((&old.name, &old.dims), (&new.name, &new.dims));
        let expected = match new.name.as_str() {
            "token_embd.weight" => Dtype::Q8_0,
            name if name.contains("norm") => Dtype::F32,
            _ => Dtype::Q4_0,
        };
        assert_eq!(new.dtype, expected, "{}", new.name);
    }
    let bytes = fs::read(&out).unwrap();
    assert_eq!(made.size, bytes.len() as u64);
    assert_eq!(made.sha256, hex(&Sha256::digest(&bytes)));
    assert_eq!(
        made.parent_sha256,
        hex(&Sha256::digest(fs::read(&parent.path).unwrap()))
    );
    assert_eq!(made.converted, 14);
    // The same input gives the same file: its digest may be pinned.
    let again = make(&parent.path, Format::Q4_0, &out).unwrap();
    assert_eq!(made, again);
}

#[test]
fn rows_that_are_not_whole_blocks_stay_as_they_are() {
    let parent = Tiny {
        feed_forward: 80,
        ..tiny(GgmlDType::BF16)
    }
    .write();
    let out = parent.path.with_extension("out");
    make(&parent.path, Format::Q8_0, &out).unwrap();
    let after = head(&out);
    assert_eq!(
        after.tensor("blk.0.ffn_down.weight").unwrap().dtype,
        Dtype::BF16
    );
    assert_eq!(
        after.tensor("blk.0.ffn_up.weight").unwrap().dtype,
        Dtype::Q8_0
    );
    assert!(divergence(&logits(&parent.path), &logits(&out)) < 1e-3);
}

#[test]
fn quantizing_again_is_said() {
    let parent = tiny(GgmlDType::Q4_1).write();
    let out = parent.path.with_extension("out");
    let made = make(&parent.path, Format::Q4_0, &out).unwrap();
    assert!(
        made.warning
            .is_some_and(|text| text.contains("Q4_1 already"))
    );
    let same = make(&parent.path, Format::Q4_1, &out).unwrap();
    assert_eq!(
        (same.warning, same.converted),
        (None, 0),
        "nothing to do for what has the format"
    );
}

#[test]
fn what_cannot_be_done_right_is_refused_and_leaves_nothing() {
    let parent = tiny(GgmlDType::F32).write();
    let out = parent.path.with_extension("out");
    let refused = |model: &Path, out: &Path| make(model, Format::Q8_0, out).unwrap_err().reason();
    assert_eq!(refused(&parent.path, &parent.path), "InvalidSpec");
    assert_eq!(
        refused(&out, &parent.path.with_extension("x")),
        "ModelUnreadable"
    );
    let mut bytes = fs::read(&parent.path).unwrap();
    let tensor = head(&parent.path)
        .tensor("blk.1.ffn_up.weight")
        .unwrap()
        .clone();
    let at = usize::try_from(tensor.offset).unwrap() + 64;
    for bad in [f32::NAN, f32::INFINITY, 1e30] {
        bytes[at..at + 4].copy_from_slice(&bad.to_le_bytes());
        fs::write(&parent.path, &bytes).unwrap();
        assert_eq!(refused(&parent.path, &out), "ModelDamaged", "{bad}");
    }
    let cut = bytes.len() - 1;
    fs::write(&parent.path, &bytes[..cut]).unwrap();
    assert_eq!(refused(&parent.path, &out), "ModelDamaged");
    let mut split = tiny(GgmlDType::F32);
    split.extra = vec![("split.count".into(), Written::U16(2))];
    let split = split.write();
    assert_eq!(
        refused(&split.path, &split.path.with_extension("out")),
        "NotSupportedYet"
    );
    let left = |path: &Path| fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!((left(&parent.path), left(&split.path)), (1, 1));
    assert_eq!(
        "Q4_K_M".parse::<Format>().unwrap_err().reason(),
        "NotSupportedYet"
    );
    assert_eq!("q8".parse::<Format>().unwrap_err().reason(), "InvalidSpec");
    assert_eq!("Q5_1".parse::<Format>().unwrap(), Format::Q5_1);
}

#[test]
fn a_cancelled_work_and_a_full_disk_leave_nothing() {
    let parent = tiny(GgmlDType::F32).write();
    let out = parent.path.with_extension("out");
    let cancel = AtomicBool::new(false);
    let mut most = 0;
    let cancelled = quantize(
        &parent.path,
        Format::Q8_0,
        &out,
        &cancel,
        &mut |done, total| {
            assert!(done <= total);
            most = total;
            cancel.store(done > total / 2, Ordering::Relaxed);
        },
    );
    assert_eq!(cancelled.unwrap_err().reason(), "Cancelled");
    assert!(most > 0);
    #[cfg(target_os = "linux")]
    {
        let mut beside = out.as_os_str().to_owned();
        beside.push(".part");
        // Every write to this device fails as on a full disk.
        std::os::unix::fs::symlink("/dev/full", beside).unwrap();
        let full = make(&parent.path, Format::Q8_0, &out).unwrap_err();
        assert_eq!(full.reason(), "DiskFull");
    }
    assert_eq!(
        fs::read_dir(parent.path.parent().unwrap()).unwrap().count(),
        1
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_damaged_head_is_refused_or_gives_a_whole_file(
        changes in proptest::collection::vec((0..2_000_usize, any::<u8>()), 1..4),
        cut in 0..60_000_usize,
    ) {
        let parent = Tiny { layers: 1, ..tiny(GgmlDType::F16) }.write();
        let mut bytes = fs::read(&parent.path).unwrap();
        // The directory is what numbers are believed from; it lies behind the vocabulary.
        let start = usize::try_from(head(&parent.path).data_offset()).unwrap() - 1_000;
        for (at, byte) in changes {
            let at = if at < 1_000 { at } else { start + at - 1_000 };
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.saturating_sub(50_000));
        fs::write(&parent.path, &bytes).unwrap();
        let out = parent.path.with_extension("out");
        match make(&parent.path, Format::Q4_0, &out) {
            Ok(made) => prop_assert_eq!(made.size, fs::metadata(&out).unwrap().len()),
            Err(_) => prop_assert!(!out.exists()),
        }
    }
}
