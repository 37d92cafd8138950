//! Files made to do harm: none takes more memory than the limits say, and none overflows the stack.
//!
//! The memory is measured by counting what this test allocates, so everything runs in one test, one after the other. The
//! work is measured in allocated bytes, which would be out of all proportion if it grew with the square of the file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use coreml_quant::{DecodeOptions, Error, FoldReason, Model, NotAModel, QuantConfig, quantize_weights};

/// Counts what is allocated, the most there ever was, and all there ever was.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static TOTAL: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        TOTAL.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result of a function and the most memory that it had at a time beyond what there was before.
fn peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = run();
    (result, PEAK.load(Ordering::Relaxed) - before)
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A length-delimited field.
fn field(number: usize, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 16);
    varint(number << 3 | 2, &mut out);
    varint(content.len(), &mut out);
    out.extend_from_slice(content);
    out
}

/// A field inside of others, the outermost first.
fn within(numbers: &[usize], content: Vec<u8>) -> Vec<u8> {
    numbers.iter().rev().fold(content, |content, &number| field(number, &content))
}

const MODEL_NEURAL_NETWORK: usize = 500;
const MODEL_PIPELINE: usize = 202;
const MODEL_TREES: usize = 302;
const NETWORK_LAYERS: usize = 1;
const LAYER_BRANCH: usize = 605;

/// Small values that become large ones, about `len` bytes of each.
fn bombs(len: usize) -> Vec<(&'static str, Vec<u8>)> {
    let repeat = |unit: Vec<u8>| unit.repeat(len / unit.len());
    let layers = |unit: Vec<u8>| within(&[MODEL_NEURAL_NETWORK], repeat(field(NETWORK_LAYERS, &unit)));
    let in_layer = |number: usize, content: Vec<u8>| within(&[MODEL_NEURAL_NETWORK, NETWORK_LAYERS, number], content);
    vec![
        ("layers", layers(Vec::new())),
        ("layers with an empty gru", layers(field(410, &[]))),
        ("layers with an empty LSTM set", layers(within(&[420, 20], Vec::new()))),
        ("layers with empty weights", layers(within(&[140, 20], Vec::new()))),
        ("layers with one-value weights", layers(within(&[140, 20, 1], vec![0; 4]))),
        ("inputs of a layer", within(&[MODEL_NEURAL_NETWORK, NETWORK_LAYERS], repeat(field(2, &[])))),
        ("inputs of one byte", within(&[MODEL_NEURAL_NETWORK, NETWORK_LAYERS], repeat(field(2, b"a")))),
        ("members of a pipeline", within(&[MODEL_PIPELINE], repeat(field(1, &[])))),
        ("weights of a custom layer", in_layer(500, repeat(field(20, &[])))),
        ("a packed shape", in_layer(290, field(1, &vec![1; len]))),
        ("an unpacked shape", in_layer(290, repeat(vec![8, 1]))),
        ("floats one by one", in_layer(290, field(2, &repeat(vec![0x0d, 0, 0, 0, 0])))),
        ("floats in runs of one", in_layer(290, field(2, &repeat(field(1, &[0; 4]))))),
        ("nodes of a tree", within(&[MODEL_TREES, 1], repeat(field(1, &[])))),
        ("leaves with one value", within(&[MODEL_TREES, 1], repeat(field(1, &field(20, &[]))))),
        ("inputs of a model", field(2, &repeat(field(1, &[])))),
        ("metadata", within(&[2, 100], repeat(field(100, &[])))),
        ("attributes of a program", within(&[502], repeat(field(4, &[])))),
        ("unknown fields", repeat(vec![0xf8, 0x7f, 0])),
        ("groups that nobody closes", repeat(vec![0xfb, 0x7f])),
    ]
}

#[test]
fn hostile_files_are_bounded_in_memory_work_and_stack() {
    memory_and_work();
    lengths_that_lie();
    limits_are_options();
    nesting();
    long_names();
    long_chains();
}

fn memory_and_work() {
    let (mut accepted, mut refused) = (0, 0);
    for len in [20_000, 100_000, 2_000_000] {
        for (name, bytes) in bombs(len) {
            let limit = (64 << 20).max(16 * bytes.len());
            let file = Bytes::from(bytes);
            let before = TOTAL.load(Ordering::Relaxed);
            let (result, used) = peak(|| {
                let model = Model::from_bytes(file.clone())?;
                quantize_weights(&model, &QuantConfig::linear(8)?).map(|quantized| quantized.model.to_bytes().len())
            });
            // Decoding stays below the limit; the copy that is quantized and its bytes come on top of it.
            assert!(used <= 3 * limit, "{name} of {len} bytes: {used} bytes of memory");
            let total = TOTAL.load(Ordering::Relaxed) - before;
            assert!(total <= 10 * limit, "{name} of {len} bytes: {total} bytes of memory in all");
            let (decoded, used) = peak(|| Model::from_bytes(file.clone()));
            assert!(used <= limit, "{name} of {len} bytes: {used} bytes of memory to decode");
            match decoded {
                Ok(_) => accepted += 1,
                Err(Error::NotAModel(NotAModel::TooMuchMemory { .. })) => {
                    assert!(used < 10_000, "{name}: {used} bytes before it is refused");
                    refused += 1;
                }
                // The model has no type.
                Err(Error::NotAModel(NotAModel::NoType { .. }))
                    if name == "inputs of a model" || name == "metadata" =>
                {
                    accepted += 1;
                }
                Err(error) => assert!(name.contains("unknown") || name.contains("nobody"), "{name}: {error}"),
            }
            drop(result);
        }
    }
    assert!(accepted > 20 && refused > 5, "{accepted} accepted, {refused} refused");
}

fn lengths_that_lie() {
    for len in [5_usize, 1 << 20, 1 << 31, (1 << 32) + 1, 1 << 62, usize::MAX] {
        for numbers in [&[MODEL_NEURAL_NETWORK][..], &[MODEL_NEURAL_NETWORK, NETWORK_LAYERS, 140, 20]] {
            let (outer, last) = numbers.split_at(numbers.len() - 1);
            let mut lie = Vec::new();
            varint(last[0] << 3 | 2, &mut lie);
            varint(len, &mut lie);
            lie.extend([0; 3]);
            let bytes = within(outer, lie);
            let (result, used) = peak(|| Model::from_bytes(bytes));
            assert!(matches!(result, Err(Error::NotAModel(NotAModel::Damaged { .. }))), "{result:?}");
            assert!(used < 10_000, "{used}");
        }
    }
}

fn limits_are_options() {
    let bytes = within(&[MODEL_NEURAL_NETWORK], field(NETWORK_LAYERS, &[]).repeat(10));
    let decode = |options: &DecodeOptions| Model::from_bytes_with(bytes.clone(), options);
    assert!(decode(&DecodeOptions::new()).is_ok());
    let refused = decode(&DecodeOptions::new().max_memory(5000));
    assert!(
        matches!(refused, Err(Error::NotAModel(NotAModel::TooMuchMemory { needed, limit: 5000 })) if needed > 5000),
        "{refused:?}"
    );
    let len = bytes.len() as u64;
    assert!(decode(&DecodeOptions::new().max_len(len)).is_ok());
    let refused = decode(&DecodeOptions::new().max_len(len - 1));
    assert!(matches!(refused, Err(Error::NotAModel(NotAModel::TooLong { max_len })) if max_len == len - 1));

    // From a file too, even one without an end.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.mlmodel");
    std::fs::write(&path, &bytes).unwrap();
    assert!(Model::open_with(&path, &DecodeOptions::new().max_len(len)).is_ok());
    assert!(Model::open_with(&path, &DecodeOptions::new().max_len(len - 1)).is_err());
    #[cfg(unix)]
    assert!(matches!(
        Model::open_with("/dev/zero", &DecodeOptions::new().max_len(1 << 20)),
        Err(Error::NotAModelFile { what: NotAModel::TooLong { .. }, .. })
    ));
}

/// The deepest nesting that is read, with everything that is done to a model, on the stack of an ordinary thread.
fn nesting() {
    let networks: Vec<usize> = [MODEL_NEURAL_NETWORK]
        .into_iter()
        .chain([NETWORK_LAYERS, LAYER_BRANCH, 1].into_iter().cycle().take(99))
        .collect();
    let pipelines: Vec<usize> = [MODEL_PIPELINE, 1].into_iter().cycle().take(100).collect();
    for (numbers, extra) in [(networks, NETWORK_LAYERS), (pipelines, MODEL_PIPELINE)] {
        let deepest = within(&numbers, Vec::new());
        let (result, used) = std::thread::spawn(move || {
            peak(|| {
                let model = Model::from_bytes(deepest).unwrap();
                let copy = model.clone();
                assert!(copy == model && !format!("{model:?}").is_empty());
                let layers = model.layers().len();
                let quantized = quantize_weights(&model, &QuantConfig::linear(8).unwrap()).map(|q| q.model.to_bytes());
                (layers, quantized.map(|bytes| bytes.len()).ok())
            })
        })
        .join()
        .unwrap();
        assert!(result.0 == 0 || result.0 == 33, "{result:?}");
        assert!(used < 4 << 20, "{used}");
        let deeper = within(&numbers, field(extra, &[]));
        let refused = Model::from_bytes(deeper);
        assert!(matches!(refused, Err(Error::NotAModel(NotAModel::Damaged { .. }))), "{refused:?}");
    }
    // Groups are skipped, not entered.
    let open = [0xfb, 0x7f].repeat(1000);
    let groups = [open, [0xfc, 0x7f].repeat(1000)].concat();
    assert!(matches!(Model::from_bytes(groups), Err(Error::NotAModel(NotAModel::Damaged { .. }))));
}

/// A name of half the file, and many things inside the layer that has it: neither memory nor time for each of them.
fn long_names() {
    let weight = within(&[140], [vec![8, 1, 16, 1], within(&[20, 1], vec![0; 4])].concat());
    for unit in [field(NETWORK_LAYERS, &weight), field(NETWORK_LAYERS, &within(&[LAYER_BRANCH, 1], Vec::new()))] {
        let inner = unit.repeat(5_000);
        let name = field(1, "n".repeat(300_000).as_bytes());
        let branch = within(&[LAYER_BRANCH, 1], inner);
        let bytes = within(&[MODEL_NEURAL_NETWORK, NETWORK_LAYERS], [name, branch].concat());
        let (layers, used) = peak(|| {
            let model = Model::from_bytes(bytes).unwrap();
            let quantized = quantize_weights(&model, &QuantConfig::float16()).unwrap();
            assert!(quantized.report.weights.iter().all(|weight| weight.place.network.len() < 1000));
            model.layers().len()
        });
        assert!(layers > 5_000);
        assert!(used < 100 << 20, "{used} bytes of memory");
    }
}

/// Many layers that want to be folded into one that is long, in its name and in its channels.
fn long_chains() {
    let text = |number: usize, text: String| field(number, text.as_bytes());
    let channels = 20_000_usize;
    let mut product = vec![8, 1, 16];
    varint(channels, &mut product);
    let product = [product, within(&[20, 1], vec![0; 4 * channels])].concat();
    let name = text(1, "n".repeat(1 << 20));
    let first = [name, text(2, "x".into()), text(3, "0".into()), field(140, &product)].concat();
    let mut network = field(NETWORK_LAYERS, &first);
    // A single value each, which fits along any channels.
    for index in 0..3_000 {
        let bias = [vec![0x0a, 1, 1], within(&[2, 1], vec![0; 4])].concat();
        let layer = [text(2, index.to_string()), text(3, (index + 1).to_string()), field(250, &bias)].concat();
        network.extend(field(NETWORK_LAYERS, &layer));
    }
    let bytes = field(MODEL_NEURAL_NETWORK, &network);
    let before = TOTAL.load(Ordering::Relaxed);
    let (model, used) = peak(|| {
        let model = Model::from_bytes(bytes).unwrap();
        quantize_weights(&model, &QuantConfig::linear(8).unwrap()).unwrap()
    });
    let (folds, left) = (&model.report.folds.folds, &model.report.folds.not_folded);
    // As many as may compute 2^24 numbers over these channels.
    assert_eq!((folds.len(), left.len()), ((1_usize << 24).div_ceil(channels), 1));
    assert_eq!(left[0].reason, FoldReason::TooMany);
    assert!(used < 100 << 20, "{used} bytes of memory");
    let total = TOTAL.load(Ordering::Relaxed) - before;
    assert!(total < 10 * (100 << 20), "{total} bytes of memory in all");
}
