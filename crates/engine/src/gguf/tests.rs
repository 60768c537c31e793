//! Hostile and damaged files: every one ends in an error that says so, none in a panic or a huge allocation.

use std::io::Cursor;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::{Array, Dtype, Error, Header, Value};

/// Writes a GGUF file field by field, right or wrong as the test wants it.
#[derive(Clone)]
struct Maker {
    version: u32,
    entries: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: usize,
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

fn array(code: u32, count: u64, items: &[u8]) -> Vec<u8> {
    [&code.to_le_bytes()[..], &count.to_le_bytes()[..], items].concat()
}

impl Maker {
    fn small() -> Self {
        let words = [text("a"), text("ä"), text("")].concat();
        let nested = [array(4, 1, &7_u32.to_le_bytes()), array(4, 0, &[])].concat();
        Self {
            version: 3,
            entries: vec![
                ("general.architecture".into(), 8, text("llama")),
                ("llama.block_count".into(), 4, 2_u32.to_le_bytes().to_vec()),
                (
                    "llama.rope.freq_base".into(),
                    6,
                    1e5_f32.to_le_bytes().to_vec(),
                ),
                ("flag".into(), 7, vec![1]),
                ("words".into(), 9, array(8, 3, &words)),
                ("types".into(), 9, array(5, 2, &[1, 0, 0, 0, 3, 0, 0, 0])),
                ("nested".into(), 9, array(9, 2, &nested)),
            ],
            tensors: vec![
                ("embed".into(), vec![64, 4], 8, 0),
                ("norm".into(), vec![8], 0, 288),
            ],
            data: 320,
        }
    }

    fn entry(mut self, key: &str, code: u32, bytes: Vec<u8>) -> Self {
        self.entries.push((key.into(), code, bytes));
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], code: u32, offset: u64) -> Self {
        self.tensors
            .push((name.into(), dims.to_vec(), code, offset));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.entries.len() as u64).to_le_bytes());
        for (key, code, value) in &self.entries {
            file.extend(text(key));
            file.extend(code.to_le_bytes());
            file.extend(value);
        }
        for (name, dims, code, offset) in &self.tensors {
            file.extend(text(name));
            file.extend(u32::try_from(dims.len()).unwrap().to_le_bytes());
            for extent in dims {
                file.extend(extent.to_le_bytes());
            }
            file.extend(code.to_le_bytes());
            file.extend(offset.to_le_bytes());
        }
        file.resize(file.len().next_multiple_of(32) + self.data, 0);
        file
    }

    fn read(&self) -> Result<Header, Error> {
        read(&self.bytes())
    }
}

fn read(bytes: &[u8]) -> Result<Header, Error> {
    Header::read(&mut Cursor::new(bytes), bytes.len() as u64)
}

/// The error, with the promise that its text blames the file.
fn blamed(result: Result<Header, Error>) -> Error {
    let error = result.expect_err("a bad file was accepted");
    assert!(error.to_string().contains("damaged or hostile"), "{error}");
    assert_eq!(error.reason(), "ModelDamaged");
    error
}

#[test]
fn a_valid_file_gives_its_metadata_and_absolute_tensor_places() {
    let header = Maker::small().read().unwrap();
    assert_eq!(header.version(), 3);
    assert_eq!(header.str("general.architecture").unwrap(), "llama");
    assert_eq!(header.u32("llama.block_count").unwrap(), 2);
    assert!((header.f32("llama.rope.freq_base").unwrap() - 1e5).abs() < f32::EPSILON);
    assert!(header.bool("flag").unwrap());
    let words: Vec<&str> = header.strings("words").unwrap().iter().collect();
    assert_eq!(words, ["a", "ä", ""]);
    assert_eq!(header.integers("types").unwrap(), [1, 3]);
    let nested = Value::Array(Array::Arrays(vec![
        Array::Unsigned(vec![7]),
        Array::Unsigned(vec![]),
    ]));
    assert_eq!(header.value("nested"), Some(&nested));

    let embed = header.tensor("embed").unwrap();
    assert_eq!(
        (embed.dtype, embed.shape(), embed.len),
        (Dtype::Q8_0, vec![4, 64], 272)
    );
    assert_eq!(embed.offset, header.data_offset());
    let norm = header.tensor("norm").unwrap();
    assert_eq!((norm.offset, norm.len), (header.data_offset() + 288, 32));
    assert!(header.data_offset().is_multiple_of(32));
    assert!(header.find_tensor("output.weight").is_none());
}

#[test]
fn a_missing_key_and_a_wrong_type_name_the_key_and_what_is_needed() {
    let header = Maker::small().read().unwrap();
    let missing = header.u32("llama.context_length").unwrap_err();
    assert_eq!(
        missing.to_string(),
        "model file lacks the metadata \"llama.context_length\""
    );
    let wrong = header.u32("general.architecture").unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "metadata \"general.architecture\" is string, but an unsigned integer is needed"
    );
    assert_eq!(wrong.reason(), "ModelIncomplete");
    assert_eq!(header.optional("absent", Header::u32).unwrap(), None);
    assert!(header.optional("flag", Header::u32).is_err());
}

#[test]
fn what_is_not_a_little_endian_gguf_of_version_2_or_3_is_named() {
    assert!(matches!(
        read(b"PK\x03\x04____________________"),
        Err(Error::NotGguf { .. })
    ));
    let with = |version| {
        Maker {
            version,
            ..Maker::small()
        }
        .read()
    };
    assert!(with(2).is_ok());
    assert!(
        with(1)
            .unwrap_err()
            .to_string()
            .starts_with("not supported yet: GGUF version 1")
    );
    assert!(matches!(
        with(4),
        Err(Error::UnsupportedVersion { version: 4 })
    ));
    assert!(matches!(with(3_u32.swap_bytes()), Err(Error::BigEndian)));
}

#[test]
fn a_file_of_a_hundred_bytes_cannot_announce_gigabytes() {
    let huge = [1 << 13, 1 << 21, 1 << 40, u64::MAX / 8, u64::MAX];
    for count in huge {
        for code in 0..=12_u32 {
            let file = Maker::small().entry("bomb", 9, array(code, count, &[0; 32]));
            blamed(file.read());
        }
        blamed(
            Maker::small()
                .entry("bomb", 8, count.to_le_bytes().to_vec())
                .read(),
        );
        for at in [8, 16] {
            let mut bytes = Maker::small().bytes();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            blamed(read(&bytes));
        }
    }
}

#[test]
fn a_length_that_lies_about_the_file_still_takes_no_more_than_the_limits() {
    let mut bytes = Maker::small().bytes();
    bytes.truncate(64);
    let result = Header::read(&mut Cursor::new(&bytes), u64::MAX);
    assert!(matches!(result, Err(Error::Truncated { .. })), "{result:?}");
    let bomb = Maker::small()
        .entry("bomb", 8, (1_u64 << 60).to_le_bytes().to_vec())
        .bytes();
    let result = Header::read(&mut Cursor::new(&bomb), u64::MAX);
    assert!(
        matches!(result, Err(Error::StringTooLong { .. })),
        "{result:?}"
    );
}

#[test]
fn arrays_nested_without_end_are_refused() {
    let mut bytes = array(4, 0, &[]);
    for _ in 0..10_000 {
        bytes = array(9, 1, &bytes);
    }
    assert!(matches!(
        blamed(Maker::small().entry("deep", 9, bytes).read()),
        Error::TooDeep { .. }
    ));
}

#[test]
fn values_that_are_no_values_are_refused() {
    let with =
        |code, bytes: &[u8]| blamed(Maker::small().entry("odd", code, bytes.to_vec()).read());
    assert!(matches!(
        with(13, &[0; 8]),
        Error::UnknownValueType { code: 13, .. }
    ));
    assert!(matches!(with(7, &[2]), Error::BadBool { byte: 2, .. }));
    assert!(matches!(
        with(8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]),
        Error::NotUtf8 { .. }
    ));
    // Two halves of one character: valid together, each alone is not.
    let halves = [
        &[1, 0, 0, 0, 0, 0, 0, 0, 0xc3][..],
        &[1, 0, 0, 0, 0, 0, 0, 0, 0xa4],
    ]
    .concat();
    assert!(matches!(
        with(9, &array(8, 2, &halves)),
        Error::NotUtf8 { .. }
    ));
    let twice = Maker::small().entry("flag", 7, vec![0]);
    assert!(matches!(blamed(twice.read()), Error::DuplicateKey { .. }));
    for alignment in [0_u32, 3, 33, 1 << 21] {
        let file = Maker::small().entry("general.alignment", 4, alignment.to_le_bytes().to_vec());
        assert!(matches!(blamed(file.read()), Error::BadAlignment { .. }));
    }
}

#[test]
fn impossible_tensors_are_refused() {
    let with =
        |dims: &[u64], code, offset| blamed(Maker::small().tensor("x", dims, code, offset).read());
    assert!(matches!(
        with(&[1 << 32, 1 << 32], 0, 0),
        Error::BadShape { .. }
    ));
    assert!(matches!(with(&[1 << 62], 0, 0), Error::BadShape { .. }));
    assert!(matches!(with(&[0, 4], 0, 0), Error::BadShape { .. }));
    assert!(matches!(
        with(&[], 0, 0),
        Error::BadDimCount { dims: 0, .. }
    ));
    assert!(matches!(
        with(&[1; 5], 0, 0),
        Error::BadDimCount { dims: 5, .. }
    ));
    assert!(matches!(
        with(&[33, 4], 8, 0),
        Error::PartialBlock { row: 33, .. }
    ));
    assert!(matches!(with(&[4], 0, 8), Error::Misaligned { .. }));
    assert!(matches!(with(&[4], 0, 1 << 20), Error::OutsideFile { .. }));
    assert!(matches!(
        with(&[4], 0, u64::MAX - 31),
        Error::OutsideFile { .. }
    ));
    assert!(matches!(with(&[1 << 50], 0, 0), Error::OutsideFile { .. }));
    assert!(matches!(with(&[4], 0, 256), Error::Overlap { .. }));
    assert!(matches!(
        with(&[4], 99, 0),
        Error::UnknownDtype { code: 99, .. }
    ));
    let twice = Maker {
        data: 352,
        ..Maker::small()
    }
    .tensor("norm", &[8], 0, 320);
    assert!(matches!(
        blamed(twice.read()),
        Error::DuplicateTensor { .. }
    ));
    let exotic = Maker::small()
        .tensor("x", &[256], 16, 0)
        .read()
        .unwrap_err();
    assert_eq!(
        exotic.to_string(),
        "not supported yet: number format IQ2_XXS (tensor \"x\")"
    );
    assert_eq!(exotic.reason(), "ModelUnsupported");
}

#[test]
fn a_file_cut_at_any_byte_is_an_error() {
    let bytes = Maker::small().bytes();
    let header = read(&bytes).unwrap();
    let end = header
        .tensors()
        .iter()
        .map(|tensor| tensor.offset + tensor.len)
        .max()
        .unwrap();
    for cut in 0..usize::try_from(end).unwrap() {
        assert!(read(&bytes[..cut]).is_err(), "accepted when cut at {cut}");
    }
    // Padding after the last tensor is not needed.
    assert!(read(&bytes[..usize::try_from(end).unwrap()]).is_ok());
}

/// What an accepted file promises to everybody behind this module.
fn assert_sound(header: &Header, file_len: u64) {
    let mut places: Vec<(u64, u64)> = Vec::new();
    for tensor in header.tensors() {
        let values: u64 = tensor.dims.iter().product();
        assert_eq!(
            tensor.len,
            values / tensor.dtype.block_len() * tensor.dtype.block_bytes()
        );
        assert!(tensor.offset >= header.data_offset() && tensor.offset + tensor.len <= file_len);
        places.push((tensor.offset, tensor.offset + tensor.len));
    }
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0));
}

#[test]
fn fifty_thousand_damaged_files_give_an_error_or_a_sound_header() {
    let original = Maker::small().bytes();
    let head = usize::try_from(read(&original).unwrap().data_offset()).unwrap();
    let mut rng = SmallRng::seed_from_u64(3);
    let mut accepted = 0_u32;
    for _ in 0..50_000 {
        let mut bytes = original.clone();
        for _ in 0..rng.random_range(1..=4) {
            let at = rng.random_range(0..head);
            match rng.random_range(0..3) {
                0 => bytes[at] ^= 1 << rng.random_range(0..8),
                1 => bytes[at] = rng.random(),
                _ => {
                    let word = [u64::MAX, 1 << 63, 1 << 32, 0, 1][rng.random_range(0..5)];
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
                }
            }
        }
        if let Ok(header) = read(&bytes) {
            assert_sound(&header, bytes.len() as u64);
            accepted += 1;
        }
    }
    // Flips in texts and numbers are not visible here; flips in structure are.
    assert!((1_000..45_000).contains(&accepted), "{accepted} accepted");
}

proptest! {
    #[test]
    fn bytes_that_mean_nothing_never_panic(tail in prop::collection::vec(any::<u8>(), 0..512)) {
        let bytes = [b"GGUF\x03\0\0\0".as_slice(), &tail].concat();
        if let Ok(header) = read(&bytes) {
            assert_sound(&header, bytes.len() as u64);
        }
        let _ = read(&tail);
    }

    #[test]
    fn any_shape_is_measured_or_refused(dims in prop::collection::vec(any::<u64>(), 1..5), code in 0_u32..40) {
        if let Ok(header) = Maker::small().tensor("x", &dims, code, 320).read() {
            assert_sound(&header, u64::MAX);
        }
    }
}
