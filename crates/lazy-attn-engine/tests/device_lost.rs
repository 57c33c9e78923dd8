//! An executor whose device fails.

mod common;

use common::{RigOptions, gated, read, request, text};
use lazy_attn_engine::{EngineConfig, EngineError};
use lazy_attn_types::ExecError;

#[test]
fn a_lost_device_fails_every_request_whether_it_runs_waits_or_comes_later() {
    let engine = EngineConfig { max_running: 1, ..EngineConfig::default() };
    let rig = gated(RigOptions { engine, ..RigOptions::default() });
    rig.probe.fail_at(1, ExecError::DeviceLost("an illegal address was read".into()));
    let running = rig.handle.submit(request(vec![text("ab")], 5)).unwrap();
    rig.gate.step();
    rig.gate.wait();
    // The first waits behind the one that runs, and the loop has not seen it when the device fails.
    let waiting = rig.handle.submit(request(vec![text("cd")], 5)).unwrap();
    rig.gate.permit();
    for stream in [running, waiting] {
        let Some(EngineError::DeviceLost(message)) = read(stream).failed else { panic!("another failure") };
        for part in ["an illegal address", "restart", "Xid"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    let later = rig.handle.submit(request(vec![text("ef")], 5));
    let ended = later.map_or_else(Some, |stream| read(stream).failed);
    assert!(ended.is_some(), "an engine without a device answers nothing");
    let stats = rig.handle.stats();
    assert_eq!((stats.steps_failed, stats.sched.kv.blocks_leased), (1, 0));
    assert_eq!(rig.probe.num_steps(), 2, "no step runs on a lost device");
}

#[test]
fn another_failure_of_the_executor_leaves_the_engine_running() {
    let rig = common::free(RigOptions::default());
    rig.probe.fail_at(0, ExecError::Failed("once".into()));
    let failed = common::answer(&rig.handle, request(vec![text("ab")], 2)).failed;
    assert!(matches!(failed, Some(EngineError::Executor(_))), "{failed:?}");
    assert_eq!(common::answer(&rig.handle, request(vec![text("ab")], 2)).ids().len(), 2);
}
