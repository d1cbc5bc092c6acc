//! Decoding takes no more memory the longer it lasts. The counting allocator needs a process of its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unsafe_code, reason = "test code")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use sgm_models::{AutoMllm, Checkpoint, EosPolicy, GenerateOptions, Generator, Mllm, Padding, Prompt};

/// An allocator that counts the bytes in use, and the most since the count was last taken.
struct Counter;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all memory comes from the system's allocator.
unsafe impl GlobalAlloc for Counter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(in_use, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counter = Counter;

/// The most bytes in use at a time while `work` runs.
fn most(work: impl FnOnce()) -> usize {
    MOST.store(IN_USE.load(Ordering::Relaxed), Ordering::Relaxed);
    work();
    MOST.load(Ordering::Relaxed)
}

#[test]
fn a_thousand_tokens_take_the_memory_of_a_hundred() {
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/text_llama");
    let directory = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixture).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::copy(&file, directory.path().join(file.file_name().unwrap())).unwrap();
    }
    let config = directory.path().join("config.json");
    let longer = std::fs::read_to_string(&config).unwrap().replace("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 2048");
    std::fs::write(&config, longer).unwrap();
    let model = AutoMllm::load(&Checkpoint::open(directory.path()).unwrap()).unwrap();
    let inputs = || model.processor().prompts([&Prompt::Raw { text: "hello".to_owned(), images: Vec::new() }; 2], Padding::Left).unwrap();

    let run = |room: Option<usize>| {
        let mut cache = model.new_cache();
        if let Some(room) = room {
            cache = cache.with_room_for(room);
        }
        model.prefill(&inputs(), &mut cache).unwrap();
        let mut decode = |tokens: usize| most(|| (0..tokens).for_each(|_| drop(model.decode(&[7, 8], &mut cache).unwrap())));
        (decode(100), decode(900))
    };
    // What one step takes for a moment grows with the tokens that it attends to, by kilobytes.
    let slack = 64 << 10;
    // In one thread: each further one takes a buffer for products of matrices when it first has work, which may be late.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let run = |room| alone.install(|| run(room));
    let (first, later) = run(Some(1000));
    assert!(later < first + slack, "{first} bytes for 100 tokens, {later} for 1,000");
    let (first, later) = run(None);
    assert!(later > first + slack, "buffers that had to grow were not noticed: {first} and {later} bytes");

    let options = |max_new_tokens| GenerateOptions { max_new_tokens, eos: EosPolicy::Suppress, ..GenerateOptions::default() };
    let prompt = [Prompt::Raw { text: "hello".to_owned(), images: Vec::new() }];
    let generations = model.generate(&prompt, &options(1000)).unwrap();
    assert_eq!(generations[0].tokens.len(), 1000);
}
