//! Random operations on a stack, each compared with a model in memory: the outcome, and then the whole tree with
//! contents, modes, link counts and attributes. With file handles and without, through forgetting and reopening.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

mod compare;
mod model;
mod operation;
mod step;
mod subject;

use proptest::prelude::*;

use compare::compare;
use model::Model;
use operation::{Op, op};
use step::step;
use subject::Subject;

fn run(handles: bool, ops: &[Op]) {
    let (mut model, mut subject) = (Model::new(), Subject::new(handles));
    for op in ops {
        step(&mut model, &mut subject, op);
        compare(&model, &mut subject);
    }
    subject.reopen();
    compare(&model, &mut subject);
    subject.forget();
    assert_eq!(subject.stack.open_files(), 0, "nothing is left open");
    let may = rustix::thread::capabilities(None).unwrap().effective;
    let may = may.contains(rustix::thread::CapabilitySet::DAC_READ_SEARCH);
    assert_eq!(
        subject.stack.uses_handles(),
        handles && may,
        "the test ran in the wrong mode"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stack_is_a_filesystem_by_handle(ops in prop::collection::vec(op(), 1..60)) {
        run(true, &ops);
    }

    #[test]
    fn a_stack_is_a_filesystem_by_name(ops in prop::collection::vec(op(), 1..60)) {
        run(false, &ops);
    }
}
