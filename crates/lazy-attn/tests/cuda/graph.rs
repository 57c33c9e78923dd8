//! Plans that change under a captured graph, and plans that run side by side.

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use lazy_attn::cuda::{CudaAttention, DevicePlan, PlanBounds};
use lazy_attn::{Planner, Schedule};
use lazy_attn_types::StepInput;

use crate::common::{LAYER, Rows, Scenario, Shape, cases::SHAPE};
use crate::gpu::{Gpu, Prepared, config, run};

/// Steps of six tokens over documents that lie elsewhere, are longer, or are read by others from one to the next. With one
/// query head per KV head everything is narrow; with eight, a run of three tokens and shared documents are wider.
fn steps(group_size: u32) -> Vec<Scenario> {
    let shape = Shape { group_size, ..SHAPE };
    let few = Scenario::new(shape, &[700, 40]).request(0, &[0, 1], 3, 1).request(90, &[1, 0], 200, 3);
    let few = few.request(7, &[0], 20, 1).request(4, &[0, 1], 64, 1);
    let many = Scenario::new(shape, &[33, 64, 65, 1, 150]).request(5, &[4, 0, 1, 2, 3], 100, 3);
    let many = many.request(70_000, &[4, 3], 1, 1).request(3, &[2], 15, 1).request(9, &[4], 16, 1);
    let longer = Scenario::new(shape, &[3000]).request(0, &[0], 0, 1).request(31, &[0], 900, 3);
    let longer = longer.request(64, &[0], 5, 1).request(100, &[0], 6, 1);
    vec![few, many, longer]
}

/// The second step of a scenario: its schedule, and the bits of keys, values and queries.
struct Step {
    schedule: Schedule,
    rows: [Vec<u16>; 3],
}

impl Step {
    fn of(gpu: &Gpu, scenario: &Scenario) -> Step {
        let (mut schedule, mut rows) = (Schedule::default(), Rows::default());
        scenario.run_steps(config(scenario), |plan, of_step| {
            (schedule, rows) = (gpu.schedule(plan), of_step.clone());
            Vec::new()
        });
        Step { schedule, rows: [&rows.k, &rows.v, &rows.q].map(|values| gpu.bits(values)) }
    }
}

/// Bounds that hold all of `steps`, and more.
fn bounds_of(steps: &[Step]) -> PlanBounds {
    let all: Vec<PlanBounds> = steps.iter().map(|step| PlanBounds::of(&step.schedule)).collect();
    let most = |field: fn(&PlanBounds) -> usize| all.iter().map(field).max().unwrap() + 3;
    PlanBounds {
        tokens: most(|bounds| bounds.tokens),
        items: most(|bounds| bounds.items),
        parts: most(|bounds| bounds.parts),
        rows: most(|bounds| bounds.rows),
        block_ids: most(|bounds| bounds.block_ids),
        merge_slots: most(|bounds| bounds.merge_slots),
        slots: most(|bounds| bounds.slots),
    }
}

/// Captures append, attend and merge once, and runs every step through that graph, again and again.
fn check_graph(scenarios: &[Scenario]) {
    let want: Vec<Vec<u16>> = scenarios.iter().map(|scenario| run(scenario, config(scenario))).collect();
    let largest = scenarios.iter().max_by_key(|scenario| scenario.num_blocks()).unwrap();
    let mut gpu = Gpu::new(largest);
    let steps: Vec<Step> = scenarios.iter().map(|scenario| Step::of(&gpu, scenario)).collect();
    let (device, bounds) = (gpu.device.clone(), bounds_of(&steps));
    let stream = device.stream();
    let mut plan = DevicePlan::new(&device, bounds).unwrap();
    let mut attention = gpu.attention(bounds.slots);
    let mut inputs = [0, 1, 2].map(|index| stream.clone_htod(&steps[0].rows[index]).unwrap());
    let mut out = stream.alloc_zeros::<u16>(inputs[2].len()).unwrap();

    plan.write_for_graph(&device, &steps[0].schedule).unwrap();
    let classes = plan.classes();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let [k, v, q] = &inputs;
    attention.append(&mut gpu.store, LAYER, &plan, k, v).unwrap();
    attention.attend(&gpu.store, LAYER, &plan, q, &mut out).unwrap();
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();

    for round in 0..3 {
        for (index, ((step, scenario), want)) in steps.iter().zip(scenarios).zip(&want).enumerate() {
            gpu.poison();
            gpu.encode(scenario);
            plan.write_for_graph(&device, &step.schedule).unwrap();
            assert_eq!(plan.classes(), classes, "step {index} needs other launches");
            for (input, rows) in inputs.iter_mut().zip(&step.rows) {
                stream.memcpy_htod(rows, input).unwrap();
            }
            stream.memcpy_htod(&vec![0xFFFF; out.len()], &mut out).unwrap();
            graph.launch().unwrap();
            assert!(&stream.clone_dtoh(&out).unwrap() == want, "round {round}, step {index} differs");
        }
    }
}

#[test]
fn a_captured_graph_runs_whatever_plan_was_written_last() {
    check_graph(&steps(1));
    check_graph(&steps(8));
}

#[test]
fn an_empty_step_launches_nothing_and_is_fine() {
    let scenario = Scenario::new(SHAPE, &[5]).request(0, &[0], 0, 1);
    let mut gpu = Gpu::new(&scenario);
    let empty = Planner::new(config(&scenario)).unwrap().plan(&StepInput::default());
    let schedule = gpu.schedule(&empty);
    let device = gpu.device.clone();
    let mut plan = DevicePlan::new(&device, PlanBounds::of(&schedule)).unwrap();
    plan.write(&device, &schedule).unwrap();
    let mut attention = gpu.attention(plan.max_slots());
    let (rows, mut out) = (device.stream().alloc_zeros(8).unwrap(), device.stream().alloc_zeros(8).unwrap());
    let none = rows.slice(0..0);
    attention.append(&mut gpu.store, LAYER, &plan, &none, &none).unwrap();
    attention.attend(&gpu.store, LAYER, &plan, &none, &mut out.slice_mut(0..0)).unwrap();
    assert_eq!(device.stream().clone_dtoh(&out).unwrap(), [0u16; 8]);
}

#[test]
fn a_plan_beyond_the_bounds_of_a_graph_is_refused() {
    let scenarios = steps(1);
    let gpu = Gpu::new(&scenarios[2]);
    let steps: Vec<Step> = scenarios.iter().map(|scenario| Step::of(&gpu, scenario)).collect();
    let bounds = PlanBounds { block_ids: 10, ..bounds_of(&steps) };
    let mut plan = DevicePlan::new(&gpu.device, bounds).unwrap();
    let error = plan.write_for_graph(&gpu.device, &steps[2].schedule).unwrap_err();
    assert!(error.to_string().starts_with("block ids of a plan is"), "{error}");
}

#[test]
fn streams_that_run_different_plans_at_once_do_not_disturb_each_other() {
    let many = (0..12).fold(Scenario::new(SHAPE, &[1500, 700]), |scenario, request| {
        scenario.request(11 * request, &[request as usize % 2, 0], 30 * request, 1 + request % 5)
    });
    let long = Scenario::new(SHAPE, &[2500, 64]).request(3, &[1, 0], 77, 200).request(0, &[0, 1], 9, 1);
    let scenarios = [many, long];
    let want = scenarios.each_ref().map(|scenario| run(scenario, config(scenario)));
    let mut sides: Vec<(Gpu, Prepared)> = scenarios
        .iter()
        .map(|scenario| {
            let mut gpu = Gpu::new(scenario);
            let prepared = gpu.query(scenario);
            (gpu, prepared)
        })
        .collect();
    for round in 0..10 {
        for _ in 0..10 {
            for (gpu, prepared) in &mut sides {
                gpu.launch(prepared);
            }
        }
        for (side, ((gpu, prepared), want)) in sides.iter().zip(&want).enumerate() {
            let got = gpu.device.stream().clone_dtoh(&prepared.out).unwrap();
            assert!(&got == want, "round {round}: stream {side} differs");
        }
    }
}

#[test]
fn packed_rows_give_the_bits_of_separate_ones() {
    for scenario in steps(4) {
        let want = run(&scenario, config(&scenario));
        let mut gpu = Gpu::new(&scenario);
        gpu.encode(&scenario);
        let step = Step::of(&gpu, &scenario);
        let device = gpu.device.clone();
        let mut plan = DevicePlan::new(&device, PlanBounds::of(&step.schedule)).unwrap();
        plan.write(&device, &step.schedule).unwrap();
        let mut attention: CudaAttention = gpu.attention(plan.max_slots());
        let widths = [&step.rows[2], &step.rows[0], &step.rows[1]];
        let num_tokens = plan.num_tokens() as usize;
        let row = |token: usize| {
            widths.iter().flat_map(move |rows| {
                let width = rows.len() / num_tokens;
                rows[token * width..][..width].iter().copied()
            })
        };
        let packed: Vec<u16> = (0..num_tokens).flat_map(row).collect();
        let packed = device.stream().clone_htod(&packed).unwrap();
        let mut out = device.stream().clone_htod(&vec![0xFFFFu16; step.rows[2].len()]).unwrap();
        attention.append_packed(&mut gpu.store, LAYER, &plan, &packed).unwrap();
        attention.attend_packed(&gpu.store, LAYER, &plan, &packed, &mut out).unwrap();
        assert!(device.stream().clone_dtoh(&out).unwrap() == want);
    }
}
