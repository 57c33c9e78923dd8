//! Schedules cover what their plans cover, once, in any cut.

// Helpers outside test functions may unwrap too.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{SHAPE, Scenario, Shape};
use lazy_attn::schedule::{CUT_TOKENS, ClassWork};
use lazy_attn::{Plan, PlanConfig, Schedule, Workers};
use lazy_attn_sys::TileClass;
use lazy_attn_sys::abi::{LAST_OF_PART, LaItem, LaStart, START_BLOCKS, WRITES_OUTPUT};
use lazy_attn_types::BlockSize;

const BLOCK_SIZE: i32 = SHAPE.block_size as i32;

fn scenario() -> Scenario {
    let mut scenario = Scenario::new(Shape { group_size: 4, ..SHAPE }, &[700, 65, 64, 1, 300]);
    for request in 0..9 {
        scenario = scenario.request(
            5 * request,
            &[0, 1, 2, 3, 4][request as usize % 4..],
            20 * request,
            1 + request % 3,
        );
    }
    scenario.request(0, &[4, 4], 0, 150)
}

fn plan_of(scenario: &Scenario) -> Plan {
    let block_size = BlockSize::new(scenario.shape.block_size).unwrap();
    scenario.plan(PlanConfig::cuda(block_size, 128 / scenario.shape.group_size))
}

fn workers(count: u32) -> Workers {
    Workers { per_class: [count, count + 1, count + 2], narrow_tile: 128, group_size: 4 }
}

fn items(schedule: &Schedule) -> impl Iterator<Item = &LaItem> {
    schedule.work.iter().flat_map(|work| &work.items)
}

/// How often each (token, distance to the segment's token 0, block, key) is read.
fn coverage(schedule: &Schedule) -> BTreeMap<(i32, i32, i32, i32), u32> {
    let mut covered = BTreeMap::new();
    for item in items(schedule) {
        for part in &schedule.parts[item.part_begin as usize..item.part_end as usize] {
            for row in &schedule.rows[item.row_begin as usize..item.row_end as usize] {
                for key in part.key_begin..part.key_end {
                    let entry = part.first_block + key / SHAPE.block_size.cast_signed();
                    let block = (schedule.block_ids[entry as usize] & !LAST_OF_PART).cast_signed();
                    *covered.entry((row.token, row.base - part.start, block, key)).or_default() += 1;
                }
            }
        }
    }
    covered
}

#[test]
fn every_key_is_read_once_however_many_workers_there_are() {
    let plan = plan_of(&scenario());
    let whole = coverage(&Schedule::new(&plan, &workers(1)));
    assert!(whole.len() > 10_000 && whole.values().all(|&count| count == 1));
    for count in [2, 3, 7, 16, 33, 500] {
        let schedule = Schedule::new(&plan, &workers(count));
        assert!(coverage(&schedule) == whole, "{count} workers");
        assert!(schedule.parts.iter().all(|part| part.key_begin.cast_unsigned() % CUT_TOKENS == 0));
        let narrow = &schedule.work[0].items;
        let mut parts = narrow.iter().flat_map(|item| item.part_begin..item.part_end);
        assert!(
            parts.all(|part| schedule.parts[part as usize].key_begin.cast_unsigned().is_multiple_of(128))
        );
    }
}

#[test]
fn every_item_belongs_to_one_worker_and_to_the_class_of_its_rows() {
    for count in [1, 2, 5, 40] {
        let schedule = Schedule::new(&plan_of(&scenario()), &workers(count));
        for ((work, class), workers) in schedule.work.iter().zip(TileClass::ALL).zip(workers(count).per_class)
        {
            let ClassWork { items, worker_begin, starts } = work;
            if items.is_empty() {
                continue;
            }
            assert_eq!((worker_begin.len() as u32, starts.len() as u32), (workers + 1, workers));
            assert!(worker_begin.is_sorted() && worker_begin[0] == 0);
            assert_eq!(worker_begin[workers as usize] as usize, items.len());
            assert!(items.iter().all(|item| 4 * (item.row_end - item.row_begin) as u32 <= class.max_rows()));
        }
    }
}

/// The entries a worker reads, part by part.
fn entries_of(schedule: &Schedule, items: &[LaItem]) -> Vec<u32> {
    let parts =
        items.iter().flat_map(|item| &schedule.parts[item.part_begin as usize..item.part_end as usize]);
    let mut entries = Vec::new();
    for part in parts {
        let (first, end) =
            (part.key_begin / BLOCK_SIZE, part.key_end.unsigned_abs().div_ceil(BLOCK_SIZE as u32));
        let range = (part.first_block + first) as usize..(part.first_block + end.cast_signed()) as usize;
        let (last, others) = schedule.block_ids[range.clone()].split_last().unwrap();
        assert!(last & LAST_OF_PART != 0 && others.iter().all(|id| id & LAST_OF_PART == 0));
        entries.extend_from_slice(&schedule.block_ids[range]);
    }
    entries
}

#[test]
fn a_worker_finds_its_blocks_end_to_end_and_what_it_reads_first_in_its_start() {
    for count in [1, 2, 5, 40, 500] {
        let schedule = Schedule::new(&plan_of(&scenario()), &workers(count));
        let mut block_begin = 0;
        for work in &schedule.work {
            for (worker, start) in work.starts.iter().enumerate() {
                let range = [work.worker_begin[worker], work.worker_begin[worker + 1]];
                assert_eq!([start.item_begin, start.item_end], range);
                let items = &work.items[range[0] as usize..range[1] as usize];
                let blocks = &schedule.block_ids[block_begin..block_begin + start.num_blocks as usize];
                assert_eq!(
                    (start.block_begin as usize, blocks),
                    (block_begin, &entries_of(&schedule, items)[..])
                );
                block_begin += blocks.len();
                let LaStart { item, part, row, block_ids, .. } = start;
                let at_hand = blocks.len().min(START_BLOCKS);
                assert_eq!(block_ids[..at_hand], blocks[..at_hand]);
                if let Some(first) = items.first() {
                    assert_eq!(item, first);
                    assert_eq!(part, &schedule.parts[first.part_begin as usize]);
                    assert_eq!(row, &schedule.rows[first.row_begin as usize]);
                }
            }
        }
        assert_eq!(block_begin, schedule.block_ids.len());
    }
}

#[test]
fn every_slot_is_written_once_and_merged_once_by_its_own_token() {
    for count in [1, 2, 5, 40] {
        let schedule = Schedule::new(&plan_of(&scenario()), &workers(count));
        let mut owner = BTreeMap::new();
        let mut finished = BTreeSet::new();
        for item in items(&schedule) {
            let rows = &schedule.rows[item.row_begin as usize..item.row_end as usize];
            for (row, slot) in rows.iter().zip(item.first_slot..) {
                if item.first_slot == WRITES_OUTPUT {
                    assert!(finished.insert(row.token), "token {} is finished twice", row.token);
                } else {
                    assert_eq!(owner.insert(slot, row.token), None, "slot {slot} is written twice");
                }
            }
        }
        assert_eq!(owner.len() as u32, schedule.num_slots);
        for (index, &token) in schedule.merge_tokens.iter().enumerate() {
            let range = schedule.merge_begin[index] as usize..schedule.merge_begin[index + 1] as usize;
            assert!(finished.insert(token), "token {token} is finished twice");
            for slot in &schedule.merge_slots[range] {
                assert_eq!(owner.remove(slot), Some(token), "slot {slot}");
            }
        }
        assert!(owner.is_empty() && finished.len() as u32 == schedule.num_tokens);
    }
}

#[test]
fn workers_have_equal_shares_of_a_long_context() {
    let scenario = Scenario::new(Shape { group_size: 4, ..SHAPE }, &[]).request(0, &[], 64 * 330 - 1, 1);
    let schedule = Schedule::new(&plan_of(&scenario), &workers(33));
    let work = &schedule.work[0];
    let keys = |item: &LaItem| {
        let parts = &schedule.parts[item.part_begin as usize..item.part_end as usize];
        parts.iter().map(|part| part.key_end - part.key_begin).sum::<i32>()
    };
    let shares: Vec<i32> = (0..33)
        .map(|worker| {
            let range = work.worker_begin[worker] as usize..work.worker_begin[worker + 1] as usize;
            work.items[range].iter().map(keys).sum()
        })
        .collect();
    assert!(shares.iter().all(|share| (share - 640).abs() <= 128), "{shares:?}");
}

#[test]
fn prompts_that_come_out_even_are_dealt_whole_longest_first() {
    let mut scenario = Scenario::new(Shape { group_size: 4, ..SHAPE }, &[]);
    for _ in 0..16 {
        scenario = scenario.request(0, &[], 0, 512);
    }
    let schedule = Schedule::new(&plan_of(&scenario), &workers(14));
    assert!(schedule.num_slots == 0 && schedule.merge_tokens.is_empty());
    let work = &schedule.work[2];
    let tiles = |item: &LaItem| {
        let parts = &schedule.parts[item.part_begin as usize..item.part_end as usize];
        parts.iter().map(|part| (part.key_end - part.key_begin + 127) / 128).sum::<i32>()
    };
    let shares = work.worker_begin.windows(2).map(|ends| &work.items[ends[0] as usize..ends[1] as usize]);
    for share in shares {
        let tiles: Vec<i32> = share.iter().map(tiles).collect();
        assert!(tiles.iter().sum::<i32>() == 40 && tiles.is_sorted_by(|a, b| a >= b), "{tiles:?}");
    }
}

#[test]
fn one_long_prompt_item_is_cut_at_tiles() {
    let scenario = Scenario::new(Shape { group_size: 4, ..SHAPE }, &[8192]).request(0, &[0], 0, 32);
    let schedule = Schedule::new(&plan_of(&scenario), &workers(14));
    assert!(schedule.work[2].items.len() == 16 && schedule.num_slots == 16 * 32);
    assert!(schedule.parts.iter().all(|part| part.key_begin % 128 == 0));
}

#[test]
fn an_empty_plan_has_no_work() {
    let schedule = Schedule::new(&plan_of(&Scenario::new(SHAPE, &[5])), &workers(8));
    assert!(schedule.work.iter().all(|work| work.num_workers() == 0) && schedule.merge_tokens.is_empty());
}
