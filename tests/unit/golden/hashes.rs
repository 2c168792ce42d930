//! The shard of a key: XXH3-64 with seed 0, and its top bits. Frozen.

use remora::base::hash::shard_hash;

/// Key, hash, and the shard of 8 and of 256. From the reference implementation; each of its ways
/// for keys of different lengths.
const KEYS: [(&str, usize, u64, u64, u64); 10] = [
    ("a", 1, 0xE6C6_32B6_1E96_4E1F, 7, 230),
    ("key", 1, 0xBBEA_0D63_A051_65E3, 5, 187),
    ("user:1000", 1, 0xFB68_41B2_068C_0C9F, 7, 251),
    ("k", 16, 0x71A9_D9D8_A104_C4D3, 3, 113),
    ("k", 17, 0x04FF_F59D_43A9_EEC1, 0, 4),
    ("k", 128, 0x433C_F1C6_E51E_58E8, 2, 67),
    ("k", 129, 0x9934_1F95_FE4B_04BE, 4, 153),
    ("k", 240, 0xAA79_7E2A_991A_7490, 5, 170),
    ("k", 241, 0x26D4_3597_C334_7BA2, 1, 38),
    ("k", 250, 0xCBE1_7815_4C54_28F3, 6, 203),
];

#[test]
fn a_key_is_of_its_shard() {
    let store = |shards: usize| {
        let geometry = remora::store::Geometry {
            shards: shards as u32,
            slab_bytes: 8 << 10,
            record_bytes_max: 4 << 10,
            evict: true,
        };
        remora::store::Store::with_geometry(geometry, 8 * shards as u32, 1, false, Some((1, 2))).expect("a small store")
    };
    let (eight, many) = (store(8), store(256));
    for (part, times, hash, of_eight, of_many) in KEYS {
        let key = part.repeat(times).into_bytes();
        assert_eq!(shard_hash(&key), hash, "{part} x {times}");
        let shards = [&eight, &many].map(|store| u64::from(store.locate(&key).place.shard()));
        assert_eq!(shards, [of_eight, of_many], "{part} x {times}");
    }
}

/// The table of the page for people who write clients.
#[test]
fn the_page_shows_the_hashes_of_keys() {
    const PAGE: &str = include_str!("../../../docs/CLIENTS.md");
    let (_, behind) = PAGE.split_once("## The shard of a key\n").expect("its heading");
    let (table, _) = behind.split_once("\n## ").expect("the next one");
    let mut rows = 0;
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [_, key, hash, of_eight, of_many, _] = cells[..] else { panic!("{row:?}") };
        let (part, times) = key.split_once(" * ").unwrap_or((key, "1"));
        let is = shard_hash(part.repeat(times.parse().expect("a number")).as_bytes());
        let shown = (format!("{is:016x}"), (is >> 61).to_string(), (is >> 56).to_string());
        assert_eq!(shown, (hash.into(), of_eight.into(), of_many.into()), "{row}");
        rows += 1;
    }
    for (part, times, hash, ..) in KEYS {
        assert!(table.contains(&format!("`{hash:016x}`")), "{part} x {times} is not on the page");
    }
    assert!(rows >= KEYS.len());
}
