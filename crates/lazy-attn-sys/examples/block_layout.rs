//! Prints where the 16-byte groups of a block lie: the rows of a panel are permutations of each other.

use lazy_attn_sys::{BlockLayout, LayoutError};

fn main() -> Result<(), LayoutError> {
    let layout = BlockLayout::new(16, 128)?;
    println!(
        "one KV block: {} tokens x {} elements, {} bytes",
        layout.block_size(),
        layout.head_dim(),
        layout.num_bytes()
    );
    println!("place of each 16-byte group (rows: tokens, columns: groups of 8 elements)\n");
    for slot in 0..layout.block_size() {
        let places =
            (0..layout.head_dim()).step_by(8).map(|dim| format!("{:>4}", layout.byte(slot, dim) / 16));
        println!("token {slot:>2} {}", places.collect::<String>());
    }
    Ok(())
}
