//! Losses over all pairs never hold the matrix of pairs. The test is alone in its process: other tests would take memory too.

#[path = "common/large_batch.rs"]
mod large_batch;

/// 16,384² similarities are 1 GiB; half of that is the limit for all losses, one after the other.
#[test]
fn a_batch_of_16384_pairs_fits_in_half_of_its_similarities() {
    let (pairs, width) = (16_384, 64);
    let batch = large_batch::Batch::new(pairs, width);
    let Some(before) = large_batch::peak_memory() else {
        eprintln!("skipped: the system does not tell how much memory was used");
        return;
    };
    for loss in large_batch::Loss::ALL {
        let value = large_batch::step(loss, &batch);
        assert!(value.is_finite() && value > 0.0, "{loss:?}: {value}");
        let after = large_batch::peak_memory().expect("it told before");
        let grown = (after - before) >> 20;
        println!("{loss:?}: {grown} MiB so far");
        assert!(grown < 512, "{loss:?} took {grown} MiB");
    }
}
