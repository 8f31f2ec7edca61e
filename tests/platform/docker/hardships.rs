//! What goes wrong with pushes, and kills of the platform: users notice nothing, and no container is left or doubled.

use paas::docker::testkit::BaseImage;

use super::Case;
use crate::harness::{Ground, rounds, until};
use crate::kinds::{Work, killed_at_any_moment};
use crate::{failures, interrupts, pushes};

/// One platform, on which two apps at a time have their troubles.
#[test]
fn users_notice_nothing_of_pushes_that_fail_meet_or_are_given_up() {
    let Some(mut case) = Case::new() else { return };
    let ground: &dyn Ground = &case;
    std::thread::scope(|people| {
        people.spawn(|| {
            failures::by_never_binding(ground);
            failures::in_build(ground);
            pushes::two_at_once(ground, "two-pushes");
            interrupts::in_its_boot(ground);
        });
        people.spawn(|| {
            failures::by_crashing_at_boot(ground);
            failures::by_a_crashing_worker(ground);
            failures::in_release_phase(ground);
            failures::by_taking_too_much_memory(ground);
            interrupts::in_its_build(ground);
        });
    });
    case.world.stop();
    until("the end of all containers", || case.instances().is_empty().then_some(()));
}

/// `PAAS_ROUNDS` says how often, `PAAS_SEED` replays the choices.
#[test]
fn whatever_is_under_way_when_the_platform_on_docker_is_killed_is_carried_out_once() {
    let Some(case) = Case::with(&[BaseImage::Busybox], |world| world) else { return };
    let works = &[Work::Push, Work::Rollback, Work::Configure, Work::Scale, Work::Destroy];
    let mut case = killed_at_any_moment(case, works, rounds(5));
    case.world.stop();
    until("the end of all containers", || case.instances().is_empty().then_some(()));
}
