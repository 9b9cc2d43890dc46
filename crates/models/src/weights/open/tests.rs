use super::super::gguf::Gguf;
use super::super::testing::Crc32;
use super::*;
use crate::weights::fingerprint;

fn written(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

#[test]
fn the_content_decides_and_the_name_does_not() {
    let cases: [(&[u8], &str); 4] = [
        (include_bytes!("../../../tests/fixtures/small.gguf"), "table"),
        (include_bytes!("../../../tests/fixtures/small.safetensors"), "bf16"),
        (include_bytes!("../../../tests/fixtures/small.legacy.pth"), "weight"),
        (include_bytes!("../../../tests/fixtures/small.pt"), "weight"),
    ];
    for (content, tensor) in cases {
        for name in ["model.bin", "model.gguf", "model.safetensors"] {
            let (folder, path) = written(name, content);
            assert!(open(&path).unwrap().shape(tensor).is_some());
            // and so does the folder
            assert!(open(folder.path()).unwrap().load(tensor).is_ok());
        }
    }
}

#[test]
fn other_files_are_named_for_what_they_are() {
    for (content, wanted) in [
        (b"".as_slice(), "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\n <!DOCTYPE html><html>", "web page"),
        (b"\x1f\x8b\x08\0", "compressed"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"{\"a\": 1}", "JSON"),
        (b"hello world", "text that begins with \"hello world\""),
        (b"\x80\x04\x95\x01", "pickle"),
        (b"\x00\x01\xfe", "00 01 fe"),
    ] {
        let (_folder, path) = written("model.safetensors", content);
        let error = open(&path).err().unwrap().to_string();
        assert!(
            error.contains(wanted) && error.contains("model.safetensors"),
            "{error:?} lacks {wanted:?}"
        );
    }
}

#[test]
fn a_folder_must_be_unambiguous() {
    let (folder, _) = written("a.gguf", b"GGUF");
    std::fs::write(folder.path().join("b.gguf"), b"GGUF").unwrap();
    let error = open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("a.gguf, b.gguf"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(
        open(empty.path())
            .err()
            .unwrap()
            .to_string()
            .contains("a folder without weights")
    );
    let missing = open(&empty.path().join("nothing")).err().unwrap();
    assert!(matches!(missing, WeightsError::Io { .. }), "{missing}");
}

#[test]
fn the_fingerprint_is_the_hash_of_the_content() {
    let (folder, path) = written("x.pth", b"abc");
    // the value that BLAKE3's own b3sum prints
    let abc = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
    assert_eq!(fingerprint(&path).unwrap(), abc);
    assert_eq!(fingerprint(folder.path()).unwrap(), abc);
}

/// All tensors of the real encoders against checksums that torch, safetensors and gguf (Python) gave.
#[test]
fn real_encoders_expand_to_the_reference_bits() {
    let Some(models) = std::env::var_os("BIFOCAL_MODELS").map(PathBuf::from) else {
        println!("skipped: BIFOCAL_MODELS does not name a folder of encoders");
        return;
    };
    let expected: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/weights_real.json")).unwrap();
    let crc = |source: &dyn TensorSource, skip: &str| {
        let mut crc = Crc32::new();
        let names: Vec<String> = source.names().into_iter().filter(|name| name != skip).collect();
        for name in &names {
            crc.update(&source.load(name).unwrap().data);
        }
        (names.len() as u64, u64::from(crc.value()))
    };
    let reference = |model: &str| {
        (
            expected[model]["tensors"].as_u64().unwrap(),
            expected[model]["crc32"].as_u64().unwrap(),
        )
    };
    for model in ["efficientnet-lite0", "minilm", "smollm2"] {
        let source = open(&models.join(model)).unwrap();
        assert_eq!(crc(source.as_ref(), ""), reference(model), "{model}");
    }
    let gemma = Gguf::open(&locate(&models.join("gemma3")).unwrap()).unwrap();
    assert_eq!(crc(&gemma, "token_embd.weight"), reference("gemma3"));
    let rows: Vec<u32> = expected["gemma3"]["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r.as_u64().unwrap() as u32)
        .collect();
    let table = gemma.stored_rows("token_embd.weight").unwrap();
    let mut crc = Crc32::new();
    let gathered = table.gather(&rows).unwrap();
    assert_eq!(gathered.shape, [rows.len(), 640]);
    crc.update(&gathered.data);
    assert_eq!(
        u64::from(crc.value()),
        expected["gemma3"]["rows_crc32"].as_u64().unwrap()
    );
}
